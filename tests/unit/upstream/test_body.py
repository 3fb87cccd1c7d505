"""Request bodies that can be sent again, as long as they are short."""

from __future__ import annotations

from collections.abc import AsyncIterator

from edgecache.upstream.http1.body import EmptyBody, ReplayableBody


class Chunks:
    def __init__(self, *chunks: bytes) -> None:
        self._chunks = list(chunks)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self._chunks:
            raise StopAsyncIteration
        return self._chunks.pop(0)

    async def close(self) -> None:
        return


async def everything(body: ReplayableBody | EmptyBody) -> bytes:
    return b"".join([chunk async for chunk in body])


async def test_a_short_body_is_replayed_from_any_point() -> None:
    body = ReplayableBody(Chunks(b"ab", b"cd", b"ef"), 100)
    assert await anext(body) == b"ab"
    assert body.rewind()
    assert await everything(body) == b"abcdef"
    assert body.rewind()
    assert await everything(body) == b"abcdef"


async def test_a_long_body_passes_once() -> None:
    body = ReplayableBody(Chunks(b"ab", b"cd", b"ef"), 3)
    assert await everything(body) == b"abcdef"
    assert not body.rewind()


async def test_the_empty_body_is_empty() -> None:
    assert await everything(EmptyBody()) == b""
