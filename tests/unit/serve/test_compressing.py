"""Bodies coded on their way: what a client decodes is what the source sent, and a broken source is never made to look whole."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import zlib
from collections.abc import AsyncIterator

import brotli
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache.policy.coding import Coding
from edgecache.serve.compressing import CodedBody
from edgecache.source import Culprit, SourceError


class Chunks:
    """A body of these chunks, which then breaks if told to."""

    def __init__(self, chunks: list[bytes], *, breaks: bool = False) -> None:
        self._chunks = iter(chunks)
        self._breaks = breaks
        self.closed = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        await asyncio.sleep(0)
        for chunk in self._chunks:
            return chunk
        if self._breaks:
            raise SourceError(Culprit.ORIGIN, "reset")
        raise StopAsyncIteration

    async def close(self) -> None:
        self.closed = True


def decoded(coding: Coding, data: bytes) -> bytes:
    """What can be decoded so far."""
    match coding:
        case Coding.GZIP:
            return zlib.decompressobj(31).decompress(data)
        case Coding.BR:
            return brotli.Decompressor().process(data)
        case Coding.ZSTD:
            return zstandard.ZstdDecompressor().decompressobj().decompress(data)


def whole(coding: Coding, data: bytes) -> bool:
    """Whether the coded stream has its end."""
    match coding:
        case Coding.GZIP:
            stream = zlib.decompressobj(31)
            stream.decompress(data)
            return stream.eof
        case Coding.BR:
            reader = brotli.Decompressor()
            reader.process(data)
            return bool(reader.is_finished())
        case Coding.ZSTD:
            frame = zstandard.ZstdDecompressor().decompressobj()
            frame.decompress(data)
            return frame.eof


repeated = st.builds(lambda piece, times: piece * times, st.binary(min_size=1, max_size=9), st.integers(1, 90_000))
chunks = st.lists(st.binary(max_size=2000) | repeated, max_size=5)


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(Coding), chunks, st.booleans())
def test_decoding_gives_what_was_sent_and_no_chunk_is_empty(coding: Coding, sent: list[bytes], prompt: bool) -> None:
    async def run() -> list[bytes]:
        return [chunk async for chunk in CodedBody(Chunks(sent), coding, prompt=prompt)]

    got = asyncio.run(run())
    assert all(got)
    assert decoded(coding, b"".join(got)) == b"".join(sent)
    assert whole(coding, b"".join(got))


@pytest.mark.parametrize("coding", Coding)
async def test_a_prompt_body_can_be_decoded_chunk_by_chunk(coding: Coding) -> None:
    sent = [b"one " * 30, b"two " * 5000, b"three"]
    body = CodedBody(Chunks(sent), coding, prompt=True)
    got = b""
    for index in range(len(sent)):
        got += await anext(body)
        assert decoded(coding, got) == b"".join(sent[: index + 1])


@pytest.mark.parametrize("coding", Coding)
async def test_a_body_that_breaks_off_is_not_finished(coding: Coding) -> None:
    source = Chunks([b"x" * 100_000], breaks=True)
    body = CodedBody(source, coding, prompt=True)
    got = b""
    with pytest.raises(SourceError, match="reset"):
        async for chunk in body:
            got += chunk
    assert not whole(coding, got)
    await body.close()
    assert source.closed


_FLOWS = """
import random, sys
from edgecache.policy.coding import Coding
from edgecache.serve.compressing import coder

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

text = "".join(random.Random(1).choices("abcdefgh <>/=", k=2 << 20)).encode()
flows = [coder(Coding(sys.argv[1])) for _ in range(20)]
before = resident()
for flow in flows:
    for at in range(0, len(text), 256 << 10):
        flow.feed(text[at : at + (256 << 10)])
print((resident() - before) // len(flows))
"""


@pytest.mark.parametrize("coding", list(Coding))
def test_what_a_slow_client_holds_of_a_coder_is_bounded(coding: Coding) -> None:
    """Every response that is not shared has a coder of its own, for as long as its client likes."""
    took = subprocess.run([sys.executable, "-c", _FLOWS, coding], check=True, capture_output=True, text=True)
    assert int(took.stdout) < 3 << 20
