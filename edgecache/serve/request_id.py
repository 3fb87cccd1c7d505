"""Request IDs: unique over restarts and machines, cheap, and not a secret. Made here alone, whatever clients send."""

from __future__ import annotations

import secrets
from typing import Final

_LAST: Final = [b"%02x" % number for number in range(256)]
"""The last two digits: the rest of an ID is written once for all that share it."""


class _Ids:
    """A random prefix, and a number that counts from 1."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6).encode()
        self._block = 0
        self._first = b"%b-0" % self._prefix
        self._number = 0

    def following(self) -> bytes:
        self._number += 1
        if self._number == 256:
            self._number = 0
            self._block += 1
            self._first = b"%b-%x" % (self._prefix, self._block)
        return self._first + _LAST[self._number]


_ids: Final = _Ids()


def next_request_id() -> str:
    return _ids.following().decode()


def next_id_bytes() -> bytes:
    """As `next_request_id`, where nothing but bytes is made of it."""
    return _ids.following()
