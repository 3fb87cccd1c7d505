"""Bundles: the content is the name, what is stored is proven when it is read, what nobody refers to goes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.control.bundle.bundles import BundleError, BundleStore, make_bundle, parse_bundle
from edgecache.control.settings import BundleLimits
from tests.control_support import bundle, tar


@pytest.fixture
def store(tmp_path: Path) -> BundleStore:
    made = BundleStore(tmp_path / "bundles")
    made.prepare()
    return made


def test_the_digest_depends_on_paths_and_contents_alone() -> None:
    forward, backward = make_bundle({"a": b"1", "b": b"2"}), make_bundle({"b": b"2", "a": b"1"})
    assert forward == backward
    assert parse_bundle(bundle(), BundleLimits()).digest == parse_bundle(bundle(zipped=True), BundleLimits()).digest


@given(st.dictionaries(st.text("ab:,", min_size=1, max_size=4), st.binary(max_size=6), max_size=4), st.data())
def test_different_files_have_different_digests(files: dict[str, bytes], data: st.DataObject) -> None:
    other = data.draw(st.dictionaries(st.text("ab:,", min_size=1, max_size=4), st.binary(max_size=6), max_size=4))
    assert (make_bundle(files).digest == make_bundle(other).digest) == (files == other)


def test_an_empty_archive_is_no_bundle() -> None:
    with pytest.raises(BundleError, match="no files"):
        parse_bundle(tar({}), BundleLimits())


def test_what_is_stored_is_read_back_and_sha256sum_proves_it(store: BundleStore, tmp_path: Path) -> None:
    made = make_bundle({"a": b"1", "b/c": bytes(1000), "ü": b""})
    store.put(made)
    store.put(made)
    assert store.get(made.digest) == made
    path = tmp_path / "bundles" / made.digest
    assert hashlib.sha256(path.read_bytes()).hexdigest() == made.digest
    assert path.stat().st_mode & 0o777 == 0o400


def test_damage_is_noticed_and_pushing_again_mends_it(store: BundleStore, tmp_path: Path) -> None:
    made = make_bundle({"a": b"1"})
    store.put(made)
    path = tmp_path / "bundles" / made.digest
    path.chmod(0o600)
    path.write_bytes(path.read_bytes().replace(b"1:1", b"1:2"))
    with pytest.raises(BundleError, match="damaged"):
        store.get(made.digest)
    store.discard_damaged(made.digest)
    store.put(made)
    store.discard_damaged(made.digest)
    assert store.get(made.digest) == made


def test_a_missing_bundle_is_named(store: BundleStore) -> None:
    with pytest.raises(BundleError, match="push it again"):
        store.get("0" * 64)
    with pytest.raises(BundleError, match="not a bundle's digest"):
        store.get("../../etc/passwd")


def test_an_interrupted_write_leaves_nothing(store: BundleStore, tmp_path: Path) -> None:
    (tmp_path / "bundles" / ".incoming-x").write_bytes(b"half")
    store.prepare()
    assert list((tmp_path / "bundles").iterdir()) == []


def test_a_write_that_fails_leaves_nothing(store: BundleStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.put(make_bundle({"a": b"1"}))
    assert list((tmp_path / "bundles").iterdir()) == []


def test_only_what_is_referred_to_is_kept(store: BundleStore, tmp_path: Path) -> None:
    kept, gone = make_bundle({"a": b"1"}), make_bundle({"a": b"2"})
    store.put(kept)
    store.put(gone)
    (tmp_path / "bundles" / "README").write_text("not a bundle: not ours to remove")
    assert store.collect({kept.digest}) == 1
    assert sorted(path.name for path in (tmp_path / "bundles").iterdir()) == sorted([kept.digest, "README"])
