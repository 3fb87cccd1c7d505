"""Opens the index of a disk tier, or makes it. What cannot be read is removed: it is only a cache. Called by `tier`."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import lmdb

from edgecache.store.disk.index import Index, WrongFormat
from edgecache.store.disk.segments import numbers, unlink
from edgecache.store.disk.settings import DiskSettings

_log = logging.getLogger(__name__)


class DiskError(OSError):
    """The tier cannot be opened, or the disk refused what was asked of it."""


def open_index(settings: DiskSettings) -> Index:
    """Raises DiskError."""
    try:
        settings.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            return Index(settings.path / "index", settings.map_bytes)
        except (WrongFormat, lmdb.CorruptedError, lmdb.InvalidError, lmdb.VersionMismatchError) as error:
            _log.error("disk tier %s is made anew: %s", settings.path, error)
            _remove(settings.path)
            return Index(settings.path / "index", settings.map_bytes)
    except (OSError, lmdb.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DiskError(f"the disk tier {settings.path} cannot be opened: {reason}") from error


def _remove(directory: Path) -> None:
    """The tier's own files, and nothing else that may be there."""
    shutil.rmtree(directory / "index")
    for number in numbers(directory):
        unlink(directory, number)
