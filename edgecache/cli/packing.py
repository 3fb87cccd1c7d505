"""A bundle's directory becomes the archive that is pushed: the manifest, the program, and what the manifest's `files` names.

Deterministic: the same contents make the same bytes. The edge checks it all again; here the author hears of mistakes sooner.
"""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgecache.cli.errors import CommandFailed, from_form
from edgecache.control.bundle.bundles import Bundle, make_bundle
from edgecache.control.bundle.manifest import FILE_NAME, Manifest, matches, read_manifest
from edgecache.control.settings import BundleLimits
from edgecache.control.words import LIMIT_WORDS
from edgecache.yamlform import load_file
from sandbox import Limits

_BOUNDS: Final = BundleLimits()
_REGULAR: Final = "a bundle holds regular files only: remove it, or copy in what it leads to"
_ANY_LIMITS: Final = Limits(**{word.field: word.high for word in LIMIT_WORDS.values()})
"""Only the edge knows the site's ceiling."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A bundle's manifest, and the files that are pushed."""

    manifest: Manifest
    bundle: Bundle


def pack(directory: Path) -> Packed:
    """Read the bundle in `directory`. Hidden files are left out. Raises CommandFailed with every mistake of the manifest."""
    found = make_bundle(_read_all(directory))
    with from_form(f"the bundle in {directory} cannot be used"):
        manifest = read_manifest(found, _ANY_LIMITS)
    chosen = {
        path: content
        for path, content in found.files
        if path in {FILE_NAME, manifest.program} or any(matches(path, glob) for glob in manifest.files)
    }
    return Packed(manifest, make_bundle(chosen))


def archive(bundle: Bundle) -> bytes:
    """The bundle as a gzipped tar (POSIX pax): no owners, no times, sorted."""
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", mtime=0) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for path, content in bundle.files:
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            entry.mode = 0o644
            tar.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def program_of(directory: Path) -> str:
    """The manifest's `program`, whatever else it says: it may not be built yet. Raises CommandFailed."""
    with from_form(f"the bundle in {directory} cannot be used"):
        form = load_file(manifest_path(directory))
        entries = form.entries()
        if "program" not in entries:
            raise form.error("needs the key program: the path of the executable in the bundle")
        node = entries["program"]
        name = node.text(limit=255).removeprefix("./")
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise node.error(f"{name!r} is not a path inside the bundle")
        return name


def manifest_path(directory: Path) -> Path:
    """Where the manifest of the bundle in `directory` is. Raises CommandFailed when there is none."""
    path = directory / FILE_NAME
    if not path.is_file():
        raise CommandFailed(
            f"{directory} is no bundle: it holds no {FILE_NAME}",
            advice="name a bundle's directory, or make one with `edgecache generator init NAME`",
        )
    return path


def _read_all(directory: Path) -> dict[str, bytes]:
    manifest_path(directory)
    root = directory.resolve()
    files: dict[str, bytes] = {}
    total = 0
    for folder, names, entries in os.walk(root, onerror=_unreadable):
        names[:] = sorted(name for name in names if not name.startswith("."))
        if link := next((name for name in names if Path(folder, name).is_symlink()), None):
            raise CommandFailed(f"{Path(folder, link)} is a link to a directory", advice=_REGULAR)
        for name in sorted(entries):
            path = Path(folder, name)
            if name.startswith("."):
                continue
            total += _size(path, root)
            if total > _BOUNDS.uncompressed_bytes or len(files) >= _BOUNDS.files:
                raise CommandFailed(
                    f"{directory} holds more than a bundle may: {_BOUNDS.files} files, {_BOUNDS.uncompressed_bytes >> 20} MiB",
                    advice="push a directory that holds nothing but the bundle",
                )
            files[path.relative_to(root).as_posix()] = _read(path)
    return files


def _unreadable(error: OSError) -> None:
    """What is not pushed for want of permission would be missing where the program runs."""
    raise CommandFailed(f"cannot read {error.filename}: {error.strerror}", advice="make it readable, or remove it") from error


def _size(path: Path, root: Path) -> int:
    """Of a regular file, or of one inside the bundle that a link leads to."""
    try:
        target = path.resolve()
    except (OSError, RuntimeError):
        target = Path()  # Links in a circle.
    if not target.is_file() or not target.is_relative_to(root):
        kind = "a link that leads out of the bundle or nowhere" if path.is_symlink() else "no regular file"
        raise CommandFailed(f"{path} is {kind}", advice=_REGULAR)
    return target.stat().st_size


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CommandFailed(f"cannot read {path}: {error.strerror}", advice="make it readable, or remove it") from error
