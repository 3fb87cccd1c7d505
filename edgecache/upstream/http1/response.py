"""What an exchange with an origin brings: a head, the stream of its body, and the connection that it came on.

aiohttp's response has this shape, and so has `bodiless`'s, which costs a fraction. `origin` makes them, `origins` and `body` use
them.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

from aiohttp.connector import Connection
from aiohttp.streams import StreamReader
from multidict import CIMultiDictProxy

_BAD_VALUE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""RFC 9110 section 5.5: never forwarded, whoever let it in."""
_CODINGS: Final = ("chunked", "compress", "deflate", "gzip", "identity")
"""Of the HTTP Transfer Coding Registry, and once of it."""
_NOT_OF_A_NAME: Final = re.compile(r"[^!#$%&'*+\-.^_`|~0-9A-Za-z]")


class OriginResponse(Protocol):
    """A head that has arrived. Read `content` to its end, which gives the connection back, or `close` it."""

    @property
    def status(self) -> int: ...

    @property
    def reason(self) -> str | None: ...

    @property
    def headers(self) -> CIMultiDictProxy[str]: ...

    @property
    def content(self) -> StreamReader: ...

    @property
    def connection(self) -> Connection | None:
        """None once it has been given back, or closed."""

    def close(self) -> None:
        """Drop the connection, unless it has been given back. Idempotent."""

    def release(self) -> object:
        """Give the connection back where nothing is to come on it any more, else drop it. Idempotent."""


def unusable_field(headers: CIMultiDictProxy[str]) -> str | None:
    """The name of a field that is not fit to be passed on, or that makes the message's end doubtful; None: there is none.

    The parser reads `Name : value` as a field with a space in its name, which others take for `Name` (RFC 9112 section 5.1). Of
    transfer codings it undoes `chunked` alone, wherever that stands.
    """
    if _NOT_OF_A_NAME.search("".join(headers)):
        return next(name for name in headers if _NOT_OF_A_NAME.search(name))
    if _BAD_VALUE.search("\t".join(headers.values())):
        return next(name for name, value in headers.items() if _BAD_VALUE.search(value))
    codings = headers.getall("Transfer-Encoding", None)
    if codings is not None and not _undone(codings, headers):
        return "Transfer-Encoding"
    return None


def _undone(codings: list[str], headers: CIMultiDictProxy[str]) -> bool:
    """Whether the parser and we agree on what these transfer codings leave of a body.

    What is no coding at all says nothing: that body goes on until the connection ends (RFC 9112 section 6.3), which nobody else
    may read otherwise by a Content-Length.
    """
    words = [word.strip(" \t").lower() for line in codings for word in line.split(",")]
    if words == ["chunked"]:
        return True
    return all(words) and "Content-Length" not in headers and not any(coding in word for word in words for coding in _CODINGS)
