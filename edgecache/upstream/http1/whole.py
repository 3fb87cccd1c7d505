"""Responses of the commonest form, read in one step: all of it has come at once, its fields are `name: value` lines of printable
ASCII, one Content-Length frames it. aiohttp's parser takes many times as long.

`origin_protocol` asks, and gives aiohttp's parser whatever is not exactly so. Of the rest that parser would say the same.
"""

from __future__ import annotations

import re
from typing import Final

from aiohttp import hdrs
from multidict import CIMultiDict, CIMultiDictProxy, istr

_NO_BODY: Final = frozenset({204, 304})
_PRINTABLE: Final = bytes(range(0x20, 0x7F))
_TOKENS: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_KNOWN: Final[dict[str, str]] = {
    spelling: name for name in vars(hdrs).values() if isinstance(name, istr) for spelling in (str(name), str(name).lower())
}
"""As aiohttp's parser spells them."""
_DOUBTFUL: Final = ("Transfer-Encoding", "Upgrade", "Proxy-Connection", "Sec-WebSocket-Key1")
"""What changes the framing, or might for some parser."""


class WholeResponse:
    """A response that has come, body and all, and is fit to be passed on. Its connection is not its concern."""

    def __init__(self, status: int, reason: str, headers: CIMultiDictProxy[str], body: bytes, *, keep_alive: bool) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.body = body
        self.keep_alive = keep_alive

    def close(self) -> None:
        """There is nothing to be closed."""


def read_whole(data: bytes, max_head_bytes: int, max_fields: int) -> WholeResponse | None:
    """The one response to a GET that `data` is, neither more nor less; None where that is not plain, whatever it is."""
    end = data.find(b"\r\n\r\n", 0, max_head_bytes)
    if end == -1 or not data.startswith(b"HTTP/1.1 "):
        return None
    head = data[:end]
    count = head.count(b"\r\n")
    if count > max_fields or head.translate(None, _PRINTABLE) != b"\r\n" * count:
        return None
    lines = head.decode("ascii").split("\r\n")
    line = lines[0]
    code = line[9:12]
    if line[12:13] != " " or not code.isdigit() or not "200" <= code <= "599":
        return None
    status = int(code)
    if status in _NO_BODY:
        return None
    names: list[str] = []
    fields: list[tuple[str, str]] = []
    for i in range(1, len(lines)):
        name, colon, value = lines[i].partition(": ")
        if not name or not colon or not value or value[0] == " " or value[-1] == " ":
            return None
        names.append(name)
        known = _KNOWN.get(name)
        fields.append((_KNOWN.get(name.lower(), name) if known is None else known, value))
    if _TOKENS.fullmatch("".join(names)) is None:
        return None
    headers = CIMultiDictProxy(CIMultiDict(fields))
    length = headers.getall("Content-Length", ())
    if len(length) != 1 or length[0] != str(len(data) - end - 4):
        return None
    for doubtful in _DOUBTFUL:
        if doubtful in headers:
            return None
    connection = headers.getall("Connection", ())
    keep_alive = True
    if connection:
        option = connection[0].lower()
        if len(connection) != 1 or option not in {"keep-alive", "close"}:
            return None
        keep_alive = option == "keep-alive"
    return WholeResponse(status, line[13:], headers, data[end + 4 :], keep_alive=keep_alive)
