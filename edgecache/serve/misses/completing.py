"""Completes stored parts with what a source sends of the rest. Decides nothing: `policy.partial` says what belongs together.

`parts` makes one when a 206 brings the bytes that were missing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from edgecache.policy.partial import Held
from edgecache.policy.ranges import ByteSpan
from edgecache.source import Body, Culprit, SourceError


class CompletedBody:
    """The stored bytes before `missing`, the source's, those after. SourceError where the source sends more or less."""

    def __init__(self, parts: Held, missing: ByteSpan, body: Body) -> None:
        self._before = parts.content[: missing[0]]
        self._after = parts.content[missing[0] :]
        self._left = missing[1] - missing[0] + 1
        self._body = body
        self._pieces = self._all()

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._pieces

    async def _all(self) -> AsyncIterator[bytes]:
        if self._before:
            yield self._before
        async for chunk in self._body:
            self._left -= len(chunk)
            if self._left < 0:
                raise SourceError(Culprit.ORIGIN, "protocol", "more bytes than its Content-Range says")
            yield chunk
        if self._left:
            raise SourceError(Culprit.ORIGIN, "protocol", "fewer bytes than its Content-Range says")
        if self._after:
            yield self._after

    async def close(self) -> None:
        await self._body.close()
