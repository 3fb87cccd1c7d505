"""The control API's side of a connection: what aiohttp cannot read as HTTP is refused with a problem document, as all else is.

`service` runs its application on a `ControlRunner`. aiohttp's own answer would be text, and a traceback in the log for each.
"""

from __future__ import annotations

import logging
from typing import Final

from aiohttp import web
from aiohttp.http_exceptions import BadHttpMethod, BadStatusLine, LineTooLong
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from edgecache.control.api.messages import refusal
from edgecache.control.problems import Code, Problem

_log: Final = logging.getLogger(__name__)


class ControlRunner(web.AppRunner):
    """aiohttp's runner, whose connections are this module's."""

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Server(made.request_handler, request_factory=made.request_factory, **made._kwargs)


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class _Connection(RequestHandler):
    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to a request that never reached the application, or that the application could not end."""
        del message
        if request.writer.output_size > 0:
            raise ConnectionError("a part of the answer has been sent already")
        if status >= 500:
            _log.error("%s %s failed", request.method, request.path, exc_info=exc)
            problem = Problem(Code.INTERNAL, "the edge made a mistake; it is in its log", "report it with the log's lines")
        else:
            _log.debug("a request was not readable: %s", exc)
            problem = Problem(Code.BAD_REQUEST, _unreadable(exc), "send HTTP/1.1 as RFC 9112 says; see /v1/openapi.json")
        response = refusal(problem)
        response.force_close()
        return response


def _unreadable(error: BaseException | None) -> str:
    """What is wrong with the request's head. The error's own text quotes the client, and is not for others."""
    match error:
        case LineTooLong():
            return "the request's target or one of its fields is too long"
        case BadHttpMethod():
            return "the request's method is not one of HTTP's"
        case BadStatusLine():
            return "the request's first line is not METHOD /target HTTP/1.1"
        case _:
            return "the request is not readable as HTTP/1.1"
