"""Where a response comes from when the cache has none: an origin or a generator, behind one protocol.

`upstream` and `generate` implement it, `serve` calls it. Errors name their culprit: the caller chooses status and fallback.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from edgecache.policy.message import Request, Response


class Culprit(enum.StrEnum):
    """Whose fault a failure is."""

    CLIENT = "client"
    ORIGIN = "origin"
    GENERATOR = "generator"
    EDGE = "edge"


class SourceError(Exception):
    """A source gave no complete response.

    `reason` is a word from a fixed set ("connect", "tls", "timeout", "reset", "protocol", "unhealthy", "breaker-open",
    "overloaded", or a `sandbox.outcome.End`), the same in logs, metrics and Cache-Status; `status` is what a client gets when
    nothing else can answer; `retry`: another origin may be tried; `retry_after`: seconds after which the client may try again,
    where that helps.
    """

    def __init__(
        self,
        culprit: Culprit,
        reason: str,
        detail: str = "",
        *,
        status: int = 502,
        retry: bool = False,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(f"{culprit}: {reason}" + (f": {detail}" if detail else ""))
        self.culprit = culprit
        self.reason = reason
        self.detail = detail
        self.status = status
        self.retry = retry
        self.retry_after = retry_after


UNREACHABLE = frozenset({"connect", "tls", "timeout", "reset", "unhealthy", "breaker-open", "overloaded"})
"""Reasons of a SourceError for which nothing of a response has come: the source is out of reach."""

Interim = Callable[[Response], None]
"""Told of an interim (1xx) response that comes before the answer; neither waits nor raises."""


Trailers = Callable[[], tuple[tuple[str, str], ...]]
"""The trailer fields of a body that has ended (RFC 9110 section 6.5)."""


class Body(Protocol):
    """A response body on its way: iterate it once, or close it. An early end raises SourceError, never looks like success."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def close(self) -> None:
        """Stop the producer; idempotent."""


@runtime_checkable
class TrailedBody(Body, Protocol):
    """A request's body, which trailers may follow."""

    @property
    def trailers(self) -> Trailers | None:
        """None: its framing has no place for them."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A response head that has arrived, and the body that follows."""

    response: Response
    body: Body
    detail: str = ""
    """For Cache-Status `detail=`: what produced it."""
    trailers: Trailers | None = None
    """Where the request said that they are wanted."""


@dataclass(frozen=True, slots=True)
class Whole:
    """A response that has come, body and all."""

    response: Response
    body: bytes
    detail: str = ""
    """As a Reply's."""


class Begun(Protocol):
    """A request that a source is answering while no task waits for it. It ends by `settle` or `drop`, or in what `rest` gives."""

    def whole(self) -> Whole | None:
        """The answer, where all of it has come and it needs no second thought."""

    def settle(self) -> None:
        """`whole` is made use of: count it."""

    def drop(self) -> None:
        """Nobody wants it; without effect where it has ended."""

    def rest(self) -> Source:
        """A source whose first answer is the one to this request."""


class Source(Protocol):
    """Produces responses. Raises SourceError."""

    async def fetch(self, request: Request, body: Body | None, request_id: str, on_interim: Interim | None = None) -> Reply: ...

    def begin(self, request: Request, request_id: str, told: Callable[[], None], on_interim: Interim) -> Begun | None:
        """As `fetch` begins, for a GET without a body, where that takes no waiting. None: nothing has been done.

        `told` is called once, later, when the answer is there as a whole, or has to be waited for in a task.
        """


First = Callable[[Request, str, Interim | None], Awaitable[Reply]]
"""As `Source.fetch` of a request without a body."""


class Resumed:
    """`source`, but its first answer is what `first` gives: that to a request which has begun. All others are `source`'s own."""

    def __init__(self, source: Source, first: First) -> None:
        self._source = source
        self._first: First | None = first

    async def fetch(self, request: Request, body: Body | None, request_id: str, on_interim: Interim | None = None) -> Reply:
        first, self._first = self._first, None
        if first is None:
            return await self._source.fetch(request, body, request_id, on_interim)
        return await first(request, request_id, on_interim)

    def begin(self, request: Request, request_id: str, told: Callable[[], None], on_interim: Interim) -> Begun | None:
        return self._source.begin(request, request_id, told, on_interim)
