"""Origins as a `source.Source`: one pooled HTTP/1.1 client for all sites, a thin view of it for each list of base URLs.

Sends method, target and values as they are given, follows nothing, keeps no cookies, decompresses nothing. `serve` calls it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import cast

import aiohttp
from aiohttp.connector import Connection
from yarl import URL

from edgecache.policy.message import Request, Response
from edgecache.policy.trailing import wants_trailers
from edgecache.source import Body, Culprit, Interim, Reply, SourceError
from edgecache.upstream.body import EmptyBody, OriginBody, ReplayableBody
from edgecache.upstream.ejection import Ejection
from edgecache.upstream.origin_protocol import OriginConnector, OriginProtocol
from edgecache.upstream.settings import UpstreamSettings
from edgecache.upstream.trailers import TrailerReader

_BODILESS = frozenset({204, 304})
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110 section 9.2.2: may be sent again where no answer has begun."""
_SKIPPED = ("User-Agent", "Accept", "Accept-Encoding", "Content-Type")
"""What aiohttp would add by itself."""
_BAD_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""RFC 9110 section 5.5: never forwarded, whoever let it in."""


@dataclass(frozen=True, slots=True)
class _Exact:
    """What aiohttp's own request has no place for. It also stands where aiohttp asks a URL for its path: yarl drops an empty
    query's `?`."""

    raw_path_qs: str
    method: str
    on_interim: Interim | None
    trailers: TrailerReader | None


_exact: ContextVar[_Exact] = ContextVar("_exact")


class _ExactRequest(aiohttp.ClientRequest):
    """Writes method and target as the client sent them."""

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        exact = _exact.get()
        url = self.url
        self.method = exact.method
        self.url = cast(URL, exact)
        if isinstance(conn.protocol, OriginProtocol):
            conn.protocol.on_interim = exact.on_interim
            conn.protocol.trailers = exact.trailers
        try:
            return await super().send(conn)
        finally:
            self.url = url


class OriginClient:
    """The connection pool behind all `Origins`. Open it inside the event loop, close it at the end."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self.settings = settings
        self.ejection = Ejection(settings.ejection_failures, settings.ejection_time)
        self._session = aiohttp.ClientSession(
            connector=OriginConnector(
                limit=settings.max_connections,
                limit_per_host=settings.max_connections_per_origin,
                keepalive_timeout=settings.keepalive_timeout,
                ttl_dns_cache=int(settings.dns_ttl),
                enable_cleanup_closed=False,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            skip_auto_headers=_SKIPPED,
            request_class=_ExactRequest,
            timeout=aiohttp.ClientTimeout(total=None, connect=settings.connect_timeout, sock_connect=settings.connect_timeout),
            read_bufsize=settings.read_buffer_bytes,
            max_line_size=settings.max_head_line_bytes,
            max_field_size=settings.max_head_line_bytes,
            max_headers=settings.max_head_fields,
        )

    def origins(self, base_urls: tuple[str, ...]) -> Origins:
        return Origins(self, base_urls)

    async def close(self) -> None:
        await self._session.close()

    async def exchange(
        self,
        base: str,
        request: Request,
        body: Body | None,
        on_interim: Interim | None = None,
        trailers: TrailerReader | None = None,
    ) -> aiohttp.ClientResponse:
        """One attempt at one origin, up to its response head. Raises SourceError."""
        settings = self.settings
        _exact.set(_Exact(request.target, request.method, on_interim, trailers))
        try:
            async with asyncio.timeout(settings.connect_timeout + settings.first_byte_timeout) as clock:
                deadline = _HeadDeadline(clock, settings.first_byte_timeout)
                response = await self._session.request(
                    request.method,
                    URL(base.rstrip("/") + request.target, encoded=True),
                    headers=request.headers,
                    data=None if body is None else _upload(body, deadline),
                    allow_redirects=False,
                )
                deadline.met = True
                return response
        except TimeoutError as error:
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                raise SourceError(Culprit.ORIGIN, "connect", "timed out", status=504, retry=True) from error
            raise SourceError(Culprit.ORIGIN, "timeout", "no response head in time", status=504) from error
        except aiohttp.ClientConnectorError as error:
            raise SourceError(Culprit.ORIGIN, "connect", str(error), retry=True) from error
        except (aiohttp.ClientResponseError, ValueError) as error:
            raise SourceError(Culprit.ORIGIN, "protocol", _first_line(error)) from error
        except (aiohttp.ClientError, OSError) as error:
            if isinstance(upload := _upload_error(error), SourceError):
                raise upload from error
            # RFC 9112 section 9.3.1: a kept connection may be closed just when a request is sent on it. aiohttp sends what has no
            # body once more by itself.
            again = body is not None and request.method in _IDEMPOTENT
            raise SourceError(Culprit.ORIGIN, "reset", _first_line(error), retry=again) from error


class Origins:
    """The origins of one site, tried in order, ejected ones last; a `source.Source`."""

    def __init__(self, client: OriginClient, base_urls: tuple[str, ...]) -> None:
        self._client = client
        self._base_urls = base_urls

    async def fetch(self, request: Request, body: Body | None, request_id: str, on_interim: Interim | None = None) -> Reply:
        """As a `source.Source`."""
        trailers = TrailerReader() if wants_trailers(request) else None
        reply = self.reply(request, await self.answer(request, body, on_interim, trailers))
        return reply if trailers is None else replace(reply, trailers=trailers.fields)

    async def answer(
        self,
        request: Request,
        body: Body | None,
        on_interim: Interim | None = None,
        trailers: TrailerReader | None = None,
    ) -> aiohttp.ClientResponse:
        """The first origin's answer, or the next one's where nothing was said yet. Raises SourceError."""
        if body is not None and not isinstance(body, ReplayableBody):
            body = ReplayableBody(body, self._client.settings.replay_bytes)
        failure = SourceError(Culprit.ORIGIN, "connect", "the site has no origin")
        ejection = self._client.ejection
        for base in ejection.order(self._attempts(request, body), asyncio.get_running_loop().time()):
            try:
                response = await self._client.exchange(base, request, body, on_interim, trailers)
            except SourceError as error:
                failure = error
                if error.reason == "connect":
                    ejection.failed(base, asyncio.get_running_loop().time())
                if error.retry and (body is None or body.rewind()):
                    continue
                raise
            ejection.succeeded(base)
            return response
        raise failure

    def _attempts(self, request: Request, body: Body | None) -> tuple[str, ...]:
        """The origins in order; a lone one twice where the first attempt may have met a connection that was just closed."""
        if len(self._base_urls) == 1 and body is not None and request.method in _IDEMPOTENT:
            return self._base_urls * 2
        return self._base_urls

    def reply(self, request: Request, response: aiohttp.ClientResponse) -> Reply:
        """What an answer's head and body are to the rest of the edge. Raises SourceError."""
        headers = response.headers
        reason = response.reason or ""
        bad = unusable_field(Response(response.status, reason, headers))
        if bad is not None or _BAD_VALUE.search(reason) or not 200 <= response.status <= 599:
            response.close()
            raise SourceError(
                Culprit.ORIGIN, "protocol", f"unusable field {bad}" if bad else f"unusable status {response.status}"
            )
        if request.method == "HEAD" or response.status in _BODILESS:
            response.release()
            return Reply(Response(response.status, reason, headers), EmptyBody())
        return Reply(
            Response(response.status, reason, headers), OriginBody(response, self._client.settings.between_bytes_timeout)
        )


def unusable_field(response: Response) -> str | None:
    """The name of a field that must not be forwarded."""
    return next((name for name, value in response.headers.items() if _BAD_VALUE.search(value)), None)


class _HeadDeadline:
    """The response head is due some time after the last byte of the request, not after its first."""

    def __init__(self, clock: asyncio.Timeout, allowance: float) -> None:
        self._clock = clock
        self._allowance = allowance
        self.met = False

    def extend(self) -> None:
        if not self.met and not self._clock.expired():
            self._clock.reschedule(asyncio.get_running_loop().time() + self._allowance)


async def _upload(body: Body, deadline: _HeadDeadline) -> AsyncIterator[bytes]:
    """The request body; it may go on after the response head has come."""
    async for chunk in body:
        deadline.extend()
        yield chunk


def _upload_error(error: BaseException) -> BaseException | None:
    cause: BaseException | None = error
    for _ in range(8):
        if cause is None or isinstance(cause, SourceError):
            break
        cause = cause.__cause__
    return cause


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
