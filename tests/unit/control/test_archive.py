"""Archives: every ordinary writer's output is read, and everything but plain files in plain places is refused with its name."""

from __future__ import annotations

import contextlib
import gzip
import io
import tarfile
import zlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.control.bundle.archive import ArchiveError, read_archive
from edgecache.control.settings import BundleLimits
from tests.control_support import tar

LIMITS = BundleLimits(upload_bytes=1 << 20, uncompressed_bytes=1 << 20, files=20, path_bytes=200, depth=6)
FORMS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
GOOD = {"generator.yaml": b"name: x\n", "a/b/c.html": b"<p>", "empty": b"", "block": bytes(512)}


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_each_tar_format_is_read(form: int) -> None:
    assert read_archive(tar(GOOD, form=form), LIMITS) == GOOD


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_long_and_foreign_names_are_read(form: str) -> None:
    content = {"d" * 90 + "/" + "e" * 90: b"long", "ä/ö.txt": b"umlaut"}
    assert read_archive(tar(content, form=FORMS[form]), LIMITS) == content


def test_gzip_is_unpacked_also_in_several_members_and_with_padding() -> None:
    data = tar(GOOD)
    assert read_archive(gzip.compress(data), LIMITS) == GOOD
    assert read_archive(gzip.compress(data[:700]) + gzip.compress(data[700:]) + bytes(100), LIMITS) == GOOD


def test_directories_and_dot_prefixes_are_only_structure() -> None:
    extra = [entry("./", tarfile.DIRTYPE), entry("a", tarfile.DIRTYPE), entry("./a/b/", tarfile.DIRTYPE)]
    assert read_archive(tar({"./x": b"1"}, extra=extra), LIMITS) == {"x": b"1"}


REFUSED = {
    "symbolic link": ([entry("l", tarfile.SYMTYPE, "/etc/passwd")], "'l' is a symbolic link"),
    "hard link": ([entry("l", tarfile.LNKTYPE, "x")], "'l' is a hard link"),
    "character device": ([entry("l", tarfile.CHRTYPE)], "character device"),
    "block device": ([entry("l", tarfile.BLKTYPE)], "block device"),
    "fifo": ([entry("l", tarfile.FIFOTYPE)], "FIFO"),
    "absolute": ([entry("/etc/passwd")], "absolute path"),
    "parent": ([entry("a/../../b")], "leads out of"),
    "parent directory": ([entry("../", tarfile.DIRTYPE)], "leads out of"),
    "control character": ([entry("a\nb")], "control characters"),
    "backslash": ([entry("a\\b")], "backslash"),
    "twice": ([entry("x"), entry("./x")], "twice"),
    "file and directory": ([entry("x"), entry("x/y")], "both a file and a directory"),
    "deep": ([entry("a/" * 7 + "b")], "nested more than 6 deep"),
    "long": ([entry("a" * 250)], "longer than 200 bytes"),
    "no name": ([entry(".")], "no name"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_anything_but_plain_files_is_refused(case: str) -> None:
    extra, said = REFUSED[case]
    with pytest.raises(ArchiveError, match=said):
        read_archive(tar({}, extra=extra), LIMITS)


def test_too_many_files_are_refused() -> None:
    with pytest.raises(ArchiveError, match="more than 20 files"):
        read_archive(tar({f"f{n}": b"" for n in range(21)}), LIMITS)


def test_endless_directories_are_refused() -> None:
    extra = [entry(f"d{n}", tarfile.DIRTYPE) for n in range(200)]
    with pytest.raises(ArchiveError, match="too many entries"):
        read_archive(tar({}, extra=extra), LIMITS)


def test_a_gzip_bomb_is_stopped_at_the_bound() -> None:
    with pytest.raises(ArchiveError, match="unpacks to more than"):
        read_archive(gzip.compress(bytes(50 << 20)), LIMITS)


def test_a_bomb_of_members_is_stopped() -> None:
    with pytest.raises(ArchiveError, match="more than 64 members"):
        read_archive(gzip.compress(b"") * 1_000, LIMITS)


def test_a_large_plain_archive_is_refused() -> None:
    with pytest.raises(ArchiveError, match="at most 1048576"):
        read_archive(bytes(2 << 20), LIMITS)


@pytest.mark.parametrize("cut", [1, 511, 512, 1000, 1025])
def test_a_cut_archive_is_refused(cut: int) -> None:
    with pytest.raises(ArchiveError):
        read_archive(tar(GOOD)[:cut], LIMITS)


def test_a_cut_or_damaged_gzip_is_refused() -> None:
    data = gzip.compress(tar(GOOD))
    with pytest.raises(ArchiveError, match="ends too early"):
        read_archive(data[:-6], LIMITS)
    with pytest.raises(ArchiveError, match="damaged"):
        read_archive(data[:30] + bytes(10) + data[40:], LIMITS)
    with pytest.raises(ArchiveError, match="follows the gzip data"):
        read_archive(data + b"more", LIMITS)


def test_data_after_the_end_is_refused() -> None:
    with pytest.raises(ArchiveError, match="follows the end"):
        read_archive(tar(GOOD) + tar({"hidden": b""}), LIMITS)


def test_what_is_no_tar_is_called_so() -> None:
    with pytest.raises(ArchiveError, match="no tar archive"):
        read_archive(b"PK\3\4" + b"x" * 2_000, LIMITS)


def header(info: tarfile.TarInfo, **fields: bytes) -> bytes:
    """A header with fields overwritten, its checksum made right again."""
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT)[:512])
    places = {"size": 124, "name": 0, "kind": 156}
    for name, value in fields.items():
        block[places[name] : places[name] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("size", [b"\x80\0\0\0\0\0\0\0\0\0\0\1", b"-0000000001\0", b"77777777777\0", b"9\0"])
def test_a_lying_size_is_refused(size: bytes) -> None:
    with pytest.raises(ArchiveError, match=r"octal|ends inside"):
        read_archive(header(entry("x"), size=size) + bytes(1024), LIMITS)


@pytest.mark.parametrize(
    "body", [b"99 path=x\n", b"x path=a\n", b"9 path=abc", b"12 path\n", b"0 a=b\n", b"-1 a=b\n", b"\n" * 20]
)
def test_a_malformed_pax_header_is_refused(body: bytes) -> None:
    info = entry("x", b"x")
    info.size = len(body)
    data = info.tobuf(tarfile.USTAR_FORMAT)[:512] + body.ljust(512, b"\0") + tar({"y": b""})
    with pytest.raises(ArchiveError):
        read_archive(data, LIMITS)


def test_a_pax_size_that_runs_past_the_end_is_refused() -> None:
    body = b"18 size=999999999\n"
    info = entry("x", b"x")
    info.size = len(body)
    with pytest.raises(ArchiveError, match="ends inside"):
        read_archive(info.tobuf(tarfile.USTAR_FORMAT)[:512] + body.ljust(512, b"\0") + tar({"y": b""}), LIMITS)


@given(st.binary(max_size=4_000))
def test_no_bytes_raise_anything_but_archive_error(data: bytes) -> None:
    for given_data in (data, gzip.compress(data), b"\x1f\x8b" + data):
        with contextlib.suppress(ArchiveError):
            read_archive(given_data, LIMITS)


@given(st.data())
def test_a_mutated_archive_is_read_within_bounds_or_refused(data: st.DataObject) -> None:
    original = bytearray(tar(GOOD, form=data.draw(st.sampled_from(sorted(FORMS.values())))))
    for _ in range(data.draw(st.integers(1, 8))):
        original[data.draw(st.integers(0, 3_000))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ArchiveError):
        for path, content in read_archive(bytes(original), LIMITS).items():
            assert not path.startswith("/") and ".." not in path.split("/") and len(content) <= LIMITS.uncompressed_bytes


@given(st.dictionaries(st.from_regex(r"[a-z]{1,8}(/[a-z]{1,8}){0,3}", fullmatch=True), st.binary(max_size=1500), max_size=8))
def test_what_tarfile_writes_is_what_is_read(content: dict[str, bytes]) -> None:
    parents = {path.rpartition("/")[0] for path in content} | {path.split("/")[0] for path in content if "/" in path}
    parents |= {"/".join(path.split("/")[:n]) for path in content for n in range(1, path.count("/") + 1)}
    if parents & content.keys():
        with pytest.raises(ArchiveError, match="both a file and a directory"):
            read_archive(tar(content), replace(LIMITS, files=100))
    else:
        assert read_archive(tar(content), replace(LIMITS, files=100)) == content


def test_zlib_alone_is_not_gzip() -> None:
    with pytest.raises(ArchiveError):
        read_archive(zlib.compress(tar(GOOD)), LIMITS)


def test_the_reader_agrees_with_tarfile_on_its_own_output() -> None:
    data = tar(GOOD, form=tarfile.GNU_FORMAT)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert set(archive.getnames()) == set(read_archive(data, LIMITS))


def extended(body: bytes, kind: bytes = b"x") -> bytes:
    info = entry("x", kind)
    info.size = len(body)
    return info.tobuf(tarfile.USTAR_FORMAT)[:512] + body.ljust(-(-len(body) // 512) * 512, b"\0")


def test_a_pax_header_of_thousands_of_records_is_refused() -> None:
    """Each costs more than its five bytes: a small archive of them would take long to read."""
    assert read_archive(extended(b"5 a=\n" * 64) + tar({"y": b""}), LIMITS) == {"y": b""}
    with pytest.raises(ArchiveError, match="more than 64 records"):
        read_archive(extended(b"5 a=\n" * 65) + tar({"y": b""}), LIMITS)


def test_extended_headers_without_an_entry_are_refused() -> None:
    assert read_archive(extended(b"5 a=\n") * 4 + tar({"y": b""}), LIMITS) == {"y": b""}
    for kind in (b"x", b"g", b"L"):
        with pytest.raises(ArchiveError, match="in a row"):
            read_archive(extended(b"5 a=\n", kind) * 5 + tar({"y": b""}), LIMITS)
