"""What a process leaves behind that dies within the index: LMDB takes pages for sound, and aborts, or reads where it must not,
where they are not. Nobody can catch that; but who opens the tier next can know it, and not die likewise.

The dying process writes its stack (faulthandler). `tier` keeps a record while the index is open, `opening` reads those of others.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_PREFIX: Final = "crash-"
_HERE: Final = f"{Path(__file__).parent}{os.sep}".encode()
_MAX_BYTES: Final = 16 << 10


class CrashRecord:
    """That of this process, while it lives."""

    def __init__(self, directory: Path, identity: tuple[int, int]) -> None:
        """Raises OSError. `identity`: `Index.identity`."""
        self._path = directory / f"{_PREFIX}{identity[1]}-{os.getpid()}"
        self._before = faulthandler.is_enabled()
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        # While it is held, its owner lives.
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        faulthandler.enable(self._fd, all_threads=False)

    def close(self) -> None:
        """The index is used no more."""
        if self._before:
            faulthandler.enable()
        else:
            faulthandler.disable()
        with contextlib.suppress(OSError):
            self._path.unlink()
        os.close(self._fd)


def left_behind(directory: Path, identity: tuple[int, int]) -> str | None:
    """How a process that has died came to its end within this very index; None: none did. Forgets all who have died."""
    found: str | None = None
    for name in [entry.name for entry in os.scandir(directory) if entry.name.startswith(_PREFIX)]:
        with contextlib.suppress(OSError), _of_the_dead(directory / name) as told:
            if told is not None and _HERE in told and name.startswith(f"{_PREFIX}{identity[1]}-"):
                found = told.partition(b"\n")[0].decode("ascii", "replace")
    return found


@contextlib.contextmanager
def _of_the_dead(path: Path) -> Iterator[bytes | None]:
    """What is written there, then removed; None: its owner lives. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield os.read(fd, _MAX_BYTES)
        path.unlink()
    finally:
        os.close(fd)
