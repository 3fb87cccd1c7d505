"""Files that are whole or not there, after a power cut too. Blocking: callers use a thread, or have not begun to serve.

`bundles` writes what is pushed so, `tokens` the operator's token.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

TEMPORARY: Final = ".incoming-"
"""How the names of files begin that are not whole yet, or that an interrupted write has left."""


def write_durably(target: Path, pieces: Iterable[bytes], *, mode: int) -> None:
    """Put `pieces` in the place of whatever is at `target`; nobody sees it with other rights than `mode`. Raises OSError."""
    descriptor, name = tempfile.mkstemp(prefix=TEMPORARY, dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.writelines(pieces)
            file.flush()
            os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        Path(name).replace(target)
        _sync_directory(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(name).unlink(missing_ok=True)
        raise


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
