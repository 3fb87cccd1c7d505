"""The byte stream of one connection to an origin, cut into what belongs to the response that was asked for.

What `intake` does not take, aiohttp's parser reads. Here its input is cut at the ends of heads and bodies: bytes beyond a
response's Content-Length are no response to anything (RFC 9112 section 6.3), and interim responses go to whoever listens, where
aiohttp would drop them.
`origin` makes a connector that uses it.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any, Final, cast

import aiohappyeyeballs
import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.http import HttpVersion11
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.streams import EMPTY_PAYLOAD

from edgecache.policy.message import Response
from edgecache.source import Interim
from edgecache.upstream.http1.intake import Intake
from edgecache.upstream.http1.response import unusable_field
from edgecache.upstream.http1.trailers import TrailerReader
from edgecache.upstream.http1.whole import WholeResponse

_HEAD_END: Final = b"\r\n\r\n"
_BODILESS: Final = frozenset({204, 304})
_SWITCHING_PROTOCOLS: Final = 101
_CONTINUE: Final = 100
_LAST_STATUS: Final = 599
_KEEP_ALIVE_TIMEOUT: Final = re.compile(r"(?:^|[,\s])timeout\s*=\s*([0-9]{1,6})", re.IGNORECASE)
_LONGEST_MARGIN: Final = 1.0
MAX_INTERIM: Final = 16
"""Interim responses passed on for one request; further ones are dropped."""


class OriginProtocol(ResponseHandler):
    """See the module. `on_interim` and `trailers` are set for each request before it is sent."""

    def __init__(self, loop: Any) -> None:
        super().__init__(loop)
        self.on_interim: Interim | None = None
        self.trailers: TrailerReader | None = None
        """Whoever wants the trailers of the response."""
        self._interim_count = 0
        self._in_head = True
        self._head_tail = b""
        self._left: int | None = None
        """Body bytes to come; None: the parser finds the end (chunked, or until the connection closes)."""
        self._idle_limit: float | None = None
        self._idle_end: asyncio.TimerHandle | None = None
        self.intake = Intake(self, self._receive)
        self.data_received = self.intake.data_received  # type: ignore[method-assign] # transports look it up once

    def expect(self, params: dict[str, Any]) -> None:
        """As `set_response_params`, for a response to GET that may come whole: then `read` brings a WholeResponse."""
        if self._tail:
            self.set_response_params(**params)
            return
        self._parser = None
        self.intake.expect(params)
        if self._idle_end is not None:
            self._stop_idling()

    def set_response_params(self, **params: Any) -> None:
        self._in_head, self._head_tail, self._left = True, b"", None
        self._interim_count = 0
        self.intake.expected, self.intake.complete = None, False
        self._stop_idling()
        super().set_response_params(**params)

    def _receive(self, data: bytes) -> None:
        """What the intake has not taken."""
        if not data or self._parser is None or self._upgraded or self._payload_parser is not None:
            super().data_received(data)
            return
        self._parse(data)

    def _parse(self, data: bytes) -> None:
        while data and self._parser is not None:
            if self._in_head:
                part, data = self._cut_head(data)
            elif self._left is None:
                part, data = data, b""
                if self.trailers is not None:
                    self.trailers.feed(part)
            else:
                part, data = data[: self._left], data[self._left :]
                self._left -= len(part)
            if not part:
                break
            if data and self._left == 0 and not self._in_head:
                self.force_close()
            super().data_received(part)
            if self.intake.complete and self._left is None and not part.endswith(b"\n"):
                # Of what follows a chunked body the parser keeps the beginning to itself.
                self.end_untrusted()
        if data and self.transport is not None:
            self.end_untrusted()

    def end_untrusted(self) -> None:
        """The response is complete; a connection that said more than it announced cannot be trusted with another one."""
        self.force_close()
        if self.transport is not None:
            self.transport.close()

    def idle_for(self, keep_alive: str | None) -> None:
        """A whole response has come, with this value of Keep-Alive, if any."""
        self._idle_limit = None if keep_alive is None else idle_limit(keep_alive)
        if self._idle_limit is not None:
            self._start_idling()

    def feed_whole(self, whole: WholeResponse) -> None:
        """It is for whoever reads. Any: of aiohttp's queue nothing depends on what is in it."""
        super().feed_data((cast(Any, whole), EMPTY_PAYLOAD), 0)

    def feed_data(self, data: Any, size: int = 0) -> None:
        """What the parser found: a head, with the body that follows."""
        if self.intake.complete:
            self.end_untrusted()
            return
        message = data[0]
        code = message.code
        if 100 <= code < 200 and code != _SWITCHING_PROTOCOLS:
            if code != _CONTINUE:
                self._interim(Response(code, message.reason or "", message.headers))
                return
        elif self._in_head:
            self._in_head = False
            self._left = self._body_bytes(message)
            if _doubtful(message):
                self.force_close()
            if self.trailers is not None and message.chunked and self._left is None and not self._head_tail:
                self.trailers.begin()
            self._idle_limit = idle_limit(message.headers.get("Keep-Alive", ""))
            super().feed_data(data, size)
            if code != _SWITCHING_PROTOCOLS:
                data[1].on_eof(self._completed)
            return
        super().feed_data(data, size)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop_idling()
        payload = self._payload
        if payload is not None and not payload.is_eof() and (exc is not None or self._cut_off()):
            # RFC 9112 section 8: the end of a connection ends a body only where nothing says that it was cut off.
            payload.set_exception(aiohttp.ClientPayloadError(f"the connection was lost: {exc or 'no close_notify'}"))
        super().connection_lost(exc)
        self.intake.close()

    def _cut_off(self) -> bool:
        """Whether a TLS connection has ended without saying so, as anybody on the way can make it (RFC 9112 section 9.8)."""
        tls = None if self.transport is None else self.transport.get_extra_info("ssl_object")
        if tls is None:
            return False
        try:
            return bool(tls.read(1))
        except ssl.SSLZeroReturnError:
            return False
        except (ssl.SSLError, ValueError):
            return True

    def give_up(self) -> None:
        """The response head has not come in time."""
        self.set_exception(aiohttp.SocketTimeoutError("no response head in time"))

    def detach(self) -> tuple[asyncio.Transport, bytes]:
        """After a 101: the transport, which somebody else's protocol may have, and what has come since the 101."""
        self._stop_idling()
        self._drop_timeout()
        tail, self._tail = self._tail, b""
        if self.transport is None:
            raise ConnectionResetError("the connection is closed")
        return self.transport, tail

    def _completed(self) -> None:
        self.intake.complete = True
        self._start_idling()

    def _start_idling(self) -> None:
        """The response is complete. An origin says how long it keeps an idle connection: end it first, because a request that
        meets its closing fails, and may not be sent again if it is not idempotent (RFC 9112 section 9.3.1)."""
        if self._idle_limit is not None:
            self._idle_end = self._loop.call_later(self._idle_limit, self._end_idle)

    def _stop_idling(self) -> None:
        if self._idle_end is not None:
            self._idle_end.cancel()
            self._idle_end = None

    def _end_idle(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        """Tells the body's reader too when the parser gives up: aiohttp leaves it waiting for its timeout."""
        payload = self._payload
        super().set_exception(exc, *cause)
        if isinstance(exc, HttpProcessingError) and payload is not None and not payload.is_eof():
            payload.set_exception(aiohttp.ClientPayloadError(str(exc).partition("\n")[0]))
        self.intake.tell(None)

    def _cut_head(self, data: bytes) -> tuple[bytes, bytes]:
        """What belongs to the head, and the rest; where no end is seen, all of it may."""
        joined = self._head_tail + data
        found = joined.find(_HEAD_END)
        if found == -1:
            self._head_tail = joined[-(len(_HEAD_END) - 1) :]
            return data, b""
        end = found + len(_HEAD_END) - len(self._head_tail)
        self._head_tail = b""
        return data[:end], data[end:]

    def _body_bytes(self, message: Any) -> int | None:
        if self._skip_payload or message.code in _BODILESS:
            return 0
        length = message.headers.get("Content-Length")
        if message.chunked or message.upgrade or length is None or self._head_tail:
            return None
        return int(length) if length.isascii() and length.isdigit() else None

    def _interim(self, response: Response) -> None:
        self._interim_count += 1
        if self.on_interim is not None and self._interim_count <= MAX_INTERIM and unusable_field(response.headers) is None:
            self.on_interim(response)


def _doubtful(message: Any) -> bool:
    """Whether another reader may have taken the body for longer or shorter than the parser has: a head that is refused, and, by
    RFC 9112 section 6.1, transfer codings in HTTP/1.0. Nothing that such a connection says later is believed."""
    if message.version < HttpVersion11 and "Transfer-Encoding" in message.headers:
        return True
    return not _SWITCHING_PROTOCOLS <= message.code <= _LAST_STATUS or unusable_field(message.headers) is not None


def idle_limit(keep_alive: str) -> float | None:
    """Seconds for which a connection may be kept idle, by the Keep-Alive field of its last response (RFC 2068 section 19.7.1.1);
    some less than the origin says, because its clock started earlier."""
    match = _KEEP_ALIVE_TIMEOUT.search(keep_alive)
    if match is None:
        return None
    said = float(match[1])
    return said - min(_LONGEST_MARGIN, said / 2)


Preface = Callable[[str, int], bytes]
"""What a new connection begins with, before TLS; given the address and port that it leads to."""
preface: ContextVar[Preface | None] = ContextVar("preface", default=None)
"""Of the connections that this task makes. Such connections must not be reused: their connector has force_close."""


class OriginConnector(aiohttp.TCPConnector):
    """Connections that speak so."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._factory: Any = partial(OriginProtocol, loop=self._loop)

    async def _wrap_create_connection(self, *args: Any, **kwargs: Any) -> tuple[asyncio.Transport, ResponseHandler]:
        """aiohttp's, but for what is sent between the connection and the handshake."""
        begin = preface.get()
        if begin is None:
            return await super()._wrap_create_connection(*args, **kwargs)
        request, timeout = kwargs.pop("req"), kwargs.pop("timeout")
        addresses, failure = kwargs.pop("addr_infos"), kwargs.pop("client_error", aiohttp.ClientConnectorError)
        key = request.connection_key
        try:
            async with asyncio.timeout(timeout.sock_connect):
                sock = await aiohappyeyeballs.start_connection(
                    addr_infos=addresses, happy_eyeballs_delay=self._happy_eyeballs_delay, loop=self._loop
                )
                try:
                    await self._loop.sock_sendall(sock, begin(*sock.getpeername()[:2]))
                except BaseException:
                    sock.close()
                    raise
                made: tuple[asyncio.Transport, ResponseHandler] = await self._loop.create_connection(*args, **kwargs, sock=sock)
                return made
        except ssl.CertificateError as error:
            raise aiohttp.ClientConnectorCertificateError(key, error) from error
        except ssl.SSLError as error:
            raise aiohttp.ClientConnectorSSLError(key, error) from error
        except TimeoutError:
            raise
        except OSError as error:
            raise failure(key, error) from error

    def _release(self, key: ConnectionKey, protocol: ResponseHandler, *, should_close: bool = False) -> None:
        if isinstance(protocol, OriginProtocol):
            protocol.on_interim = None  # as in `kept`
        super()._release(key, protocol, should_close=should_close)

    @property
    def busy(self) -> bool:
        """Whether an exchange is under way."""
        return bool(self._acquired)
