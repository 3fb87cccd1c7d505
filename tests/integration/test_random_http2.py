"""Clients of HTTP/2 that do anything at random before origins that do: no body is another's, nobody waits for ever, nothing is
left."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import random
import re
from collections import Counter
from dataclasses import dataclass, field

import pytest
from h2.errors import ErrorCodes
from h2.exceptions import H2Error
from h2.settings import SettingCodes
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    WindowUpdateFrame,
)

from edgecache.policy.upgrading import Upgradable
from edgecache.serve.http2.connection import Http2Connection
from edgecache.serve.http2.stream import Stream
from edgecache.serve.settings import ServeSettings
from edgecache.serve.upgrading import OpenTunnel
from tests.integration.aftermath_support import (
    Remains,
    defects,
    descriptors,
    descriptors_beyond,
    left_over,
    not_once,
    recorded,
    total,
    wrong_pages,
)
from tests.integration.chaos_support import (
    ANSWER_SECONDS,
    PATHS,
    Asker,
    Chaos,
    Generations,
    chaotic,
    meanwhile,
    meddle,
    requests,
    seeds,
)
from tests.integration.h2_support import Client as Library
from tests.integration.h2_support import Exchange
from tests.integration.proxy_support import read_head

REQUESTS = requests(800)
CLIENTS = 12
FIELDS = (("sec-websocket-version", "13"),)
_FLOODS = ("pings", "priorities", "windows", "continuations", "resets", "empty data", "unknown")


async def read_body(head: bytes, reader: asyncio.StreamReader) -> None:
    """Of a request."""
    if length := re.search(rb"\r\nContent-Length: (\d+)", head):
        await reader.readexactly(int(length[1]))
    elif b"\r\nTransfer-Encoding: chunked" in head:
        while size := int(await reader.readuntil(b"\r\n"), 16):
            await reader.readexactly(size + 2)
        while await reader.readuntil(b"\r\n") != b"\r\n":
            pass


class SwitchingChaos(Chaos):
    """Some of its tunnels are none, or break; what is said through one tells whose it is."""

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await read_head(reader)
            early = self.random.random() < 0.3
            if early and not await self._answer(head, writer):
                return
            await read_body(head, reader)
            if not early and not await self._answer(head, writer):
                return

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> bool:
        if b"Upgrade: websocket" not in head or self.calm:
            return await super()._answer(head, writer)
        key = re.search(rb"\r\nSec-WebSocket-Key: (\S+)\r\n", head)
        accepted = hashlib.sha1((key[1] if key else b"") + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()
        if self.random.random() < 0.2:
            accepted = b"another"
        path = head.split(b" ", 2)[1]
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
            + base64.b64encode(accepted)
            + b"\r\n\r\n"
            + (path + b";") * self.random.choice((1, 1, 5000))
        )
        await writer.drain()
        await asyncio.sleep(self.random.choice((0, 0.003, 0.05)))
        match self.random.randrange(3):
            case 0:
                with contextlib.suppress(OSError):
                    writer.write_eof()
                await asyncio.sleep(0.05)
            case 1:
                writer.transport.abort()
            case _:
                await asyncio.sleep(0.2)
        return False


@dataclass
class Client(Asker):
    """Whatever it is told with 200 is its own."""

    stuck: list[str] = field(default_factory=list)

    async def run(self, requests: int) -> None:
        while requests > 0:
            window = self.random.choice((65_535, 65_535, 1 << 20, 0, 1, 100))
            reader, writer = await asyncio.open_connection(*self.edge.address)
            library = Library(reader, writer, settings={int(SettingCodes.INITIAL_WINDOW_SIZE): window})
            library.authority = "e"
            try:
                requests -= await self._connection(library, window)
            finally:
                await library.close()

    async def _connection(self, library: Library, window: int) -> int:
        """How many requests it has sent."""
        sent = 0
        for _ in range(self.random.randint(1, 5)):
            began = [self._begin(library) for _ in range(self.random.choice((1, 2, 5, 15)))]
            sent += len(began)
            started = [each for each in began if each is not None]
            library.acknowledge = self.random.random() < 0.9
            for _ in range(self.random.choice((0, 0, 1, 3))):
                await asyncio.sleep(self.random.choice((0, 0, 0.002, 0.02)))
                if not self._disturb(library, [exchange for exchange, *_ in started]):
                    return sent
            if not library.acknowledge or window < 1000:
                await asyncio.sleep(0.01)
                self._open(library, [exchange for exchange, *_ in started])
                library.acknowledge = True
            for exchange, method, path, floor in started:
                try:
                    await library.finish(exchange, ANSWER_SECONDS)
                except TimeoutError:
                    self.stuck.append(f"{method} {path}: {exchange}"[:500])
                    return sent
                self._check(exchange, method, path, floor)
            if library.closed.is_set() or library.goaway is not None:
                return sent
        return sent

    def _begin(self, library: Library) -> tuple[Exchange, str, str, int] | None:
        method = self.random.choice(("GET",) * 8 + ("HEAD", "POST", "CONNECT"))
        path = f"/p{self.random.randrange(PATHS)}"
        extra: tuple[tuple[str, str], ...] = self.random.choice(
            ((),) * 8
            + (
                (("range", "bytes=0-9"),),
                (("if-none-match", '"x"'),),
                (("cache-control", "no-cache"),),
                (("te", "trailers"),),
                (("x-large", "z" * 20_000),),
                (("connection", "close"),),
                (("expect", "100-continue"),),
            )
        )
        who = (("cookie", f"who={self.name}"), ("accept-language", self.language))
        floor = self.generations.floor
        try:
            if method == "CONNECT":
                fields = library.head(method, path, who + FIELDS, scheme="http", protocol="websocket")
                exchange = library.begin(fields, end=False)
                if self.random.random() < 0.7:
                    library.h2.send_data(exchange.stream_id, b"hello", end_stream=self.random.random() < 0.5)
            elif method == "POST":
                exchange = library.begin(library.head(method, path, who + extra, scheme="http"), end=False)
                self._body(library, exchange)
            else:
                exchange = library.begin(library.head(method, path, who + extra, scheme="http"))
            library.flush()
        except H2Error:
            return None
        return exchange, method, path, floor

    def _body(self, library: Library, exchange: Exchange) -> None:
        number = exchange.stream_id
        match self.random.randrange(5):
            case 0:
                library.h2.send_data(number, b"abc", end_stream=True)
            case 1:
                library.h2.send_data(number, b"abc", pad_length=200)
                library.h2.send_headers(number, [("x-sum", "1")], end_stream=True)
            case 2:
                library.h2.send_data(number, b"abc")
                library.h2.send_headers(number, [("x-sum", "1"), (":path", "/")], end_stream=True)
            case 3:
                library.h2.send_data(number, b"y" * 16_000)
                library.h2.send_data(number, b"y" * 16_000, end_stream=True)
            case _:
                library.h2.send_data(number, b"abc")
                library.h2.reset_stream(number, ErrorCodes.CANCEL)
                exchange.reset = int(ErrorCodes.CANCEL)

    def _open(self, library: Library, exchanges: list[Exchange]) -> None:
        """Windows that were shut."""
        with contextlib.suppress(H2Error):
            library.h2.increment_flow_control_window(1 << 24)
        for exchange in exchanges:
            with contextlib.suppress(H2Error):
                if not exchange.ended and exchange.reset is None:
                    library.h2.increment_flow_control_window(1 << 24, exchange.stream_id)
        library.flush()

    def _disturb(self, library: Library, exchanges: list[Exchange]) -> bool:
        """False: the connection is of no more use."""
        waiting = [exchange for exchange in exchanges if not exchange.ended and exchange.reset is None]
        match self.random.randrange(12):
            case 0 | 1 | 2 | 3 if waiting:
                for exchange in self.random.sample(waiting, self.random.randint(1, len(waiting))):
                    with contextlib.suppress(H2Error):
                        library.h2.reset_stream(exchange.stream_id, self.random.choice(list(ErrorCodes)))
                        exchange.reset = int(ErrorCodes.CANCEL)
            case 4:
                window = self.random.choice((0, 1, 65_535, 1 << 20))
                with contextlib.suppress(H2Error):
                    library.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: window})
                # It may be told of another one; what was shut is opened for each stream.
                library.acknowledge = False
            case 5:
                library.raw(PriorityFrame(self.random.randrange(1, 50), depends_on=0, stream_weight=9).serialize())
            case 6:
                library.raw(RstStreamFrame(library.h2.highest_outbound_stream_id or 1, error_code=8).serialize())
                for exchange in waiting:
                    if exchange.stream_id == library.h2.highest_outbound_stream_id:
                        exchange.reset = 8
            case 7 if self.random.random() < 0.5:
                library.raw(self._flood(library))
                for exchange in exchanges:
                    # Some floods are about its streams.
                    exchange.reset = exchange.reset if exchange.ended or exchange.reset is not None else 0
                return False
            case 8 if self.random.random() < 0.5:
                library.writer.transport.abort()
                return False
            case 9:
                library.raw(GoAwayFrame(0, last_stream_id=0, error_code=0).serialize())
            case _:
                library.raw(PingFrame(0, opaque_data=b"12345678").serialize())
        library.flush()
        return True

    def _flood(self, library: Library) -> bytes:
        stream = library.h2.highest_outbound_stream_id or 1
        times = self.random.choice((1, 50, 5000))
        match self.random.choice(_FLOODS):
            case "pings":
                return PingFrame(0, opaque_data=b"12345678").serialize() * times
            case "priorities":
                return PriorityFrame(stream, depends_on=0, stream_weight=1).serialize() * times
            case "windows":
                return WindowUpdateFrame(stream, window_increment=self.random.choice((1, (1 << 31) - 1))).serialize() * times
            case "continuations":
                block = library.h2.encoder.encode(library.head(scheme="http"))
                begun = HeadersFrame(stream + 2, data=block, flags=["END_STREAM"]).serialize()
                return begun + ContinuationFrame(stream + 2, data=b"").serialize() * times
            case "resets":
                block = library.h2.encoder.encode(library.head(path="/p1", scheme="http"))
                frames = b""
                for number in range(stream + 2, stream + 2 + 2 * min(times, 1000), 2):
                    frames += HeadersFrame(number, data=block, flags=["END_STREAM", "END_HEADERS"]).serialize()
                    frames += RstStreamFrame(number, error_code=8).serialize()
                return frames
            case "empty data":
                return DataFrame(stream, data=b"").serialize() * times
            case _:
                return b"\x00\x00\x00\xfb\x00\x00\x00\x00\x00" * times

    def _check(self, exchange: Exchange, method: str, path: str, floor: int) -> None:
        """One answer, made after `floor`."""
        if not exchange.ended or not exchange.heads:
            return
        fields = dict(exchange.heads[-1])
        status = exchange.status
        self.told(status, fields)
        body = bytes(exchange.body)
        if method == "CONNECT" and status == 200:
            assert set(body.split(b";")) <= {path.encode(), b""}, body[:100]
            return
        if method in {"HEAD", "CONNECT"}:
            return
        if "content-length" in fields and status not in {204, 304}:
            assert len(body) == int(fields["content-length"])
        if status == 200:
            self.assert_own(path, floor, fields, body)


@pytest.mark.parametrize("seed", seeds(2))
async def test_whatever_goes_wrong_answers_are_their_askers_and_nothing_is_left(
    seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(seed)
    generations = Generations()
    origins = [SwitchingChaos(random.Random(chance.random()), generations) for _ in range(2)]
    settings = ServeSettings(
        h2c=True, keepalive_timeout=1.0, head_timeout=2.0, write_timeout=3.0, body_timeout=2.0, tunnel_idle_timeout=1.0
    )
    with Remains(Stream, Http2Connection, OpenTunnel) as remains:
        async with chaotic(origins, chance, settings, upgrade=(Upgradable.WEBSOCKET,)) as edge:
            before = descriptors()
            clients = [Client(edge, random.Random(chance.random()), f"c{number}", generations) for number in range(CLIENTS)]
            async with meanwhile(meddle(edge, chance, generations)):
                await asyncio.gather(*(client.run(REQUESTS // CLIENTS) for client in clients))
            assert [stuck for client in clients for stuck in client.stuck] == []
            assert await left_over(edge, remains) == Counter()
            assert defects(caplog.records, names=("",)) == []
            assert edge.pipeline._upgrades is not None and not edge.pipeline._upgrades.open_by_site
            statuses = total(client.statuses for client in clients)
            assert statuses[200] > REQUESTS // 8, statuses
            assert not_once(recorded(edge), total(client.complete for client in clients)) == {}
            for origin in origins:
                origin.calm = True
            assert await wrong_pages(edge, PATHS) == []
            await edge.client.close()
            # What is kept to origins, and no more.
            assert await descriptors_beyond(before + 4 * CLIENTS) == 0
