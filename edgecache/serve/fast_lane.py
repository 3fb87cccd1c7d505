"""The fast lane: request heads whose answers were hits, byte for byte, and what is needed to answer each of them again.

A remembered head is answered from the same entry, while it is stored, unmarked and fresh, or not at all: nothing is decided here.
No sockets; `connection` asks before it parses, `pipeline` teaches it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lru import LRU

from edgecache.observe.record import Record, Repeated
from edgecache.policy.freshness import age_field
from edgecache.policy.prefetch import reserve
from edgecache.serve.guard import Head
from edgecache.serve.request_id import next_request_id
from edgecache.serve.shape import is_plain
from edgecache.sites import Route, SiteSnapshot, SiteTable
from edgecache.store import Entry, Store

MAX_HEAD_BYTES: Final = 2 << 10
MAX_BODY_BYTES: Final = 64 << 10
"""Larger bodies are written with back-pressure."""
_ASKING = ("Authorization", "Cache-Control", "Pragma", "Content-Length", "Transfer-Encoding", "Traceparent")
"""Requests with these depend on time, or on who asks; or their bytes do not come again."""
_KEEP_ALIVE_10 = b"Connection: keep-alive\r\n"
_FIXED_BYTES: Final = 1000
"""Objects around one head: the memo's, its counter's and its log line's (measured with tracemalloc)."""


class Known:
    """What the bytes of one head led to. It holds no entry: a memo must not keep bodies alive."""

    __slots__ = (
        "_born",
        "_lifetime",
        "_member",
        "_reserve",
        "fields",
        "made",
        "report",
        "snapshot",
        "tail",
        "terms",
        "until",
        "where",
        "whole",
    )

    def __init__(
        self, head: Head, entry: Entry, snapshot: SiteSnapshot, member: bytes, report: Repeated, *, prefetch: float
    ) -> None:
        self.snapshot = snapshot
        self.where = (entry.uri, entry.variant)
        self.terms = entry.terms
        self.whole = head.method == "GET"
        self.tail = b"\r\n" + (_KEEP_ALIVE_10 if head.http10 else b"") + b"\r\n"
        self.report = report
        self._member = member
        self._lifetime = entry.terms.lifetime.seconds
        self._reserve = reserve(entry.terms, entry.timed.response_time, prefetch)
        self.fields = b""
        """Age, Cache-Status and the name of the request ID, as they read from `made` until before `until`, in seconds."""
        self.made = self.until = 0.0

    def renew(self, now: float) -> bool:
        """Write `fields` for `now`. False: the response is no longer fresh, or hits are counted to fetch it anew in time."""
        age = self.terms.age(now)
        left = self._lifetime - age
        if left <= self._reserve:
            return False
        self.fields = b"Age: %b\r\nCache-Status: %b; ttl=%d\r\nX-Request-Id: " % (age_field(age).encode(), self._member, left)
        # Both count whole seconds, but where the lifetime has a fraction, they change at different instants.
        change = min(int(age) + 1, self._lifetime - int(left), self._lifetime - self._reserve)
        self.made, self.until = now, self.terms.born + change
        return True


class FastLane:
    """At most `heads` heads of one scheme, which take `limit_bytes` with all that is kept about them."""

    def __init__(
        self, *, sites: SiteTable, store: Store, clock: Callable[[], float], member: bytes, heads: int, limit_bytes: int
    ) -> None:
        self._sites = sites
        self._at = store.at
        self._clock = clock
        self._member = member
        self._heads, self._limit_bytes = heads, limit_bytes
        # One more than it may hold: it must not drop by itself what is counted in bytes.
        self._known: LRU[bytes, Known] = LRU(heads + 1)
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
        entry = self._at(known.where)
        if entry is None or entry.terms is not known.terms or entry.marked_stale or known.snapshot is not self._sites.snapshot:
            self._forget(head)
            return None
        now = self._clock()
        if not known.made <= now < known.until and not known.renew(now):
            return None
        request_id = next_request_id()
        answer = b"%b%b%b%b%b" % (  # type: ignore[str-format] # memory holds bytes, and nothing else is learnt
            entry.head, known.fields, request_id.encode(), known.tail, entry.body if known.whole else b""
        )  # fmt: skip
        self.answered += 1
        known.report.on_request(now, request_id, client, self._clock() - now)
        return answer

    def learn(self, raw: bytes, head: Head, entry: Entry, route: Route, observe: Callable[[Record], Repeated]) -> None:
        """Remember that `raw` was answered with `entry`, if its request asks nothing which depends on time, or on who asks."""
        if len(raw) > MAX_HEAD_BYTES or len(entry.body) > MAX_BODY_BYTES or not self._heads or not isinstance(entry.body, bytes):
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
        self._known[raw] = Known(head, entry, self._sites.snapshot, self._member, observe(record), prefetch=route.rule.prefetch)
        self._used_bytes += _cost(raw)
        while len(self._known) > self._heads or self._used_bytes > self._limit_bytes:
            oldest = self._known.peek_last_item()
            if oldest is None:
                break
            self._forget(oldest[0])

    def _forget(self, head: bytes) -> None:
        if self._known.pop(head, None) is not None:
            self._used_bytes -= _cost(head)


def _cost(head: bytes) -> int:
    # The target stands in the head, in the entry's URI and in the log line's text.
    return _FIXED_BYTES + 2 * len(head)
