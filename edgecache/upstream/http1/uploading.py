"""The body of a request on its way to an origin, and when the response head is due. `origin` gives it to aiohttp."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from edgecache.source import Body


class HeadDeadline:
    """The response head is due some time after the last byte of the request, not after its first, nor after a slow connection."""

    def __init__(self, clock: asyncio.Timeout, allowance: float) -> None:
        """`allowance`: seconds."""
        self._clock = clock
        self._allowance = allowance
        self.met = False

    def extend(self) -> None:
        if not self.met and not self._clock.expired():
            self._clock.reschedule(asyncio.get_running_loop().time() + self._allowance)


async def upload(body: Body, deadline: HeadDeadline) -> AsyncIterator[bytes]:
    """It may go on after the response head has come."""
    async for chunk in body:
        deadline.extend()
        yield chunk
