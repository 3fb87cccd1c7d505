"""The fast lane: request heads whose answers were hits, byte for byte, and what is needed to answer each of them again.

A remembered head is answered from the same entry, while it is stored, unmarked and fresh, or not at all: nothing is decided here.
No sockets; `connection` asks before it parses, `pipeline` teaches it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

from lru import LRU

from edgecache.observe.record import Record, Repeated
from edgecache.observe.recorder import RepeatedReport
from edgecache.policy.freshness import age_field
from edgecache.policy.prefetch import reserve
from edgecache.serve.guard import Head
from edgecache.serve.request_id import next_id_bytes
from edgecache.serve.shape import is_plain
from edgecache.sites import Route, SiteSnapshot, SiteTable
from edgecache.store import Entry, Store

MAX_HEAD_BYTES: Final = 2 << 10
MAX_BODY_BYTES: Final = 64 << 10
"""Larger bodies are written with back-pressure."""
_ASKING = ("Authorization", "Cache-Control", "Pragma", "Content-Length", "Transfer-Encoding", "Traceparent")
"""Requests with these depend on time, or on who asks; or their bytes do not come again."""
_TAIL: Final = b"\r\n\r\n"
_TAIL_10: Final = b"\r\nConnection: keep-alive\r\n\r\n"
_TEXTS: Final = 1024
_FIXED_BYTES: Final = 1250
"""Objects around one head: the memo's, its counter's and its log line's (measured with tracemalloc)."""


class KnownHead:
    """What the bytes of one head led to. It holds no entry: a memo must not keep bodies alive."""

    __slots__ = (
        "_lifetime",
        "_reserve",
        "_terms",
        "asked",
        "fields",
        "made",
        "own",
        "report",
        "snapshot",
        "standing",
        "tail",
        "target_from",
        "target_to",
        "until",
        "where",
        "whole",
    )

    def __init__(
        self, raw: bytes, head: Head, entry: Entry, snapshot: SiteSnapshot, report: Repeated, *, prefetch: float
    ) -> None:
        # What each hit looks at comes first, for the sake of the processor's cache.
        self.standing = entry.standing
        self.snapshot = snapshot
        self.made = self.until = 0.0
        self.fields = b""
        """Age, Cache-Status and the name of the request ID. Right from `made` until just before `until`, seconds since the epoch.
        """
        self.tail = _TAIL_10 if head.http10 else _TAIL
        self.asked = 0
        """Requests since `fields` was written."""
        self.whole = head.method == "GET"
        self.target_from = self.target_to = 0
        """Where the target stands in the head, if `own` has to be told."""
        self.own: RepeatedReport | None = None
        """`report`, or what it shares with others, where that is the recorder's own class: called directly, without the protocol.
        """
        self.report = report
        if isinstance(report, RepeatedReport):
            start = len(head.method) + 1
            end = raw.find(b" ", start)
            shared = report.but_for(raw[start:end]) if start < end else None
            self.own = report if shared is None else shared
            if shared is not None:
                self.report, self.target_from, self.target_to = shared, start, end
        self.where = (entry.uri, entry.variant)
        self._terms = entry.terms
        self._lifetime = entry.terms.lifetime.seconds
        self._reserve = reserve(entry.terms, entry.timed.response_time, prefetch)

    def renew(self, now: float, texts: Texts) -> bool:
        """Write `fields` for `now`. False: the response is no longer fresh, or its hits are to be counted so that it is fetched
        anew in time."""
        age = self._terms.age(now)
        left = self._lifetime - age
        if left <= self._reserve:
            return False
        self.fields = texts.fields(age_field(age), int(left))
        # Both count whole seconds, but where the lifetime has a fraction, they change at different instants.
        change = min(int(age) + 1, self._lifetime - int(left), self._lifetime - self._reserve)
        self.made, self.until = now, self._terms.born + change
        return True


class Texts:
    """The lines about age and lifetime that answers of one moment share: one object for all that say the same."""

    def __init__(self, member: bytes) -> None:
        self._member = member
        self._texts: dict[tuple[str, int], bytes] = {}

    def fields(self, age: str, left: int) -> bytes:
        """See `KnownHead.fields`; `left` in seconds."""
        text = self._texts.get((age, left))
        if text is None:
            if len(self._texts) >= _TEXTS:
                self._texts.clear()
            text = b"Age: %b\r\nCache-Status: %b; ttl=%d\r\nX-Request-Id: " % (age.encode(), self._member, left)
            self._texts[age, left] = text
        return text


class FastLane:
    """Remembers at most `heads` heads of one scheme, in at most `limit_bytes` with all that is kept about them."""

    def __init__(
        self, *, sites: SiteTable, store: Store, clock: Callable[[], float], member: bytes, heads: int, limit_bytes: int
    ) -> None:
        self._sites = sites
        self._at, self._asked = store.at, store.asked
        self._unsettled: list[Any] = store.unsettled
        self._clock = clock
        self._texts = Texts(member)
        self._heads, self._limit_bytes = heads, limit_bytes
        self._known: dict[bytes, KnownHead] = {}
        # In the order of use, to about a second. One more than may be known: it must not drop what is counted in bytes.
        self._order: LRU[bytes, None] = LRU(heads + 1)
        self._used_bytes = 0
        self.answered = 0

    @property
    def used_bytes(self) -> int:
        return self._used_bytes

    def __len__(self) -> int:
        return len(self._known)

    def answer(self, head: bytes, client: str) -> bytes | None:
        """The answer to a request of exactly these bytes, already reported; None: it takes the usual way."""
        known = self._known.get(head)
        if known is None:
            return None
        entry = known.standing.entry
        if entry is None or known.snapshot is not self._sites.snapshot:
            self._forget(head)
            return None
        now = self._clock()
        if not known.made <= now < known.until and not self._renew(head, known, now):
            return None
        if self._unsettled and self._at(known.where) is not entry:
            self._forget(head)
            return None
        known.asked += 1
        request_id = next_id_bytes()
        parts = [entry.head, known.fields, request_id, known.tail]
        if known.whole:
            parts.append(cast(bytes, entry.body))
        answer = b"".join(parts)
        self.answered += 1
        own = known.own
        if own is not None:
            target = head[known.target_from : known.target_to] if known.target_to else b""
            own.hear(now, request_id, client, self._clock() - now, target)
        else:
            known.report.on_request(now, request_id.decode(), client, self._clock() - now)
        return answer

    def _renew(self, head: bytes, known: KnownHead, now: float) -> bool:
        """As `KnownHead.renew`. About once a second; requests since the last time are then counted as use of the entry."""
        if not known.renew(now, self._texts):
            return False
        self._order.get(head)
        self._at(known.where)
        if known.asked > 1:
            self._asked(known.where, known.asked - 1)
        known.asked = 0
        return True

    def learn(self, raw: bytes, head: Head, entry: Entry, route: Route, observe: Callable[[Record], Repeated]) -> None:
        """Remember that `raw` was answered with `entry`, if its request asks nothing which depends on time, or on who asks."""
        if len(raw) > MAX_HEAD_BYTES or len(entry.body) > MAX_BODY_BYTES or not self._heads or not isinstance(entry.body, bytes):
            return
        if entry.standing.entry is not entry:
            # On disk alone, or gone by now.
            return
        request = head.request
        if head.has_body or not head.keep_alive or not is_plain(request) or any(name in request.headers for name in _ASKING):
            return
        generator = route.generator
        record = Record(
            time=0.0,
            request_id="",
            client="",
            method=head.method,
            uri=entry.uri,
            status=entry.timed.response.status,
            bytes_sent=len(entry.body) if head.method == "GET" else 0,
            duration=0.0,
            cache="hit",
            site=entry.site,
            generator=generator.name if generator else None,
        )
        self._forget(raw)
        self._order[raw] = None
        self._known[raw] = KnownHead(raw, head, entry, self._sites.snapshot, observe(record), prefetch=route.rule.prefetch)
        self._used_bytes += _cost(raw)
        while len(self._known) > self._heads or self._used_bytes > self._limit_bytes:
            oldest = self._order.peek_last_item()
            if oldest is None:
                break
            self._forget(oldest[0])

    def _forget(self, head: bytes) -> None:
        if self._known.pop(head, None) is not None:
            del self._order[head]
            self._used_bytes -= _cost(head)


def _cost(head: bytes) -> int:
    # The target stands in the head, in the entry's URI and in the log line's text.
    return _FIXED_BYTES + 2 * len(head)
