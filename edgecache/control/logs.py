"""What generators log: a ring of lines for each, bounded in lines and bytes. In memory, lost at restart, never waits.

The bridge writes while requests run, the API reads. A guest's bytes are hostile: they are decoded and escaped here.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from edgecache.control.settings import LogLimits
from edgecache.generate.telling import RESTING

_LINES_A_WRITE = 256
"""Lines taken of one write; the rest is dropped and counted."""


@dataclass(frozen=True, slots=True)
class LogLine:
    """One line. `seq` counts a generator's lines from 1, `time` is in seconds since the epoch."""

    seq: int
    time: float
    version: int
    request_id: str
    text: str


@dataclass(frozen=True, slots=True)
class LogPage:
    """Lines, oldest first, how many the bounds pushed out so far, and the `after` with which to go on."""

    lines: tuple[LogLine, ...]
    dropped: int
    next: int


@dataclass(slots=True)
class _Ring:
    lines: deque[LogLine] = field(default_factory=deque)
    size_bytes: int = 0
    latest: int = 0
    dropped: int = 0


class GuestLogs:
    """The rings of all generators; that of the generator that was quiet longest is dropped first."""

    def __init__(self, limits: LogLimits, now: Callable[[], float]) -> None:
        self._limits = limits
        self._now = now
        self._rings: OrderedDict[tuple[str, str], _Ring] = OrderedDict()

    def write(self, site: str, generator: str, version: int, request_id: str, data: bytes) -> None:
        """Take one write of a guest: one or more lines, UTF-8 or not. That a generator rests is kept once, whatever is asked."""
        ring = self._rings.setdefault((site, generator), _Ring())
        self._rings.move_to_end((site, generator))
        while len(self._rings) > self._limits.generators:
            self._rings.popitem(last=False)
        if data == RESTING and ring.lines and ring.lines[-1].text == escape(RESTING.rstrip(b"\n"), self._limits.line_bytes):
            return
        now = self._now()
        pieces = data.removesuffix(b"\n").split(b"\n", _LINES_A_WRITE)
        ring.dropped += pieces[_LINES_A_WRITE].count(b"\n") + 1 if len(pieces) > _LINES_A_WRITE else 0
        for piece in pieces[:_LINES_A_WRITE]:
            ring.latest += 1
            line = LogLine(ring.latest, now, version, request_id, escape(piece, self._limits.line_bytes))
            ring.lines.append(line)
            ring.size_bytes += len(line.text)
        while ring.lines and (len(ring.lines) > self._limits.lines or ring.size_bytes > self._limits.bytes):
            ring.size_bytes -= len(ring.lines.popleft().text)
            ring.dropped += 1

    def of(self, site: str, generator: str) -> BoundLog:
        """The log of one generator, as the bridge wants it."""
        return BoundLog(self, site, generator)

    def read(self, site: str, generator: str, *, lines: int, after: int | None = None) -> LogPage:
        """The last `lines` lines; with `after`, the first `lines` of those with a higher seq."""
        ring = self._rings.get((site, generator), _Ring())
        if after is None:
            found = tuple(ring.lines)[-lines:]
            return LogPage(found, ring.dropped, ring.latest)
        # A reader that is ahead has numbers from before a restart: it starts over.
        after = after if after <= ring.latest else 0
        found = tuple(line for line in ring.lines if line.seq > after)[:lines]
        return LogPage(found, ring.dropped, found[-1].seq if found else after)

    def remove(self, site: str, generator: str | None = None) -> None:
        """Forget one generator's lines, or a whole site's."""
        gone = [key for key in self._rings if key[0] == site and generator in (None, key[1])]
        for key in gone:
            del self._rings[key]


@dataclass(frozen=True, slots=True)
class BoundLog:
    """`GuestLogs` for one generator. Implements `generate.bridge.GuestLog`."""

    logs: GuestLogs
    site: str
    generator: str

    def write(self, version: int, request_id: str, data: bytes) -> None:
        self.logs.write(self.site, self.generator, version, request_id, data)


def escape(data: bytes, limit: int) -> str:
    """At most `limit` characters of the line, with nothing in it that a terminal or a log reader would act on."""
    text = data[:limit].decode("utf-8", "backslashreplace")
    safe = "".join(c if c.isprintable() or c == "\t" else c.encode("unicode_escape").decode() for c in text)
    return safe[:limit] + ("…" if len(data) > limit or len(safe) > limit else "")
