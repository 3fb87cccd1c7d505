"""An HTTP/2 client of the h2 library over a real TLS socket, and an edge that it can talk to. Nothing is faked."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trustme
from aiohttp import web
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    DataReceived,
    Event,
    InformationalResponseReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes
from multidict import CIMultiDict, CIMultiDictProxy

from edgecache.serve.accepting.certificates import CertificateFiles, Certificates
from edgecache.serve.accepting.listener import Listener
from edgecache.serve.settings import ServeSettings
from tests.integration.proxy_support import Edge, Got, edge_for, origin_of

NAME = "shop.test"
Pairs = tuple[tuple[str, str], ...]


@dataclass
class Exchange:
    """One request's stream as the client sees it."""

    stream_id: int
    heads: list[list[tuple[str, str]]] = field(default_factory=list)
    """Interim heads, then the final one."""
    body: bytearray = field(default_factory=bytearray)
    trailers: list[tuple[str, str]] | None = None
    reset: int | None = None
    ended: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def status(self) -> int:
        return int(dict(self.heads[-1])[":status"])

    @property
    def got(self) -> Got:
        pairs = [(name, value) for name, value in self.heads[-1] if not name.startswith(":")]
        return Got(self.status, CIMultiDictProxy(CIMultiDict(pairs)), bytes(self.body))


class Client:
    """One connection. `acknowledge`: give back the window for what arrives, as clients that read do."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, settings: dict[int, int] | None = None
    ) -> None:
        self.h2 = H2Connection(
            H2Configuration(
                client_side=True,
                header_encoding="utf-8",
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self._reader, self.writer = reader, writer
        self._held = b""
        self.acknowledge = True
        self.streams: dict[int, Exchange] = {}
        self.goaway: int | None = None
        self.last_stream: int | None = None
        self.closed = asyncio.Event()
        self.authority = NAME
        if settings:
            self.h2.update_settings({SettingCodes(code): value for code, value in settings.items()})
            self.h2.clear_outbound_data_buffer()
            self.h2.local_settings.acknowledge()
        self.h2.initiate_connection()
        self.flush()
        self._task = asyncio.create_task(self._read())

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def raw(self, data: bytes) -> None:
        """Bytes past the library."""
        self.flush()
        self.writer.write(data)

    def head(self, method: str = "GET", path: str = "/", fields: Pairs = (), **pseudo: str) -> list[tuple[str, str]]:
        named = {"method": method, "scheme": "https", "authority": self.authority, "path": path, **pseudo}
        return [*((f":{name}", value) for name, value in named.items()), *((name.lower(), value) for name, value in fields)]

    def begin(self, fields: list[tuple[str, str]], *, end: bool = True) -> Exchange:
        stream_id = self.h2.get_next_available_stream_id()
        exchange = self.streams[stream_id] = Exchange(stream_id)
        self.h2.send_headers(stream_id, fields, end_stream=end)
        self.flush()
        return exchange

    async def send(self, exchange: Exchange, data: bytes, *, end: bool = False) -> None:
        """DATA, as far as the windows let it."""
        rest = data
        while rest or end:
            room = min(self.h2.local_flow_control_window(exchange.stream_id), self.h2.max_outbound_frame_size)
            if rest and room <= 0:
                await asyncio.sleep(0.002)
                if exchange.reset is not None or self.closed.is_set():
                    raise ConnectionResetError
                continue
            piece, rest = rest[:room], rest[room:]
            self.h2.send_data(exchange.stream_id, piece, end_stream=end and not rest)
            self.flush()
            if not rest:
                return
            await asyncio.sleep(0)

    async def finish(self, exchange: Exchange, seconds: float = 20.0) -> Exchange:
        """Wait until the stream has ended, one way or another."""
        async with asyncio.timeout(seconds):
            while not exchange.ended and exchange.reset is None and not self.closed.is_set():
                exchange.changed.clear()
                await exchange.changed.wait()
        return exchange

    async def fetch(
        self, path: str = "/", method: str = "GET", *, headers: Pairs = (), body: bytes | None = None, **pseudo: str
    ) -> Exchange:
        exchange = self.begin(self.head(method, path, headers, **pseudo), end=body is None)
        if body is not None:
            await self.send(exchange, body, end=True)
        return await self.finish(exchange)

    async def ended(self, seconds: float = 20.0) -> int | None:
        """Wait for the connection's end; the code of its GOAWAY."""
        async with asyncio.timeout(seconds):
            await self.closed.wait()
        return self.goaway

    async def close(self) -> None:
        self._task.cancel()
        self.writer.transport.abort()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(1 << 16):
                for event in self.h2.receive_data(self._without_goaway(data)):
                    self._on(event)
                self.flush()
        except (OSError, ssl.SSLError):
            pass
        finally:
            self.closed.set()
            for exchange in self.streams.values():
                exchange.changed.set()

    def _without_goaway(self, data: bytes) -> bytes:
        """Whole frames. The library takes GOAWAY for the end of all streams, so it is read here."""
        self._held += data
        frames: list[bytes] = []
        while len(self._held) >= 9 and len(self._held) >= (end := 9 + int.from_bytes(self._held[:3], "big")):
            frame, self._held = self._held[:end], self._held[end:]
            if frame[3] == 7:
                self.last_stream, self.goaway = int.from_bytes(frame[9:13], "big"), int.from_bytes(frame[13:17], "big")
            else:
                frames.append(frame)
        return b"".join(frames)

    def _on(self, event: Event) -> None:
        exchange = self.streams.get(getattr(event, "stream_id", 0) or 0)
        if exchange is None:
            return
        match event:
            case ResponseReceived() | InformationalResponseReceived():
                exchange.heads.append([_text(pair) for pair in event.headers])
            case TrailersReceived():
                exchange.trailers = [_text(pair) for pair in event.headers]
            case DataReceived():
                exchange.body += event.data
                if self.acknowledge:
                    self.h2.acknowledge_received_data(event.flow_controlled_length or 0, exchange.stream_id)
            case StreamEnded():
                exchange.ended = True
            case StreamReset():
                exchange.reset = int(event.error_code or ErrorCodes.NO_ERROR)
            case _:
                pass
        exchange.changed.set()


def _text(pair: Any) -> tuple[str, str]:
    return str(pair[0]), str(pair[1])


class Authority:
    """A test authority with one certificate, for NAME."""

    def __init__(self, directory: Path) -> None:
        self._ca = trustme.CA()
        issued = self._ca.issue_cert(NAME)
        chain, key = directory / "chain.pem", directory / "key.pem"
        chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        self.files = CertificateFiles((NAME, "*"), chain, key)

    def save(self, path: Path) -> None:
        """The authority's own certificate, for clients that want it in a file."""
        path.write_bytes(self._ca.cert_pem.bytes())

    def client(self, *protocols: str) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self._ca.configure_trust(context)
        context.set_alpn_protocols(protocols or ("h2", "http/1.1"))
        return context


@dataclass
class Secure:
    """An edge's TLS listener."""

    edge: Edge
    listener: Listener
    address: tuple[str, int]
    authority: Authority
    clients: list[Client] = field(default_factory=list)

    async def connect(self, settings: dict[int, int] | None = None) -> Client:
        reader, writer = await asyncio.open_connection(*self.address, ssl=self.authority.client(), server_hostname=NAME)
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        client = Client(reader, writer, settings=settings)
        self.clients.append(client)
        return client

    async def http1(self, data: bytes) -> bytes:
        """Everything that is said to `data` over HTTP/1.1 and TLS."""
        context = self.authority.client("http/1.1")
        reader, writer = await asyncio.open_connection(*self.address, ssl=context, server_hostname=NAME)
        writer.write(data)
        try:
            async with asyncio.timeout(20):
                return await reader.read(-1)
        finally:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def secure(edge: Edge, authority: Authority) -> AsyncIterator[Secure]:
    """`edge`, over TLS too."""
    listener = Listener(edge.pipeline, Certificates([authority.files]))
    address = await listener.start()
    serving = Secure(edge, listener, address, authority)
    try:
        yield serving
    finally:
        await asyncio.gather(*(client.close() for client in serving.clients))
        await listener.close()


@contextlib.asynccontextmanager
async def secure_edge(directory: Path, *origins: str, **options: Any) -> AsyncIterator[Secure]:
    """An edge for these origins, over TLS."""
    async with edge_for(*origins, **options) as edge, secure(edge, Authority(directory)) as serving:
        yield serving


BIG = bytes(range(256)) * 4096
PAGE = bytes(1000)
LARGE = bytes(60_000)


@contextlib.asynccontextmanager
async def big_edge(directory: Path, settings: ServeSettings | None = None) -> AsyncIterator[Secure]:
    """An edge whose origin has a large page, a slow one, and one that takes what it is sent."""

    async def answer(request: web.BaseRequest) -> web.Response:
        if request.path == "/slow":
            await asyncio.sleep(60)
        if request.path == "/refuses-to-read":
            await asyncio.sleep(0.3)
            return web.Response(body=b"done")
        if request.method == "POST":
            size = 0
            async for chunk in request.content.iter_any():
                size += len(chunk)
            return web.Response(text=str(size))
        body = {"/big": BIG, "/page": PAGE, "/large": LARGE}.get(request.path, b"small")
        cache = "no-store" if request.path.startswith("/miss") else "max-age=600"
        return web.Response(body=body, headers={"Cache-Control": cache, "X-Padding": "p" * (len(body) % 4096)})

    async with origin_of(answer) as origin, secure_edge(directory, origin.url, settings=settings) as serving:
        yield serving


def head_block(client: Client, fields: list[tuple[str, str]]) -> bytes:
    return client.h2.encoder.encode(fields)
