"""Reading a tar archive, plain or gzipped, from memory: hostile bytes in, regular files out. Bounded everywhere, no disk.

A reader of its own because it must refuse what `tarfile` is built to accept: links, devices, sparse files, repeated names, data
after the end. Formats: POSIX ustar and pax (IEEE Std 1003.1, pax), GNU long names; gzip (RFC 1952). `bundles` calls it.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from edgecache.control.settings import BundleLimits

_BLOCK: Final = 512
_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_WINDOW: Final = 16 + zlib.MAX_WBITS
_MAX_MEMBERS: Final = 64
"""Members of one gzip file (RFC 1952 section 2.2)."""
_MAX_EXTENDED: Final = 64 * 1024
"""Bytes of one pax header or GNU long name."""
_MAX_RECORDS: Final = 64
"""Records of one pax header; tar programs write fewer than ten."""
_MAX_IN_A_ROW: Final = 4
"""Extended headers before one entry: a pax header, a long name, and as much again."""
_REFUSED: Final = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"6": "a FIFO",
    b"S": "a sparse file",
}
_NO_TAR: Final = "this is no tar archive, or a damaged one (header checksum); send a tar file, plain or gzipped"
_ADVICE_KINDS: Final = "a bundle holds regular files only"


class ArchiveError(Exception):
    """The archive cannot be taken. The message names the entry and says what would be right."""


@dataclass(frozen=True, slots=True)
class _Header:
    name: str
    size: int
    kind: bytes


def read_archive(data: bytes, limits: BundleLimits) -> dict[str, bytes]:
    """Regular files of the archive by path relative to its root. Raises ArchiveError.

    Paths are UTF-8 without `.`, `..`, empty parts or control characters; no path is both a file and a directory.
    """
    content = _gunzip(data, limits.uncompressed_bytes) if data.startswith(_GZIP_MAGIC) else data
    if len(content) > limits.uncompressed_bytes:
        raise ArchiveError(f"the archive is {len(content)} bytes long; at most {limits.uncompressed_bytes} are taken")
    files: dict[str, bytes] = {}
    directories: set[str] = set()
    for header, body in _entries(content, limits):
        path = _path(header.name, limits, directory=header.kind == b"5")
        if header.kind == b"5":
            directories.add(path)
            continue
        if path in files:
            raise ArchiveError(f"{path!r} is in the archive twice; each file may be there once")
        if len(files) >= limits.files:
            raise ArchiveError(f"the archive holds more than {limits.files} files")
        files[path] = bytes(body)
        directories.update(_parents(path))
    both = sorted(directories & files.keys())
    if both:
        raise ArchiveError(f"{both[0]!r} is both a file and a directory")
    return files


def _gunzip(data: bytes, limit: int) -> bytes:
    """RFC 1952 members one after another, never more than `limit` bytes of them."""
    out: list[bytes] = []
    total = 0
    for _ in range(_MAX_MEMBERS):
        inflate = zlib.decompressobj(_GZIP_WINDOW)
        try:
            piece = inflate.decompress(data, limit - total + 1)
        except zlib.error as error:
            raise ArchiveError("the gzip data is damaged; pack the directory again") from error
        total += len(piece)
        if total > limit:
            raise ArchiveError(f"the archive unpacks to more than {limit} bytes")
        if not inflate.eof:
            raise ArchiveError("the gzip data ends too early; send the whole file")
        out.append(piece)
        data = inflate.unused_data
        if not data:
            return b"".join(out)
        if not data.startswith(_GZIP_MAGIC):
            if not data.strip(b"\0"):
                return b"".join(out)
            raise ArchiveError("something follows the gzip data; send the archive alone")
    raise ArchiveError(f"the gzip data has more than {_MAX_MEMBERS} members; pack the directory again")


def _entries(content: bytes, limits: BundleLimits) -> Iterator[tuple[_Header, memoryview]]:
    """Headers with their contents, extended headers applied; ends at the first zero block, after which only zeros may stand."""
    data = memoryview(content)
    position = 0
    name: str | None = None
    size: int | None = None
    extended = 0
    for _ in range(4 * limits.files + 64):
        block = data[position : position + _BLOCK]
        if len(block) < _BLOCK:
            raise ArchiveError("the tar archive ends too early, without its closing zero blocks; send the whole file")
        position += _BLOCK
        if not any(block):
            if content.count(0, position) < len(content) - position:
                raise ArchiveError("something follows the end of the tar archive; send the archive alone")
            return
        header = _header(bytes(block))
        size = header.size if size is None or header.kind in b"xgLK" else size
        if size > len(data) - position:
            raise ArchiveError(f"the tar archive ends inside {_shown(header.name)}; send the whole file")
        body = data[position : position + size]
        position += -(-size // _BLOCK) * _BLOCK
        extended = extended + 1 if header.kind in {b"x", b"g", b"L"} else 0
        if extended > _MAX_IN_A_ROW:
            raise ArchiveError(f"more than {_MAX_IN_A_ROW} extended headers stand in a row; pack the directory again")
        if header.kind in {b"x", b"L"}:
            long_name, long_size = _extended(header, bytes(body[: _MAX_EXTENDED + 1]))
            name, size = long_name or name, long_size
            continue
        if header.kind == b"g":
            size = None
            continue
        yield _Header(name or header.name, size, _kind(header)), body
        name, size = None, None
    raise ArchiveError("the archive holds too many entries")


def _header(block: bytes) -> _Header:
    stored = _octal(block[148:156], "checksum")
    if stored != sum(block[:148]) + 8 * 32 + sum(block[156:]):
        raise ArchiveError(_NO_TAR)
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and block[345]:
        name = f"{_text(block[345:500])}/{name}"
    return _Header(name, _octal(block[124:136], f"size of {_shown(name)}"), block[156:157])


def _kind(header: _Header) -> bytes:
    """A file as `0`, a directory as `5`."""
    if header.kind in {b"0", b"\0", b"7"}:
        return b"5" if header.name.endswith("/") else b"0"
    if header.kind == b"5":
        return b"5"
    refused = _REFUSED.get(header.kind, f"an entry of type {header.kind!r}")
    raise ArchiveError(f"{_shown(header.name)} is {refused}; {_ADVICE_KINDS}")


def _extended(header: _Header, body: bytes) -> tuple[str | None, int | None]:
    """Name and size that an extended header gives the next entry."""
    if len(body) > _MAX_EXTENDED:
        raise ArchiveError(f"an extended header is longer than {_MAX_EXTENDED} bytes")
    if header.kind == b"L":
        return _text(body), None
    name: str | None = None
    size: int | None = None
    for key, value in _records(body):
        if key == b"path":
            name = _text(value)
        elif key == b"size":
            size = _decimal(value)
        elif key.startswith(b"GNU.sparse."):
            raise ArchiveError(f"the archive holds a sparse file; {_ADVICE_KINDS}")
    return name, size


def _records(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """pax records: `LENGTH KEY=VALUE\\n`, the length counting all of it."""
    position = 0
    for _ in range(_MAX_RECORDS):
        if position == len(body):
            return
        digits, space, _rest = body[position : position + 8].partition(b" ")
        end = position + (_decimal(digits) if space else 0)
        record = body[position + len(digits) + 1 : end]
        key, equals, value = record.partition(b"=")
        if end > len(body) or not equals or not record.endswith(b"\n"):
            raise ArchiveError("a pax header is malformed; pack the directory again")
        yield key, value[:-1]
        position = end
    if position < len(body):
        raise ArchiveError(f"a pax header has more than {_MAX_RECORDS} records; pack the directory again")


def _decimal(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > 18:
        raise ArchiveError("a pax header is malformed; pack the directory again")
    return int(digits)


def _octal(field: bytes, what: str) -> int:
    """A numeric header field. GNU's base-256 form is for sizes that no bundle has."""
    digits = field.strip(b" \0")
    if not digits and what != "checksum":
        return 0
    if not digits or digits.strip(b"01234567"):
        if what == "checksum":
            raise ArchiveError(_NO_TAR)
        raise ArchiveError(f"this is not a tar archive that can be taken: the {what} is not an octal number")
    return int(digits, 8)


def _text(field: bytes) -> str:
    try:
        return field.partition(b"\0")[0].decode()
    except UnicodeDecodeError as error:
        raise ArchiveError("a path in the archive is not UTF-8; rename the file") from error


def _path(name: str, limits: BundleLimits, *, directory: bool) -> str:
    """The path in its one canonical form; `.` for the root directory."""
    shown = _shown(name)
    if name.startswith("/"):
        raise ArchiveError(f"{shown} is an absolute path; paths are relative to the bundle's directory")
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in parts:
        raise ArchiveError(f"{shown} leads out of the bundle's directory; remove the `..`")
    path = "/".join(parts)
    if not path and not directory:
        raise ArchiveError("an entry of the archive has no name")
    if len(path.encode()) > limits.path_bytes:
        raise ArchiveError(f"{shown} is longer than {limits.path_bytes} bytes")
    if len(parts) > limits.depth:
        raise ArchiveError(f"{shown} is nested more than {limits.depth} deep")
    if not path.isprintable() or "\\" in path:
        raise ArchiveError(f"{shown} holds control characters or a backslash; rename the file")
    return path or "."


def _parents(path: str) -> Iterator[str]:
    while "/" in path:
        path = path.rpartition("/")[0]
        yield path


def _shown(name: str) -> str:
    return repr(name if len(name) <= 60 else name[:57] + "...")
