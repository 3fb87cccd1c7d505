"""A call to a generator while no task waits for its answer. Where the program ends well, and at once, all of it is taken as one.

`bridge` makes them, and goes on with those that turn out otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from edgecache.generate import cgi
from edgecache.policy.forwarding import dated
from edgecache.sites import ActiveVersion
from edgecache.source import Source, Whole
from sandbox import End, Outcome, Usage

BODILESS: Final = frozenset({204, 304})
"""Statuses of responses that have no content (RFC 9110 section 6.4.1)."""


class GuestAnswer(Protocol):
    """An answer in the making: `sandbox.GuestCall` is one. Iterate once; iteration raises GuestFailed."""

    heard: Callable[[], None] | None

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None while it runs."""

    def __aiter__(self) -> GuestAnswer: ...

    async def __anext__(self) -> bytes: ...

    def whole(self) -> bytes | None:
        """All of the output, if the request has ended well and nothing has been read of it. It can be read afterwards all the
        same."""

    def close(self) -> None:
        """End the request if it has not ended. Idempotent."""

    async def aclose(self) -> None:
        """As `close`."""


class Caller(Protocol):
    """Whoever has called the program: `bridge.GeneratorSource`."""

    @property
    def now(self) -> Callable[[], float]: ...

    @property
    def on_usage(self) -> Callable[[str, End, Usage], None]: ...

    def going_on(self, begun: BegunCall) -> Source:
        """A source whose first answer is what comes of `begun`."""


class BegunCall:
    """A `source.Begun`."""

    __slots__ = ("_call", "_caller", "_looking", "_loop", "_over", "_told", "_version")

    def __init__(self, caller: Caller, call: GuestAnswer, version: ActiveVersion, told: Callable[[], None]) -> None:
        self._caller = caller
        self._call = call
        self._version = version
        self._told: Callable[[], None] | None = told
        self._over = False
        self._looking = False
        self._loop = asyncio.get_running_loop()
        if call.outcome is None:
            call.heard = self._hear
        else:
            self._hear()

    def _hear(self) -> None:
        # Of a short answer the end comes in the same turn of the loop as its only piece, a little later.
        if not self._looking:
            self._looking = True
            self._loop.call_soon(self._look)

    def _look(self) -> None:
        told, self._told = self._told, None
        self._call.heard = None
        if told is not None:
            told()

    def whole(self) -> Whole | None:
        """As `Begun.whole`; None also for what is no answer, or one without a body."""
        output = self._call.whole()
        if output is None:
            return None
        try:
            answer = cgi.parse(output)
        except cgi.BadAnswer:
            return None
        if answer is None or answer.length not in (None, len(answer.rest)) or answer.response.status in BODILESS:
            return None
        return Whole(dated(answer.response, self._caller.now()), answer.rest, self._version.key)

    def settle(self) -> None:
        self._end(End.FINISHED)

    def drop(self) -> None:
        self._end(End.CANCELLED)

    def _end(self, end: End) -> None:
        if self._over:
            return
        self._over = True
        self._told = self._call.heard = None
        self._call.close()
        outcome = self._call.outcome
        self._caller.on_usage(self._version.key, end, outcome.usage if outcome is not None else Usage())

    def rest(self) -> Source:
        return self._caller.going_on(self)

    def taken(self) -> tuple[GuestAnswer, ActiveVersion]:
        """Hand the call, and with it the duty to end it, over to the caller, with the version that answers it."""
        self._over = True
        self._told = self._call.heard = None
        return self._call, self._version
