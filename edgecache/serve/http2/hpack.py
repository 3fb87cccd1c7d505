"""Field compression (RFC 7541): the hpack library's decoder, asked no question twice, and an encoder without a memory.

The encoder uses the static table alone, as nginx's does: what a field encodes to depends on nothing, so stored heads are encoded
once for all clients. `connection` gives both to the h2 library.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from hpack import Decoder, HeaderTuple
from hpack.hpack import encode_integer
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.table import HeaderTable
from lru import LRU

Fields = list[tuple[bytes, bytes]]

CONTENT_LENGTH: Final = b"\x00content-length"
"""How the decoder calls Content-Length: the h2 library would end the connection where RFC 9113 section 8.1.1 ends the stream."""
PREPARED: Final = b"\x00prepared"
"""The name under which the encoder is given fields that are encoded already."""
_NOT_A_NAME: Final = b"\x00"
_HIDDEN: Final = {b"content-length": CONTENT_LENGTH, CONTENT_LENGTH: _NOT_A_NAME, b":status": _NOT_A_NAME}
_SECRET: Final = frozenset({b"set-cookie", b"authorization"})
_TO_SIZE_ZERO: Final = b"\x20"
_KNOWN_BLOCKS: Final = 32
_MAX_KNOWN_BYTES: Final = 1 << 10
_MAX_CACHED_BYTES: Final = 256
"""Of a name and its value: what is remembered of fields is bounded in bytes."""


class FieldDecoder(Decoder):
    """Remembers blocks that changed nothing: clients say the same again and again, and such a block always means the same."""

    def __init__(self, max_list_bytes: int) -> None:
        super().__init__(max_list_bytes)
        self._known: LRU[bytes, Fields] = LRU(_KNOWN_BLOCKS)

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:
        """The fields of a block as bytes. Raises HPACKError."""
        known = self._known.get(data)
        if known is not None:
            return known  # type: ignore[return-value] # h2 only unpacks them
        before = self._newest()
        fields = [(_HIDDEN.get(name, name), value) for name, value in super().decode(data, raw=True)]
        if self._newest() is not before or not data or data[0] & 0xE0 == 0x20:
            # An added entry moves all indices; a size update is an effect of its own.
            self._known.clear()
        elif len(data) <= _MAX_KNOWN_BYTES:
            self._known[bytes(data)] = fields
        return fields  # type: ignore[return-value]

    def known(self, data: bytes) -> Fields | None:
        """The fields of a block that was read before, changed nothing, and would change nothing now."""
        return self._known.get(data)

    def _newest(self) -> object:
        entries = self.header_table.dynamic_entries
        return entries[0] if entries else None


class FieldEncoder:
    """Stands where the h2 library has hpack's encoder. Names must be in lower case."""

    def __init__(self) -> None:
        self.header_table_size = 0
        """Set by the h2 library; what the client would keep for us is not used."""
        self._prefix = _TO_SIZE_ZERO

    def encode(self, fields: Iterable[tuple[bytes, bytes]]) -> bytes:
        """One field block."""
        prefix, self._prefix = self._prefix, b""
        return prefix + encode(fields)


def encode(fields: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Fields as part of a block of any connection."""
    return b"".join([value if name == PREPARED else _field(name, value) for name, value in fields])


def plain(name: bytes, value: bytes) -> bytes:
    """One field of which the value is never the same again: without Huffman coding, which takes longer than it saves."""
    return _plain_name(name) + _integer(len(value), 7, 0x00) + value


@lru_cache(64)
def _plain_name(name: bytes) -> bytes:
    return _name(name, 0x00)


_huffman: Final = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
_PAIRS: Final = {(name, value): index for index, (name, value) in enumerate(HeaderTable.STATIC_TABLE, 1) if value}
_NAMES: Final = {name: index for index, (name, _) in reversed(list(enumerate(HeaderTable.STATIC_TABLE, 1)))}


def _literal(name: bytes, value: bytes) -> bytes:
    """RFC 7541 sections 6.1, 6.2.2 and 6.2.3."""
    if (whole := _PAIRS.get((name, value))) is not None:
        return _integer(whole, 7, 0x80)
    return _name(name, 0x10 if name in _SECRET else 0x00) + _string(value)


_known = lru_cache(8192)(_literal)


def _field(name: bytes, value: bytes) -> bytes:
    return _known(name, value) if len(name) + len(value) <= _MAX_CACHED_BYTES else _literal(name, value)


def _name(name: bytes, kind: int) -> bytes:
    index = _NAMES.get(name)
    return _integer(index, 4, kind) if index is not None else bytes([kind]) + _string(name)


def _string(text: bytes) -> bytes:
    packed = _huffman.encode(text) if len(text) <= _MAX_CACHED_BYTES else text
    if len(packed) < len(text):
        return _integer(len(packed), 7, 0x80) + packed
    return _integer(len(text), 7, 0x00) + text


@lru_cache(1024)
def _integer(number: int, prefix_bits: int, pattern: int) -> bytes:
    encoded = encode_integer(number, prefix_bits)
    encoded[0] |= pattern
    return bytes(encoded)
