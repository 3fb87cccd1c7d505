"""Pages that templates of several programs hold alike: kept once in this process, in a sealed memfd that all of them map.

A site's generators are made of few programs, and what is one piece of memory stays in the processor's caches. Called by
`memory.py`.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from typing import Final

SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
NO_FILE: Final = -1


class Common:
    """One content that stands at [start, end) of its holders' memory."""

    __slots__ = ("_holders", "_key", "end", "fd", "start")

    def __init__(self, key: tuple[int, bytes], start: int, end: int) -> None:
        self._key = key
        self._holders = 0
        self.start = start
        self.end = end
        self.fd = NO_FILE
        """Of a file of just that; none while one program alone has it, whose own file holds it."""

    def hold(self) -> None:
        """To be given back by `release`, once."""
        self._holders += 1

    def release(self) -> None:
        """What is mapped stays."""
        self._holders -= 1
        if not self._holders:
            if _kept.get(self._key) is self:
                del _kept[self._key]
            if self.fd != NO_FILE:
                os.close(self.fd)
                self.fd = NO_FILE


_kept: Final[dict[tuple[int, bytes], Common]] = {}
"""By where it stands and the digest of what it is."""


def hold(start: int, content: bytes | bytearray) -> Common:
    """For one program more that has this content there; to be given back by `release`. Raises OSError."""
    key = start, hashlib.sha256(content).digest()
    common = _kept.get(key)
    if common is None:
        common = _kept[key] = Common(key, start, start + len(content))
    elif common.fd == NO_FILE:
        common.fd = _sealed(content)
    common.hold()
    return common


def _sealed(content: bytes | bytearray) -> int:
    fd = os.memfd_create("common", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view, at = memoryview(content), 0
        while at < len(view):
            at += os.pwrite(fd, view[at:], at)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


os.register_at_fork(after_in_child=_kept.clear)  # a process that enters a jail has closed the files of the one it came from
