"""What an exchange with an origin brings: a head, the stream of its body, and the connection that it came on.

aiohttp's response has this shape, and so has `bodiless`'s, which costs a fraction. `origin` makes them, `origins` and `body` use
them.
"""

from __future__ import annotations

from typing import Protocol

from aiohttp.connector import Connection
from aiohttp.streams import StreamReader
from multidict import CIMultiDictProxy


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
