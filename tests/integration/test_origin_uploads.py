"""Requests with bodies: where the origin goes while one is sent the exchange fails as such, and nothing is logged for it; and
nothing of one outlives it."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from edgecache.policy.fields import freeze
from edgecache.policy.message import Request
from edgecache.source import SourceError
from edgecache.upstream.endpoint import Endpoint, waits
from edgecache.upstream.http1.origin import OriginClient
from edgecache.upstream.settings import UpstreamSettings
from tests.integration.aftermath_support import Remains, left_over
from tests.integration.proxy_support import edge_for, raw_origin, read_head


@dataclass
class Ending:
    """A body that ends so many turns of the loop after the origin has gone."""

    turns: int
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"some"
        await self.gone.wait()
        for _ in range(self.turns):
            await asyncio.sleep(0)

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("abort", [True, False])
async def test_a_body_that_ends_as_its_origin_goes_is_no_defect_of_ours(abort: bool, caplog: pytest.LogCaptureFixture) -> None:
    settings = UpstreamSettings()
    client = OriginClient(settings)
    body = Ending(0)

    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        await reader.readexactly(len(b"4\r\nsome\r\n"))
        writer.transport.abort() if abort else writer.close()
        body.gone.set()

    async with raw_origin(leave) as url:
        request = Request("POST", "http", "e", "/", freeze([("Host", "e")]))
        for turns in range(12):
            body = Ending(turns)
            with pytest.raises(SourceError, match="reset"):
                await client.exchange(Endpoint(url), request, body, waits(settings))
    await client.close()
    gc.collect()
    assert [record.getMessage() for record in caplog.records] == []


async def test_nothing_of_a_request_outlives_it_though_its_timers_are_not_due_yet() -> None:
    asked, over = asyncio.Event(), asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        asked.set()
        await over.wait()
        writer.close()

    # The loop drops cancelled timers once they come first: behind one that is due sooner they stay.
    sooner = asyncio.get_running_loop().call_later(30, lambda: None)
    async with raw_origin(silent) as origin, edge_for(origin) as edge:
        with Remains() as remains:
            _reader, writer = await edge.connect()
            writer.write(b"POST / HTTP/1.1\r\nHost: e\r\nContent-Length: 1\r\n\r\nx")
            await asked.wait()
            writer.close()
            assert await left_over(edge, remains) == Counter()
        over.set()
    sooner.cancel()
