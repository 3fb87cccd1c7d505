"""What arrives on a connection to an origin comes here first: the whole response that is expected is taken, all else goes on.

A class of its own because it is compiled, which `origin_protocol` cannot be. That parses whatever is left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from edgecache.upstream.http1.whole import WholeResponse, read_whole

Heard = Callable[[WholeResponse | None], None]


class Parsing(Protocol):
    """What the connection's protocol does with what comes; see `origin_protocol`."""

    def set_response_params(self, **params: Any) -> None:
        """Have the parser read a response."""

    def force_close(self) -> None:
        """Keep the connection for no other exchange."""

    def end_untrusted(self) -> None: ...

    def idle_for(self, keep_alive: str | None) -> None: ...

    def feed_whole(self, whole: WholeResponse) -> None: ...


class Intake:
    """One connection's."""

    __slots__ = ("_protocol", "_read", "complete", "expected", "heard")

    def __init__(self, protocol: Parsing, read: Callable[[bytes], None]) -> None:
        """`read` takes what is not a whole response that was expected."""
        self._protocol: Parsing | None = protocol
        self._read = read
        self.expected: dict[str, Any] | None = None
        """Of the response that is awaited: how aiohttp's parser reads it, if that must."""
        self.complete = False
        """All of the response has come: what follows it is no response to anything."""
        self.heard: Heard | None = None
        """In place of the protocol's `read`, for one response: given it where it has come whole, or told to `read`, whatever
        that will bring."""

    def close(self) -> None:
        """The connection is over. Nothing here refers to it any more."""
        self._protocol = None
        self._read = _ignore

    def expect(self, params: dict[str, Any]) -> None:
        """The connection's next response is to a GET, and may come whole."""
        self.expected, self.complete = params, False

    def data_received(self, data: bytes) -> None:
        """As asyncio's."""
        expected, protocol = self.expected, self._protocol
        if expected is not None and protocol is not None and data:
            self.expected = None
            whole = read_whole(data, expected["max_line_size"], expected["max_headers"])
            if whole is not None:
                self._take(protocol, whole)
                return
            # Before anything is made of it: interim responses are for whoever reads.
            self.tell(None)
            protocol.set_response_params(**expected)
        if self.complete and data and protocol is not None:
            protocol.end_untrusted()
            return
        self._read(data)

    def tell(self, whole: WholeResponse | None) -> None:
        """Tell who is to hear of the response, if anybody is."""
        heard, self.heard = self.heard, None
        if heard is not None:
            heard(whole)

    def _take(self, protocol: Parsing, whole: WholeResponse) -> None:
        self.complete = True
        if not whole.keep_alive:
            protocol.force_close()
        protocol.idle_for(whole.headers.get("Keep-Alive"))
        if self.heard is not None:
            self.tell(whole)
        else:
            protocol.feed_whole(whole)


def _ignore(data: bytes) -> None:
    del data
