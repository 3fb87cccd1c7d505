"""Connections to the control API on which nothing is asked are ended in time, and are bounded in number.

aiohttp waits for a connection's first request without end, and for each head: whoever reaches the port could use up descriptors
that the edge's clients need. `service` runs it beside its server.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final, NoReturn

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

_LOOK_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class _Rest:
    since: float
    answered: float
    """aiohttp's mark of the last answer: another one begins another rest."""


class IdleWatch:
    """Over the connections of one server."""

    def __init__(self, server: web.Server, *, idle_seconds: float, most: int) -> None:
        """`most`: connections; of more, those that are idle longest are ended."""
        self._server = server
        self._idle_seconds = idle_seconds
        self._most = most
        self._resting: dict[RequestHandler, _Rest] = {}

    async def run(self) -> NoReturn:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(_LOOK_SECONDS, self._idle_seconds / 2))
            self.look(loop.time())

    def look(self, now: float) -> None:
        """`now` as the event loop counts."""
        connections = self._server.connections
        resting: dict[RequestHandler, _Rest] = {}
        for connection in connections:
            if connection._current_request is None:
                answered = connection._next_keepalive_close_time
                known = self._resting.get(connection)
                resting[connection] = known if known is not None and known.answered == answered else _Rest(now, answered)
        self._resting = resting
        oldest = sorted(resting, key=lambda connection: resting[connection].since)
        excess = len(connections) - self._most
        for place, connection in enumerate(oldest):
            if place < excess or now - resting[connection].since > self._idle_seconds:
                connection.force_close()
