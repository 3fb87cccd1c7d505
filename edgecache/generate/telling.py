"""What a program's owner, who sees neither the edge's log nor its clients, is told of a request that failed: a line in its log.

Decides and words; `bridge` knows when a request has failed, `control.logs` keeps the lines.
"""

from __future__ import annotations

import math
import re
from typing import Final

from sandbox import End

RESTING: Final = b"edge: requests are refused for a while: quarantined, because it keeps failing\n"
"""The line in the log of a generator in quarantine; who keeps the log keeps it once, whatever comes."""

_UNTOLD: Final = frozenset({End.FINISHED, End.CANCELLED, End.QUEUE_FULL, End.NO_MEMORY})
"""No line: the program itself did not fail, and a crowd of these would push out what says how it did."""
_MAX_PATH: Final = 200
_RETRY_AFTER: Final = {End.QUEUE_FULL: 1, End.NO_MEMORY: 2}
"""Seconds after which another attempt may well be answered: queues move on, and idle workers make room."""
_REST: Final = re.compile(r"for ([0-9]{1,9}(?:\.[0-9]+)?) s")
"""How long a quarantine lasts still, in the detail of its outcome."""


def failure_line(method: str, target: str, end: End, detail: str) -> bytes | None:
    """The line, for a request that ended so; None where there is none. Queries are left out: they may hold secrets."""
    if end in _UNTOLD:
        return None
    if end is End.QUARANTINED:
        return RESTING
    path = target.partition("?")[0]
    shown = path if len(path) <= _MAX_PATH else path[:_MAX_PATH] + "…"
    line = f"edge: {method} {shown} failed: {end}" + (f": {detail}" if detail else "")
    return line.encode("utf-8", "backslashreplace") + b"\n"


def retry_after(end: End, detail: str) -> int | None:
    """Seconds for Retry-After; None where another attempt promises nothing."""
    if end is End.QUARANTINED and (rest := _REST.fullmatch(detail)):
        return max(1, math.ceil(float(rest[1])))
    return _RETRY_AFTER.get(end)
