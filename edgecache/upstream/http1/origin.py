"""One exchange with one origin: the HTTP/1.1 client and its connections, for all sites. Whom to ask is `origins`' matter.

Sends method, target and values as they are given, follows nothing, keeps no cookies, decompresses nothing.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from aiohttp.connector import Connection
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.http_writer import StreamWriter
from lru import LRU
from yarl import URL

from edgecache.policy.fields import freeze
from edgecache.policy.message import Request
from edgecache.policy.trailing import following
from edgecache.policy.upstream import HealthRule
from edgecache.source import Body, Culprit, Interim, SourceError, TrailedBody, Trailers
from edgecache.upstream.choosing.health import expected
from edgecache.upstream.endpoint import Endpoint, Waits
from edgecache.upstream.http1.beginning import Kit
from edgecache.upstream.http1.begun import REQUEST_TIMEOUT, SentRequest
from edgecache.upstream.http1.bodiless import BodilessExchanges
from edgecache.upstream.http1.origin_protocol import OriginConnector, OriginProtocol, Preface, preface
from edgecache.upstream.http1.proxy_header import ProxyHeader, encode, socket_address
from edgecache.upstream.http1.request_head import is_bodiless
from edgecache.upstream.http1.response import OriginResponse, unusable_field
from edgecache.upstream.http1.trailed_writer import TrailedWriter
from edgecache.upstream.http1.trailers import TrailerReader
from edgecache.upstream.http1.trust import Trust, TrustError
from edgecache.upstream.http1.uploading import HeadDeadline, upload
from edgecache.upstream.http1.way import Way
from edgecache.upstream.http1.whole import WholeResponse
from edgecache.upstream.resolving import Clock, Lookup, Resolver
from edgecache.upstream.settings import UpstreamSettings

_RETIRE_SECONDS = 0.5
_WAYS = 1024
_SKIPPED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
"""What aiohttp would add by itself."""
_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""As in `response`."""


@dataclass(slots=True)
class _Exact:
    """What aiohttp's own request has no place for. It also stands where aiohttp asks a URL for its path: yarl drops an empty
    query's `?`."""

    raw_path_qs: str
    method: str
    on_interim: Interim | None
    deadline: HeadDeadline | None
    trailers: TrailerReader | None
    following: Trailers | None
    """What follows the request's body."""

    def forget(self) -> None:
        """The exchange is over. The loop keeps a cancelled timer until it would have been due, and with it the context that it
        was made in. This is in there, and would keep the client's connection."""
        self.on_interim = self.deadline = self.trailers = self.following = None


_exact: ContextVar[_Exact] = ContextVar("_exact")


class _ExactRequest(aiohttp.ClientRequest):
    """Writes method and target as the client sent them."""

    _following: Trailers | None = None

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        exact = _exact.get()
        url = self.url
        self.method = exact.method
        self.url = cast(URL, exact)
        self._following = exact.following
        if exact.deadline is not None:
            exact.deadline.extend()
        if isinstance(conn.protocol, OriginProtocol):
            conn.protocol.on_interim = exact.on_interim
            conn.protocol.trailers = exact.trailers
        try:
            return await super().send(conn)
        finally:
            self.url = url

    async def write_bytes(self, writer: AbstractStreamWriter, conn: Connection, content_length: int | None = None) -> None:
        if self._following is not None and isinstance(writer, StreamWriter):
            writer = TrailedWriter(writer, self._following)
        # That the connection goes before the end of the body is heard by whoever reads the answer, if not all of it has come.
        with suppress(ConnectionResetError):
            await super().write_bytes(writer, conn, content_length)


class OriginClient:
    """Open it inside the event loop, close it at the end."""

    def __init__(self, settings: UpstreamSettings, *, clock: Clock | None = None, lookup: Lookup | None = None) -> None:
        """`clock` and `lookup` are of names' addresses; the loop's time and the system's resolver, where they are not given."""
        self.settings = settings
        clock = clock or asyncio.get_running_loop().time
        self._resolver = Resolver(ttl=settings.dns_ttl, keep=settings.dns_keep, clock=clock, lookup=lookup)
        self.trust = Trust()
        self._connectors: list[OriginConnector] = []
        self._pooled = self._session(settings.max_connections, settings.max_connections_per_origin, reuse=True)
        self._bodiless = BodilessExchanges(self._connectors[0], settings)
        self._ways: LRU[tuple[str, ssl.SSLContext | bool, str], Way] = LRU(_WAYS)
        self._introduced = self._session(settings.max_connections, settings.max_connections_per_origin, reuse=False)
        # Probes have connections of their own: an origin whose connections are all in use must not look as if it were down.
        self._probing = self._session(settings.max_connections, 0, reuse=False)

    def _session(self, limit: int, limit_per_host: int, *, reuse: bool) -> aiohttp.ClientSession:
        settings = self.settings
        kept: dict[str, Any] = {"keepalive_timeout": settings.keepalive_timeout} if reuse else {"force_close": True}
        connector = OriginConnector(
            limit=limit,
            limit_per_host=limit_per_host,
            resolver=self._resolver,
            use_dns_cache=False,
            enable_cleanup_closed=False,
            **kept,
        )
        self._connectors.append(connector)
        return aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=_SKIPPED,
            request_class=_ExactRequest,
            read_bufsize=settings.read_buffer_bytes,
            max_line_size=settings.max_head_line_bytes,
            max_field_size=settings.max_head_line_bytes,
            max_headers=settings.max_head_fields,
        )

    async def retire(self, within_seconds: float | None) -> None:
        """Close it once no exchange is under way any more, or when the time is up (None: it never is), or when this is cancelled:
        nobody begins another."""
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(within_seconds):
                    while any(connector.busy for connector in self._connectors):  # noqa: ASYNC110 - aiohttp tells nobody
                        await asyncio.sleep(_RETIRE_SECONDS)
        finally:
            await self.close()

    async def close(self) -> None:
        await self._pooled.close()
        await self._introduced.close()
        await self._probing.close()
        await self._resolver.close()

    def kit(self) -> Kit:
        """What requests without bodies are begun with, on kept connections."""
        return self._bodiless.kit(self._default_way)

    async def exchange(
        self,
        endpoint: Endpoint,
        request: Request,
        body: Body | None,
        waits: Waits,
        *,
        on_interim: Interim | None = None,
        trailers: TrailerReader | None = None,
        begun: SentRequest | None = None,
    ) -> OriginResponse | WholeResponse:
        """One attempt at one origin, up to its response head, which is usable. Raises SourceError.

        A 101 is usable where the request asks for an upgrade. `begun`: what `begin` has made of the same request.
        """
        if begun is not None and begun.whole is not None and begun.whole.status != REQUEST_TIMEOUT:
            return begun.whole
        response = await self._exchange(
            endpoint, request, waits, body=body, on_interim=on_interim, trailers=trailers, begun=begun
        )
        if isinstance(response, WholeResponse):
            return response
        bad = unusable_field(response.headers)
        least = 101 if "Upgrade" in request.headers else 200
        if bad is not None or _BAD_VALUE.search(response.reason or "") or not least <= response.status <= 599:
            response.close()
            raise SourceError(
                Culprit.ORIGIN, "protocol", f"unusable field {bad!a}" if bad else f"unusable status {response.status}"
            )
        return response

    async def probe(self, endpoint: Endpoint, rule: HealthRule) -> bool:
        """One health check, on a connection of its own."""
        url = URL(endpoint.url)
        fields = freeze([("Host", rule.host or url.raw_authority), ("User-Agent", "edgecache-health"), ("Accept", "*/*")])
        request = Request("GET", url.scheme, rule.host or url.raw_authority, rule.path, fields)
        try:
            async with asyncio.timeout(rule.timeout):
                waits = Waits(rule.timeout, rule.timeout, rule.timeout)
                response = await self._exchange(endpoint, request, waits, probing=True)
        except (TimeoutError, SourceError):
            return False
        response.close()
        return expected(rule, response.status)

    async def _exchange(
        self,
        endpoint: Endpoint,
        request: Request,
        waits: Waits,
        *,
        body: Body | None = None,
        on_interim: Interim | None = None,
        trailers: TrailerReader | None = None,
        probing: bool = False,
        begun: SentRequest | None = None,
    ) -> OriginResponse | WholeResponse:
        try:
            context = await self.trust.context(endpoint.tls) if endpoint.own_tls else True
            if body is None and not (probing or endpoint.proxy_protocol) and is_bodiless(request):
                way = self._way(endpoint, context)
                # Another origin may have been asked before, by the same task.
                preface.set(None)
                connecting = _connecting(waits.connect)
                return await self._bodiless.exchange(
                    way, request, connecting, waits.first_byte, on_interim=on_interim, trailers=trailers, begun=begun
                )
            version = endpoint.proxy_protocol
            session = self._probing if probing else self._introduced if version else self._pooled
            preface.set(_introduction(version, "" if probing else _client(request)) if version else None)
            async with asyncio.timeout(waits.connect + waits.first_byte) as clock:
                deadline = HeadDeadline(clock, waits.first_byte)
                exact = _Exact(request.target, request.method, on_interim, deadline, trailers, _following(request, body))
                _exact.set(exact)
                try:
                    response = await session.request(
                        request.method,
                        URL(endpoint.url.rstrip("/") + request.target, encoded=True),
                        headers=request.headers,
                        data=None if body is None else upload(body, deadline),
                        allow_redirects=False,
                        timeout=_connecting(waits.connect),
                        ssl=context,
                        server_hostname=endpoint.tls.server_name or None,
                    )
                finally:
                    exact.forget()
                deadline.met = True
                return response
        except TrustError as error:
            raise SourceError(Culprit.ORIGIN, "tls", str(error), retry=True) from error
        except TimeoutError as error:
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                raise SourceError(Culprit.ORIGIN, "connect", "timed out", status=504, retry=True) from error
            raise SourceError(Culprit.ORIGIN, "timeout", "no response head in time", status=504) from error
        except aiohttp.ClientSSLError as error:
            raise SourceError(Culprit.ORIGIN, "tls", _first_line(error), retry=True) from error
        except aiohttp.ClientConnectorError as error:
            raise SourceError(Culprit.ORIGIN, "connect", str(error), retry=True) from error
        except (aiohttp.ClientResponseError, HttpProcessingError, ValueError) as error:
            raise SourceError(Culprit.ORIGIN, "protocol", _first_line(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(cause := _upload_error(error), SourceError):
                raise cause from error
            raise SourceError(Culprit.ORIGIN, "reset", _first_line(error)) from error

    def _default_way(self, endpoint: Endpoint) -> Way:
        return self._way(endpoint, True)

    def _way(self, endpoint: Endpoint, context: ssl.SSLContext | bool) -> Way:
        known = endpoint.url, context, endpoint.tls.server_name
        way = self._ways.get(known)
        if way is None:
            way = self._ways[known] = Way(URL(endpoint.url), context, endpoint.tls.server_name or None)
        return way


@lru_cache(1024)
def _connecting(seconds: float) -> aiohttp.ClientTimeout:
    """There are few: one for each value that some site names."""
    return aiohttp.ClientTimeout(total=None, connect=seconds, sock_connect=seconds)


def _introduction(version: int, client: str) -> Preface:
    """The PROXY protocol's header. Of the client its address is known, of where it connected to only where this edge leads."""

    def begin(host: str, port: int) -> bytes:
        source, destination = socket_address(client), socket_address(host, port)
        return encode(ProxyHeader(source, destination) if source and destination else None, version)

    return begin


def _client(request: Request) -> str:
    """Whom this edge has put at the end of X-Forwarded-For; no address where it asks for itself."""
    return ",".join(request.headers.getall("X-Forwarded-For", ())).rpartition(",")[2]


def _following(request: Request, body: Body | None) -> Trailers | None:
    """The trailers of a body that is sent chunked, as far as the request has promised them; None: there will be none."""
    if not isinstance(body, TrailedBody) or body.trailers is None or "Trailer" not in request.headers:
        return None
    found = body.trailers
    return lambda: following(request, found())


def _upload_error(error: BaseException) -> BaseException | None:
    cause: BaseException | None = error
    for _ in range(8):
        if cause is None or isinstance(cause, SourceError):
            break
        cause = cause.__cause__
    return cause


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
