"""One finished request as a value, and the protocol of whoever wants to hear of it.

No formatting and no I/O here. `serve` makes one Record a request and gives it to an Observer; `recorder` is the real one.
"""

from __future__ import annotations

import enum
from typing import Final, Protocol

import msgspec

from edgecache.observe.trace_context import TraceParent

HTTP_1: Final = "http/1.1"
HTTP_2: Final = "h2"
"""What clients speak, by their ALPN names (RFC 7301 section 6); http/1.1 stands for HTTP/1.0 too."""


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What happened to one request, fast lane or not. A struct, for it is made at every hit; a dataclass takes far longer."""

    time: float
    """When the request's head had arrived, in seconds since the epoch."""
    request_id: str
    client: str
    """The client's address, without its port."""
    method: str
    uri: str
    """The target URI, query included."""
    protocol: str = HTTP_1
    """`HTTP_1` or `HTTP_2`."""
    status: int
    """Status sent; 499 when the client left before a status was sent."""
    bytes_sent: int
    """Body bytes given to the client's connection, framing excluded."""
    duration: float
    """Seconds from the request's head to the last byte, or to the client's leaving."""
    cache: str
    """What the cache did: one word of `CACHE_WORDS`."""
    site: str
    """Name of the site; empty when no site has the host."""
    generator: str | None = None
    reason: str = ""
    """Why the cache did not answer, or why the source failed: a word from a fixed set, empty when there is none."""
    collapsed: bool = False
    """Whether the answer came from another request's flight."""
    cpu_ns: int = 0
    """CPU time of the generator's VM for this request."""
    parent: TraceParent | None = None
    """What the client said of its trace, where this edge traces."""
    bytes_received: int = 0
    """From the client, after its connection has switched to another protocol."""
    truncated: bool = False
    """The body ended early: the client left, or the source failed after the head was sent."""


CACHE_WORDS = frozenset({"hit", "stale", "revalidated", "miss", "bypass", "error", "none"})
"""hit, stale, revalidated: answered by the cache. miss: fetched, perhaps stored. bypass: not the cache's business.
error: no source could answer. none: ended before the cache was asked. Any other word counts as `other` in metrics."""


class Renewal(enum.StrEnum):
    """Why a stored response was fetched anew without a client waiting for it."""

    STALE = "stale"
    """It answered, though stale (RFC 5861 section 3)."""
    PREFETCH = "prefetch"
    """It is asked for often, and was about to expire."""
    PURGE = "purge"
    """A purge wanted it refreshed."""


class Repeated(Protocol):
    """Hears of requests whose records differ in these four fields only; they are a Record's."""

    def on_request(self, time: float, request_id: str, client: str, duration: float) -> None: ...


class Observer(Protocol):
    """Hears of every finished request and renewal. Called on the event loop: must neither block nor raise."""

    def on_request(self, record: Record) -> None: ...

    def repeated(self, record: Record) -> Repeated:
        """For requests that will have this record, but for what `Repeated` is told of each. Counts nothing by itself."""
        ...

    def on_renewal(self, site: str, why: Renewal, *, done: bool) -> None:
        """A response of `site` was fetched anew in the background; `done`: the source said what is to be stored."""


class NullObserver:
    """Hears nothing: for tests and for embedding."""

    def on_request(self, record: Record) -> None:
        del record

    def repeated(self, record: Record) -> Repeated:
        del record
        return _Unheard()

    def on_renewal(self, site: str, why: Renewal, *, done: bool) -> None:
        del site, why, done


class _Unheard:
    def on_request(self, time: float, request_id: str, client: str, duration: float) -> None:
        del time, request_id, client, duration
