"""A small synchronous client of the control API: JSON in and out, problem documents as errors, a bound on every wait and answer.

Every command but `serve`, `check` and the local ones of `generator` goes through it.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

from edgecache.cli.errors import CommandFailed, WrongUse

DEFAULT_URL: Final = "http://127.0.0.1:8081"
TIMEOUT_S: Final = 30.0
PUSH_TIMEOUT_S: Final = 180.0
"""A push waits until the bundle has been booted and tried, and may queue behind others."""
MAX_ANSWER_BYTES: Final = 64 << 20

Json = dict[str, Any]

_TOKEN_ADVICE: Final = "give --token, set EDGECACHE_TOKEN, or name the edge's state directory with --state"  # noqa: S105 (no secret)

_NOT_CONTROL_ADVICE: Final = (
    f"check --url or EDGECACHE_URL: the control API ({DEFAULT_URL} by default) is not where pages are served"
)


@dataclass(frozen=True, slots=True)
class ControlClient:
    """One edge's control API, and the token shown to it, with where that is from.

    Every method raises CommandFailed; WrongUse where the API finds fault with what the command line said.
    """

    url: str
    token: str | None
    token_from: str = ""

    def get(self, *path: str, query: Mapping[str, str | int] | None = None) -> Json:
        return self._call("GET", path, query=query)

    def post(self, *path: str, body: Json | None = None) -> Json:
        return self._call("POST", path, data=json.dumps(body or {}).encode(), content_type="application/json")

    def patch(self, *path: str, body: Json) -> Json:
        return self._call("PATCH", path, data=json.dumps(body).encode(), content_type="application/json")

    def put(self, *path: str, body: Json) -> Json:
        return self._call("PUT", path, data=json.dumps(body).encode(), content_type="application/json")

    def delete(self, *path: str) -> None:
        self._call("DELETE", path)

    def push(self, archive: bytes, *path: str, activate: bool) -> Json:
        """Send a gzipped tar as a new version."""
        query = {"activate": "true"} if activate else None
        return self._call("POST", path, data=archive, content_type="application/gzip", query=query, timeout_s=PUSH_TIMEOUT_S)

    def _call(
        self,
        method: str,
        path: tuple[str, ...],
        *,
        data: bytes | None = None,
        content_type: str = "",
        query: Mapping[str, str | int] | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> Json:
        if self.token is None:
            raise CommandFailed("no token", where=self.url, advice=_TOKEN_ADVICE)
        if not (self.token.isascii() and self.token.isprintable()):
            raise WrongUse("the token holds characters that no token has", advice=_TOKEN_ADVICE)
        target = "/v1/" + "/".join(quote(part, safe="") for part in path) + (f"?{urlencode(query)}" if query else "")
        headers = {"Authorization": f"Bearer {self.token}", "Accept": "application/json", "User-Agent": "edgecache-cli"}
        if content_type:
            headers["Content-Type"] = content_type
        connection, base = _connect(self.url, timeout_s)
        try:
            connection.request(method, base + target, data, headers)
            with connection.getresponse() as response:
                return self._answer(response)
        except TimeoutError as error:
            raise CommandFailed(
                f"the edge at {self.url} did not answer within {timeout_s:g} s", advice="look at its log; try again"
            ) from error
        except ssl.SSLError as error:
            raise CommandFailed(
                f"TLS with the edge at {self.url} failed: {error.reason or error}",
                advice="check the URL; trust its certificate with SSL_CERT_FILE",
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(self.url, error) from error
        finally:
            connection.close()

    def _answer(self, response: http.client.HTTPResponse) -> Json:
        body = response.read(MAX_ANSWER_BYTES + 1)
        if len(body) > MAX_ANSWER_BYTES:
            raise CommandFailed(f"the answer of {self.url} is longer than {MAX_ANSWER_BYTES} bytes", advice="ask for less")
        try:
            document = json.loads(body) if body else {}
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise CommandFailed(
                f"{self.url} answered {response.status} with something that is not the control API's JSON",
                advice=_NOT_CONTROL_ADVICE,
            )
        if response.status >= 300:
            raise _refused(response.status, document, self.token_from)
        return document


def _connect(url: str, timeout_s: float) -> tuple[http.client.HTTPConnection, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = None
    if host is None or parts.scheme not in {"http", "https"} or parts.query or parts.fragment:
        raise WrongUse(f"{url!r} is not the URL of a control API", advice=f"write it like {DEFAULT_URL}")
    if parts.scheme == "https":
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=timeout_s, context=context), parts.path.rstrip("/")
    if not _is_loopback(host):
        raise WrongUse(
            f"{url} is plain HTTP to another machine: the token would cross the network in the clear",
            advice="use https://, or a tunnel to a loopback address",
        )
    return http.client.HTTPConnection(host, port, timeout=timeout_s), parts.path.rstrip("/")


def is_loopback_url(url: str) -> bool:
    """Whether what is sent there stays on this machine."""
    try:
        return _is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _unreachable(url: str, error: Exception) -> CommandFailed:
    match error:
        case ConnectionRefusedError():
            what = f"no edge answers at {url} (connection refused)"
        case socket.gaierror():
            what = f"the host of {url} is unknown"
        case http.client.HTTPException():
            what = f"what answers at {url} is not HTTP, or broke off: {type(error).__name__}"
        case _:
            what = f"cannot talk to {url}: {getattr(error, 'strerror', None) or error}"
    return CommandFailed(what, advice="start one with `edgecache serve`, or say where it is with --url or EDGECACHE_URL")


_IN_COMMANDS: Final = (
    (re.compile(r"^correct the body.*"), "correct it; the command's --help says what it takes"),
    (re.compile(r"PATCH /v1/sites/(\S+)"), r"`edgecache site set \1`"),
    (re.compile(r"PUT /v1/clusters/NAME"), "`edgecache cluster set NAME`"),
    (
        re.compile(r"list what the token may see"),
        "`site list`, `generator list`, `cluster list` and `token list` show what there is",
    ),
)
"""What the API advises, as one who types commands does it."""
_BODY: Final = re.compile(r"^\$(?:\.|: |$)")
"""The beginning of a JSON path: who types commands sees no body that it could be in."""


def _refused(status: int, problem: Json, token_from: str) -> CommandFailed:
    """A problem document (RFC 9457), or whatever came in its place."""
    what = _BODY.sub("", str(problem.get("detail") or problem.get("title") or f"refused with status {status}"))
    advice = str(problem.get("advice", ""))
    if status == 401:
        # The API's own advice is of header fields; who types commands has chosen among options.
        advice = (f"the token shown is from {token_from}; " if token_from else "") + _TOKEN_ADVICE
    for api, here in _IN_COMMANDS:
        advice = api.sub(here, advice)
    if problem.get("type") == "about:blank":
        # As the edge answers clients: it is an edge, but where pages are served.
        advice = advice or _NOT_CONTROL_ADVICE
    mistakes = problem.get("errors")
    lines = tuple(_mistake(entry) for entry in mistakes if isinstance(entry, dict)) if isinstance(mistakes, list) else ()
    # What is sent but for bundles, which have an answer of their own (422), was typed.
    kind = WrongUse if status == 400 else CommandFailed
    return kind(what, where=_BODY.sub("", str(problem.get("where", ""))), advice=advice, lines=lines)


def _mistake(entry: Json) -> str:
    place = ":".join(str(entry[part]) for part in ("file", "line", "column") if entry.get(part))
    return ": ".join(part for part in (place, str(entry.get("key") or ""), str(entry.get("message", ""))) if part)
