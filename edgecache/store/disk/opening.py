"""Opens the index of a disk tier, or makes it. What cannot be read is removed: it is only a cache. Called by `tier`."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import lmdb

from edgecache.store.disk.crashes import left_behind
from edgecache.store.disk.index import Index, WrongFormat
from edgecache.store.disk.segments import numbers, unlink
from edgecache.store.disk.settings import DiskSettings

_log = logging.getLogger(__name__)


class DiskError(OSError):
    """The tier cannot be opened, or the disk refused what was asked of it."""


def open_index(settings: DiskSettings, before: Index | None = None) -> Index:
    """Raises DiskError. `before`: one that was put aside. It is made anew if it is still there, or only a copy of it or an older
    one: there, purges are missing. Another process may have made it anew already.
    """
    try:
        settings.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _alone(settings.path):
            return _opened(settings, before)
    except (OSError, lmdb.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DiskError(f"the disk tier {settings.path} cannot be opened: {reason}") from error


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Several processes find the same damage: what one has made anew must not be removed by the next."""
    fd = os.open(directory / "open.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _opened(settings: DiskSettings, before: Index | None) -> Index:
    with suppress(FileNotFoundError):
        found = (settings.path / "index" / "data.mdb").stat()
        identity = found.st_dev, found.st_ino
        death = left_behind(settings.path, identity)
        if death is not None:
            _log.error("disk tier %s is made anew: a process died reading its index: %s", settings.path, death)
        if death is not None or (before is not None and identity == before.identity):
            _remove(settings.path)
    try:
        index = Index(settings.path / "index", settings.map_bytes)
    except (WrongFormat, lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.VersionMismatchError) as error:
        _log.error("disk tier %s is made anew: %s", settings.path, error)
        _remove(settings.path)
        index = Index(settings.path / "index", settings.map_bytes)
    if before is not None and index.born <= before.born:
        index.close()
        _log.error(
            "disk tier %s is made anew: somebody has put a copy of its index, or an older one, in its place", settings.path
        )
        _remove(settings.path)
        index = Index(settings.path / "index", settings.map_bytes)
    if index.made and any(True for _ in numbers(settings.path)):
        _log.warning("disk tier %s: its index was missing or empty; bodies that it does not name are removed", settings.path)
    return index


def _remove(directory: Path) -> None:
    """The tier's own files, and nothing else that may be there."""
    shutil.rmtree(directory / "index")
    for number in numbers(directory):
        unlink(directory, number)
