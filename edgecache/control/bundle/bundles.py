"""Bundles: the files of one push, content-addressed by SHA-256 and kept on disk, immutable, one file each.

A stored bundle is a sequence of netstrings, path and content in turn, sorted by path; its digest is the SHA-256 of exactly
those bytes, so that `sha256sum` proves it. Blocking: callers use a thread. Knows nothing of manifests and versions.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgecache.control.bundle.archive import ArchiveError, read_archive
from edgecache.control.durable import TEMPORARY, write_durably
from edgecache.control.settings import BundleLimits

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_MAX_LENGTH_DIGITS: Final = 12


class BundleError(Exception):
    """A bundle that cannot be taken, or that is not on disk as it was stored. The message says why."""


@dataclass(frozen=True, slots=True)
class Bundle:
    """Files by path, sorted, and the digest that names them."""

    digest: str
    files: tuple[tuple[str, bytes], ...]
    size_bytes: int
    """Of all contents together."""

    def content(self, path: str) -> bytes | None:
        return next((content for name, content in self.files if name == path), None)

    @property
    def paths(self) -> tuple[str, ...]:
        return tuple(path for path, _ in self.files)


def parse_bundle(archive: bytes, limits: BundleLimits) -> Bundle:
    """The bundle in a tar archive, plain or gzipped. Raises BundleError."""
    try:
        files = read_archive(archive, limits)
    except ArchiveError as error:
        raise BundleError(str(error)) from error
    if not files:
        raise BundleError("the archive holds no files")
    return make_bundle(files)


def make_bundle(files: dict[str, bytes]) -> Bundle:
    """The bundle of these files, whatever their order."""
    ordered = tuple(sorted(files.items()))
    digest = hashlib.sha256()
    for piece in _framed(ordered):
        digest.update(piece)
    return Bundle(digest.hexdigest(), ordered, sum(len(content) for _, content in ordered))


class BundleStore:
    """A directory of bundles. Raises OSError where the disk refuses."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def prepare(self) -> None:
        """Make the directory; remove what an interrupted write left."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in self._directory.glob(f"{TEMPORARY}*"):
            leftover.unlink(missing_ok=True)

    def put(self, bundle: Bundle) -> None:
        """Store durably: when this returns, the bundle survives a power cut. One that is there already is not written again."""
        target = self._path(bundle.digest)
        if target.exists():
            return
        write_durably(target, _framed(bundle.files), mode=0o400)

    def get(self, digest: str) -> Bundle:
        """Read back and prove. Raises BundleError when it is missing or not what was stored."""
        try:
            data = self._path(digest).read_bytes()
        except FileNotFoundError as error:
            raise BundleError(f"the bundle {digest} is not in {self._directory}; push it again") from error
        except OSError as error:
            raise BundleError(f"the bundle {digest} cannot be read: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise BundleError(f"the bundle {digest} is damaged on disk; push it again")
        files = tuple(_unframed(data))
        return Bundle(digest, files, sum(len(content) for _, content in files))

    def discard_damaged(self, digest: str) -> None:
        """Make room for the same content, pushed again, where the stored file is no longer it."""
        path = self._path(digest)
        if path.exists():
            try:
                self.get(digest)
            except BundleError:
                path.unlink(missing_ok=True)

    def collect(self, referred: Collection[str]) -> int:
        """Remove every bundle that is not `referred` to. Returns how many were removed."""
        removed = 0
        for path in self._directory.iterdir():
            if _DIGEST.fullmatch(path.name) and path.name not in referred:
                path.unlink(missing_ok=True)
                removed += 1
        return removed

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise BundleError(f"{digest[:70]!r} is not a bundle's digest")
        return self._directory / digest


def _framed(files: tuple[tuple[str, bytes], ...]) -> Iterator[bytes]:
    for path, content in files:
        encoded = path.encode()
        yield b"%d:%b,%d:" % (len(encoded), encoded, len(content))
        yield content
        yield b","


def _unframed(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The inverse of `_framed`, for bytes whose digest was proven."""
    position = 0
    while position < len(data):
        path, position = _netstring(data, position)
        content, position = _netstring(data, position)
        yield path.decode(), content


def _netstring(data: bytes, position: int) -> tuple[bytes, int]:
    colon = data.find(b":", position, position + _MAX_LENGTH_DIGITS + 1)
    digits = data[position:colon] if colon >= 0 else b""
    end = colon + 1 + int(digits) if digits.isdigit() else -1
    if end < 0 or data[end : end + 1] != b",":
        raise BundleError("a stored bundle is not a sequence of netstrings")
    return data[colon + 1 : end], end + 1
