"""Who fetches what, in memory that all serving processes of an edge share: words that say under which key somebody is fetching.

`claims` reads and writes it, so that a miss need not ask the leader. It is a hint: two who write at the same instant both fetch,
and a word may be left by a process that has died. Whoever finds another's word asks the leader, who knows who lives.
"""

from __future__ import annotations

import mmap
import os
from typing import Final

_BUCKET: Final = 4
_BUCKETS: Final = 1 << 14
"""65,536 words: with 1,000 fetches under way one in some 100,000 finds its bucket full, and is not seen by others."""
_BYTES: Final = _BUCKET * _BUCKETS * 8
_TAG_BITS: Final = 48
_TAG: Final = (1 << _TAG_BITS) - 1
DIGEST_BYTES: Final = 8
MAX_NUMBER: Final = (1 << (64 - _TAG_BITS)) - 1


class FlightBoard:
    """As one process sees it. A word is written at once (eight aligned bytes): number of the process, and a tag of the key."""

    def __init__(self, number: int, descriptor: int | None = None) -> None:
        """`number`: this process's, from 1 to MAX_NUMBER. `descriptor`: another's board's, which stays the caller's; None: a new
        one. Raises OSError."""
        self.number = number
        made = None
        if descriptor is None:
            descriptor = made = os.memfd_create("edgecache-flights", os.MFD_CLOEXEC)
        try:
            if made is not None:
                os.ftruncate(made, _BYTES)
            self._memory = mmap.mmap(descriptor, _BYTES)
        except OSError:
            if made is not None:
                os.close(made)
            raise
        self._words = memoryview(self._memory).cast("Q")
        self.descriptor = made
        """To be passed on; None: it was."""

    def close(self) -> None:
        """Idempotent. Nothing may be asked of it after that."""
        self._words.release()
        self._memory.close()
        descriptor, self.descriptor = self.descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def clear(self, number: int) -> None:
        """Take away all words of a process that has died."""
        for at, word in enumerate(self._words):
            if word >> _TAG_BITS == number:
                self._words[at] = 0

    def take(self, digest: bytes) -> int:
        """Say that this process fetches under `digest` (DIGEST_BYTES), unless one does: then that one's number, else 0."""
        words, (first, tag) = self._words, _place(digest)
        free = -1
        for at in range(first, first + _BUCKET):
            word = words[at]
            if word == 0:
                free = at
            elif word & _TAG == tag:
                return word >> _TAG_BITS
        if free >= 0:
            words[free] = self.number << _TAG_BITS | tag
        return 0

    def take_over(self, digest: bytes, number: int) -> None:
        """As `take`, in the place of a process that is not fetching it."""
        words, (first, tag) = self._words, _place(digest)
        theirs = number << _TAG_BITS | tag
        for at in range(first, first + _BUCKET):
            if words[at] == theirs:
                words[at] = self.number << _TAG_BITS | tag
                return

    def give_back(self, digest: bytes) -> None:
        """It is over. Harmless where another's word stands."""
        words, (first, tag) = self._words, _place(digest)
        own = self.number << _TAG_BITS | tag
        for at in range(first, first + _BUCKET):
            if words[at] == own:
                words[at] = 0


def _place(digest: bytes) -> tuple[int, int]:
    """The first word of its bucket, and its tag, which is not zero."""
    number = int.from_bytes(digest, "little")
    return (number >> _TAG_BITS) % _BUCKETS * _BUCKET, (number & _TAG) or 1
