"""The file of an index, as others may leave it: cut off, replaced, taken away. To read where it has ended would end the process
(SIGBUS), so it is looked at before it is used, and from time to time. `index` calls it; nothing of what is in it here.
"""

from __future__ import annotations

import os
from pathlib import Path

import lmdb


class IndexFile:
    """That of an open environment."""

    def __init__(self, path: Path, env: lmdb.Environment) -> None:
        """Raises OSError, lmdb.Error."""
        self.path = path
        self._env = env
        self._page_bytes: int = env.stat()["psize"]
        self._filled = True
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        self.identity = _identity(os.fstat(self._fd))

    def close(self) -> None:
        os.close(self._fd)

    def fault(self) -> str | None:
        """What somebody else has done to it; None: nothing."""
        try:
            found = self.path.stat()
        except OSError as error:
            return f"{self.path}: {error.strerror}"
        if _identity(found) != self.identity:
            return f"{self.path} was replaced"
        # The first two pages say how many there are.
        if found.st_size < 2 * self._page_bytes or (self._filled and found.st_size < self._said_bytes()):
            return f"{self.path} was cut off: it has fewer pages than it says"
        return None

    def fill_up(self) -> None:
        """LMDB does not write pages that a transaction took and gave back, so the file may end before them. Here it does not."""
        have, said = os.fstat(self._fd).st_size, self._said_bytes()
        self._filled = True
        if have < said:
            try:
                # Never shortens a file that another process has made longer meanwhile.
                os.posix_fallocate(self._fd, have, said - have)
            except OSError:
                self._filled = False

    def _said_bytes(self) -> int:
        pages: int = self._env.info()["last_pgno"] + 1
        return pages * self._page_bytes


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
