"""What a guest can open: the bundle's files, read-only, under `/`, and a few devices.

Values and lookups only; `file_calls.py` gives them the shape of system calls.
"""

from __future__ import annotations

import enum
import posixpath
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

MAX_OPEN: Final = 64


class FileKind(enum.Enum):
    """What an open file is."""

    STDIN = enum.auto()
    STDOUT = enum.auto()
    STDERR = enum.auto()
    FILE = enum.auto()
    DIRECTORY = enum.auto()
    NULL = enum.auto()
    RANDOM = enum.auto()


@dataclass(frozen=True, slots=True)
class GuestFile:
    """An open file: replaced, never changed, so that a snapshot of a table is a copy of the table."""

    kind: FileKind
    path: str = ""
    offset: int = 0


STANDARD: Final[Mapping[int, GuestFile]] = {
    0: GuestFile(FileKind.STDIN),
    1: GuestFile(FileKind.STDOUT),
    2: GuestFile(FileKind.STDERR),
}
_DEVICES: Final = {"/dev/null": FileKind.NULL, "/dev/urandom": FileKind.RANDOM, "/dev/random": FileKind.RANDOM}

_MODES: Final = {
    FileKind.STDIN: stat.S_IFIFO | 0o400,
    FileKind.STDOUT: stat.S_IFIFO | 0o200,
    FileKind.STDERR: stat.S_IFIFO | 0o200,
    FileKind.FILE: stat.S_IFREG | 0o444,
    FileKind.DIRECTORY: stat.S_IFDIR | 0o555,
    FileKind.NULL: stat.S_IFCHR | 0o666,
    FileKind.RANDOM: stat.S_IFCHR | 0o444,
}


class FileTree:
    """The bundle's files as a tree. Immutable, shared by all VMs of a program."""

    def __init__(self, files: Iterable[tuple[str, bytes]]) -> None:
        self._files = {_absolute(path): content for path, content in files}
        children: dict[str, set[str]] = {"/": set()}
        for path in self._files:
            child = path
            while child != "/":
                parent = posixpath.dirname(child)
                children.setdefault(parent, set()).add(posixpath.basename(child))
                child = parent
        self._directories = {path: tuple(sorted(names)) for path, names in children.items()}
        self._numbers = {path: n for n, path in enumerate((*self._directories, *self._files), start=2)}

    def find(self, path: str) -> GuestFile | None:
        """What an absolute, normalised path names; None for nothing."""
        if path in self._files:
            return GuestFile(FileKind.FILE, path)
        if path in self._directories:
            return GuestFile(FileKind.DIRECTORY, path)
        device = _DEVICES.get(path)
        return GuestFile(device, path) if device else None

    def content(self, file: GuestFile) -> bytes:
        return self._files[file.path]

    def names(self, directory: GuestFile) -> tuple[tuple[str, GuestFile], ...]:
        """Name and file of everything in a directory, `.` and `..` first."""
        here = directory.path
        inside = tuple(
            (name, found) for name in self._directories[here] if (found := self.find(posixpath.join(here, name))) is not None
        )
        return ((".", directory), ("..", GuestFile(FileKind.DIRECTORY, posixpath.dirname(here))), *inside)

    def number(self, file: GuestFile) -> int:
        """A stable inode number, never 0."""
        return self._numbers.get(file.path, 1)

    def size(self, file: GuestFile) -> int:
        return len(self._files[file.path]) if file.kind is FileKind.FILE else 0


def mode(file: GuestFile) -> int:
    """st_mode."""
    return _MODES[file.kind]


def _absolute(path: str) -> str:
    return posixpath.normpath("/" + path.lstrip("/"))


def resolve(directory: str, path: str) -> str:
    """`path` as seen from `directory`, absolute and normalised; `..` stops at the root."""
    return posixpath.normpath("/" + posixpath.join(directory, path).lstrip("/"))
