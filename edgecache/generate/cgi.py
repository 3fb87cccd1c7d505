"""RFC 3875 both ways: a request as meta-variables, a program's CGI-shaped output as a response.

Pure: bytes and values in, values out. What a guest writes is hostile; whatever is not a well-formed answer is a `BadAnswer`.
"""

from __future__ import annotations

import http
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

from multidict import CIMultiDict, CIMultiDictProxy

from edgecache.policy.authority import DEFAULT_PORTS
from edgecache.policy.message import Request, Response

MAX_HEAD_BYTES: Final = 32 << 10
MAX_FIELDS: Final = 128

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_VALUE: Final = re.compile("[\t\x20-\x7e\x80-\U0010ffff]*")
_STATUS: Final = re.compile(r"([2-5][0-9]{2})(?: (.*))?")
_LINE_END: Final = re.compile(rb"\r?\n")
_HEAD_END: Final = re.compile(rb"\r?\n\r?\n|\A\r?\n")

WITHHELD: Final = frozenset({"authorization", "proxy", "proxy-authorization", "content-type", "content-length"})
"""Fields that do not become HTTP_*: credentials (RFC 3875 section 4.1.18), `Proxy` (CVE-2016-5385), and those that have
a variable of their own."""

UNFORWARDED: Final = frozenset(
    {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "te", "trailer", "upgrade", "status", "age"}
)
"""Fields of an answer that are the connection's (RFC 9110 section 7.6.1) or the cache's to set, not a program's."""


class BadAnswer(Exception):
    """The program's output is not a CGI response (RFC 3875 section 6)."""


@dataclass(frozen=True, slots=True)
class CgiResponse:
    """Head of a program's answer, and the body bytes that came with it."""

    response: Response
    rest: bytes
    length: int | None
    """Content-Length as the program gave it: its body must have just that many bytes."""


def environ(request: Request, body: bytes, *, client_ip: str, request_id: str) -> tuple[tuple[bytes, bytes], ...]:
    """Meta-variables of RFC 3875 section 4.1, CONTENT_LENGTH first as SCGI wants it. PATH_INFO holds the whole decoded path."""
    path, _, query = request.target.partition("?")
    host, port = _host_and_port(request)
    variables = {
        "CONTENT_LENGTH": str(len(body)),
        "SCGI": "1",
        "GATEWAY_INTERFACE": "CGI/1.1",
        "SERVER_SOFTWARE": "edgecache",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_NAME": host,
        "SERVER_PORT": port,
        "REQUEST_SCHEME": request.scheme,
        "REQUEST_METHOD": request.method,
        "REQUEST_URI": request.target,
        "SCRIPT_NAME": "",
        "QUERY_STRING": query,
        "REMOTE_ADDR": client_ip,
        "REQUEST_ID": request_id,
    }
    if content_type := request.headers.get("Content-Type"):
        variables["CONTENT_TYPE"] = content_type
    # No environment can hold a NUL: it stays encoded, rather than cutting the value short or making two paths one.
    path_info = unquote_to_bytes(path).replace(b"\0", b"%00")
    pairs = [(name.encode(), _bytes(value)) for name, value in variables.items()]
    pairs.append((b"PATH_INFO", path_info))
    pairs += ((name.encode(), _bytes(value)) for name, value in _field_variables(request.headers).items())
    return tuple(pairs)


def holds_nul(target: str) -> bool:
    """Whether the decoded path holds a NUL; the query stays encoded."""
    return "%00" in target.partition("?")[0]


def _field_variables(headers: CIMultiDictProxy[str]) -> Mapping[str, str]:
    """HTTP_* of RFC 3875 section 4.1.18; repeated fields joined by a comma, Cookie by a semicolon (RFC 9113 section 8.2.3)."""
    found: dict[str, str] = {}
    for name, value in headers.items():
        # `A_B` and `A-B` would meet in one variable: the first form is how such checks are bypassed, so it is dropped.
        if name.lower() in WITHHELD or "_" in name:
            continue
        variable = "HTTP_" + name.upper().replace("-", "_")
        joiner = "; " if variable == "HTTP_COOKIE" else ", "
        found[variable] = f"{found[variable]}{joiner}{value}" if variable in found else value
    return found


def parse(buffer: bytes) -> CgiResponse | None:
    """The answer's head, or None while it is incomplete.

    Raises BadAnswer: head too large, malformed or control bytes in a field, no Content-Type, Location or Status.
    """
    end = _HEAD_END.search(buffer)
    if end is None:
        if len(buffer) > MAX_HEAD_BYTES:
            raise BadAnswer(f"no blank line within the first {MAX_HEAD_BYTES} bytes: headers must end with one")
        return None
    size = end.start()
    if size > MAX_HEAD_BYTES:
        raise BadAnswer(f"headers of {size} bytes, at most {MAX_HEAD_BYTES} are taken")
    fields = list(_fields(_LINE_END.split(buffer[:size]) if size else []))
    headers = CIMultiDict((name, value) for name, value in fields if name.lower() not in UNFORWARDED)
    status, reason = _status({name.lower(): value for name, value in fields})
    return CgiResponse(Response(status, reason, CIMultiDictProxy(headers)), buffer[end.end() :], _content_length(headers))


def _fields(lines: Iterable[bytes]) -> Iterable[tuple[str, str]]:
    for number, raw in enumerate(lines, 1):
        if number > MAX_FIELDS:
            raise BadAnswer(f"more than {MAX_FIELDS} header fields")
        name, colon, value = raw.decode("utf-8", "surrogateescape").partition(":")
        value = value.strip(" \t")
        if not colon or not _TOKEN.fullmatch(name):
            raise BadAnswer(f"header line {number} is not `Name: value`: {_shown(raw)}")
        if not _VALUE.fullmatch(value):
            raise BadAnswer(f"header line {number} holds a control character: {_shown(raw)}")
        yield name, value


def _status(fields: Mapping[str, str]) -> tuple[int, str]:
    """RFC 3875 section 6.2: a document needs Content-Type; Location alone is a redirect; Status says otherwise."""
    if "status" in fields:
        match = _STATUS.fullmatch(fields["status"])
        if match is None:
            raise BadAnswer(f"Status: {fields['status']!r} is not a code from 200 to 599 and a reason")
        code = int(match[1])
        return code, match[2] or _reason(code)
    if "location" in fields:
        return 302, _reason(302)
    if "content-type" in fields:
        return 200, _reason(200)
    raise BadAnswer("none of Content-Type, Location and Status is among the headers (RFC 3875 section 6.2)")


def _content_length(headers: CIMultiDict[str]) -> int | None:
    values = set(headers.getall("Content-Length", ()))
    if not values:
        return None
    value = values.pop()
    if values or not (value.isascii() and value.isdigit()) or len(value) > 18:
        raise BadAnswer(f"Content-Length {value!r} is not one decimal number")
    return int(value)


def _reason(code: int) -> str:
    try:
        return http.HTTPStatus(code).phrase
    except ValueError:
        return ""


def _host_and_port(request: Request) -> tuple[str, str]:
    host, colon, port = request.authority.rpartition(":")
    if colon and port.isdigit():
        return host, port
    return request.authority, str(DEFAULT_PORTS[request.scheme])


def _bytes(value: str) -> bytes:
    return value.encode("utf-8", "surrogateescape").replace(b"\0", b"")


def _shown(raw: bytes) -> str:
    return ascii(raw[:80].decode("latin-1"))
