"""The trailer section of a chunked response (RFC 9112 section 7.1.2), which aiohttp's parser reads over.

A second look at the bytes that the parser gets too, only where a client wants trailers. It is strict: where it does not
understand the framing it says that there are none, and what is body and what is not stays the parser's decision.
"""

from __future__ import annotations

import enum
import re
from typing import Final

from edgecache.policy.trailing import passable

_SIZE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([\t\x20-\x7e\x80-\xff]*)\r\n")
"""One way to match a line: an origin must not have the loop that serves everybody try many."""
_MAX_LINE_BYTES: Final = 4096
_MAX_FIELDS: Final = 64


class _At(enum.Enum):
    SIZE = enum.auto()
    DATA = enum.auto()
    DATA_END = enum.auto()
    TRAILER = enum.auto()
    END = enum.auto()
    LOST = enum.auto()
    """What came is not understood, or too much."""


class TrailerReader:
    """One response's. Its body's bytes are fed in order, chunked coding and all."""

    def __init__(self) -> None:
        self._at = _At.LOST
        self._left = 0
        self._line = b""
        self._fields: list[tuple[str, str]] = []

    def begin(self) -> None:
        """A chunked body follows; until then, and if none does, there are no trailers."""
        self._at, self._left, self._line = _At.SIZE, 0, b""
        self._fields.clear()

    def fields(self) -> tuple[tuple[str, str], ...]:
        """Those that may be passed on, once the body has ended; else none."""
        return passable(self._fields) if self._at is _At.END else ()

    def feed(self, data: bytes) -> None:
        position = 0
        while position < len(data) and self._at not in (_At.END, _At.LOST):
            if self._at is _At.DATA:
                taken = min(self._left, len(data) - position)
                self._left -= taken
                position += taken
                if self._left == 0:
                    self._at = _At.DATA_END
                continue
            end = data.find(b"\n", position) + 1
            self._line += data[position : end or len(data)]
            position = end or len(data)
            if len(self._line) > _MAX_LINE_BYTES:
                self._at = _At.LOST
            elif end:
                line, self._line = self._line, b""
                self._at = self._after(line)

    def _after(self, line: bytes) -> _At:
        """Where the body stands after a whole line."""
        if self._at is _At.DATA_END:
            return _At.SIZE if line == b"\r\n" else _At.LOST
        if self._at is _At.SIZE:
            size = _SIZE.fullmatch(line)
            if size is None:
                return _At.LOST
            self._left = int(size[1], 16)
            return _At.DATA if self._left else _At.TRAILER
        if line == b"\r\n":
            return _At.END
        field = _FIELD.fullmatch(line)
        if field is None or len(self._fields) >= _MAX_FIELDS:
            return _At.LOST
        self._fields.append((field[1].decode("ascii"), field[2].strip(b" \t").decode("utf-8", "surrogateescape")))
        return _At.TRAILER
