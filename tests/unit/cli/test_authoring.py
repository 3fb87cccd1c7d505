"""`generator init`, `build` and the packing of what is pushed."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from edgecache.cli.errors import CommandFailed
from edgecache.cli.packing import archive, pack
from edgecache.control.bundle.bundles import parse_bundle
from edgecache.control.settings import BundleLimits
from sandbox.image import parse
from tests.unit.cli.conftest import Run

MANIFEST = "name: g\nprogram: bin/g\nconvention: cgi\nroutes: [/g]\n"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def bundle(directory: Path, manifest: str = MANIFEST, **files: str) -> Path:
    for name, text in {"generator.yaml": manifest, "bin/g": "program", **files}.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


@pytest.mark.timeout(900)
def test_init_build_and_pack_in_three_commands(run: Run, here: Path) -> None:
    """What a first user types; the compiler's first run on a machine takes a minute."""
    assert run("generator", "init", "my-page", "--language", "c").code == 0
    built = run("generator", "build")
    assert built.code == 0
    assert built.out == "my-page/my-page\n"
    assert "compiled my-page.c" in built.err
    packed = pack(here / "my-page")
    assert packed.manifest.name == "my-page"
    assert packed.manifest.routes == ("/my-page", "/my-page/*")
    assert packed.bundle.paths == ("generator.yaml", "my-page")
    assert parse(packed.bundle.content("my-page") or b"").entry


def test_init_never_overwrites(run: Run, here: Path) -> None:
    (here / "hello").mkdir()
    result = run("generator", "init", "hello")
    assert result.code == 1
    assert "exists already" in result.err
    assert list((here / "hello").iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "A", "-x", "x" * 64, ""])
def test_init_takes_generators_names_only(run: Run, here: Path, name: str) -> None:
    assert run("generator", "init", "--", name).code == 2
    assert list(here.iterdir()) == []


def test_build_without_a_bundle_says_what_to_do(run: Run) -> None:
    result = run("generator", "build")
    assert result.code == 1
    assert "there is no generator.yaml here" in result.err
    assert "generator init" in result.err


def test_build_among_several_bundles_wants_a_name(run: Run, here: Path) -> None:
    bundle(here / "a")
    bundle(here / "b")
    result = run("generator", "build")
    assert result.code == 1
    assert "several bundles: a, b" in result.err


def test_build_without_sources_is_told(run: Run, here: Path) -> None:
    bundle(here)
    result = run("generator", "build", ".")
    assert result.code == 1
    assert "nothing to build" in result.err


@pytest.mark.parametrize("program", ["/bin/sh", "../g"])
def test_build_writes_inside_the_bundle_only(run: Run, here: Path, program: str) -> None:
    bundle(here, f"program: {program}\n", **{"g.c": "int main(void) { return 0; }"})
    result = run("generator", "build", ".")
    assert result.code == 1
    assert "generator.yaml:1:10" in result.err
    assert "not a path inside the bundle" in result.err


@pytest.mark.timeout(900)
def test_a_compilers_error_is_shown_as_it_is(run: Run, here: Path) -> None:
    bundle(here, "program: g\n", **{"g.c": "int main(void) { return x; }"})
    result = run("generator", "build", ".")
    assert result.code == 1
    assert "g.c:1:25: error: use of undeclared identifier 'x'" in result.err


def test_a_mistake_in_the_manifest_is_told_with_its_place(run: Run, here: Path) -> None:
    bundle(here, MANIFEST + "routs: [/x]\nenv: 3\n")
    result = run("generator", "push", ".", "--site", "shop", "--token", "x")
    assert result.code == 1
    assert "generator.yaml:5:1: routs: unknown key" in result.err


def test_the_manifest_chooses_what_is_pushed(here: Path) -> None:
    bundle(here, MANIFEST + "files: [pages/**]\n", **{"pages/a/b.html": "x", "source.c": "x", ".hidden": "x", ".git/config": "x"})
    assert pack(here).bundle.paths == ("bin/g", "generator.yaml", "pages/a/b.html")


def test_without_files_all_but_hidden_ones_are_pushed(here: Path) -> None:
    bundle(here, **{"a.txt": "x", ".hidden": "x", ".git/config": "x"})
    assert pack(here).bundle.paths == ("a.txt", "bin/g", "generator.yaml")


def test_the_archive_is_deterministic_and_the_edge_reads_the_same_bundle(here: Path) -> None:
    bundle(here / "one", **{"b.txt": "1", "a" * 120 + "/ü.txt": "2"})
    bundle(here / "two", **{"a" * 120 + "/ü.txt": "2", "b.txt": "1"})
    one, two = (pack(here / name).bundle for name in ("one", "two"))
    assert archive(one) == archive(two)
    assert parse_bundle(archive(one), BundleLimits()) == one


def test_the_archive_names_no_user(here: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(archive(pack(bundle(here)).bundle))) as tar:
        assert {(entry.uname, entry.uid, entry.mtime) for entry in tar} == {("", 0, 0)}


def test_a_link_out_of_the_bundle_is_refused(here: Path) -> None:
    bundle(here / "b")
    (here / "secret").write_text("x")
    (here / "b" / "link").symlink_to(here / "secret")
    with pytest.raises(CommandFailed, match="link that leads out of the bundle"):
        pack(here / "b")


@pytest.mark.parametrize(
    ("target", "said"), [("link", "leads out of the bundle or nowhere"), (".", "to a directory"), ("..", "to a directory")]
)
def test_a_link_that_would_be_left_out_or_never_ends_is_refused(here: Path, target: str, said: str) -> None:
    bundle(here / "b")
    (here / "b" / "link").symlink_to(target)
    with pytest.raises(CommandFailed, match=f"link is a link (that )?{said}"):
        pack(here / "b")


def test_too_many_files_are_refused(here: Path) -> None:
    bundle(here, **{f"f{number}": "" for number in range(1000)})
    with pytest.raises(CommandFailed, match="more than a bundle may: 1000 files, 64 MiB"):
        pack(here)


def test_a_huge_file_is_refused_before_it_is_read(here: Path) -> None:
    bundle(here)
    with (here / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CommandFailed, match="more than a bundle may"):
        pack(here)


def test_serve_takes_a_file_or_an_origin(run: Run) -> None:
    assert run("serve", "edge.yaml", "--origin", "http://127.0.0.1:1").code == 2


def test_check_names_every_mistake_with_its_place(run: Run, here: Path) -> None:
    (here / "edge.yaml").write_text("listen: nowhere\nchache: {}\n")
    result = run("check", "edge.yaml")
    assert result.code == 1
    assert "edge.yaml:1:9: listen:" in result.err
    assert "edge.yaml:2:1: chache: unknown key" in result.err


def test_check_of_a_good_file_says_so(run: Run, here: Path) -> None:
    (here / "edge.yaml").write_text("listen: 127.0.0.1:9000\n")
    result = run("check", "edge.yaml")
    assert result.code == 0
    assert "edge.yaml: good: listens on 127.0.0.1:9000" in result.out


def test_a_file_that_is_not_there_is_told(run: Run) -> None:
    result = run("check", "absent.yaml")
    assert result.code == 1
    assert "absent.yaml: cannot be read: No such file or directory" in result.err
