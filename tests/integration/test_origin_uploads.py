"""Bodies of requests whose origin goes while they are sent: the exchange fails as such, and nothing is logged for it."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from edgecache.policy.fields import freeze
from edgecache.policy.message import Request
from edgecache.source import SourceError
from edgecache.upstream.endpoint import Endpoint, waits
from edgecache.upstream.http1.origin import OriginClient
from edgecache.upstream.settings import UpstreamSettings
from tests.integration.proxy_support import raw_origin, read_head


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
