"""compile_c with the real compiler: a program comes out, or the compiler's words do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.image import parse
from sandbox.sdk import EXAMPLES, INCLUDE, SdkError, build, compile_c

# The first build on a machine compiles the C library.
pytestmark = pytest.mark.timeout(900)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_a_program_is_static_executable_and_runs(tmp_path: Path) -> None:
    source = write(tmp_path / "seven.c", "int main(void) { return 7; }\n")
    told: list[str] = []
    compile_c([source], tmp_path / "out" / "seven", on_progress=told.append)
    output = tmp_path / "out" / "seven"
    assert parse(output.read_bytes()).entry
    assert subprocess.run([output], check=False).returncode == 7
    assert told[0] == "compiling seven.c"
    assert told[-1].startswith("compiled seven.c in ")
    assert [path.name for path in output.parent.iterdir()] == ["seven"]


def test_a_changed_header_changes_the_program(tmp_path: Path) -> None:
    headers = tmp_path / "include"
    headers.mkdir()
    source = write(tmp_path / "answer.c", '#include "answer.h"\nint main(void) { return ANSWER; }\n')
    for answer in (3, 4):
        write(headers / "answer.h", f"#define ANSWER {answer}\n")
        compile_c([source], tmp_path / "answer", include=[headers])
        assert subprocess.run([tmp_path / "answer"], check=False).returncode == answer


def test_errors_are_the_compilers_own_words(tmp_path: Path) -> None:
    source = write(tmp_path / "broken.c", "int main(void) { return nothing; }\n")
    with pytest.raises(SdkError, match=r"cannot compile broken\.c") as caught:
        compile_c([source], tmp_path / "broken")
    assert "broken.c:1:25: error: use of undeclared identifier 'nothing'" in caught.value.messages
    assert not (tmp_path / "broken").exists()


def test_a_failed_build_leaves_the_program_that_was_there(tmp_path: Path) -> None:
    output = write(tmp_path / "program", "as before")
    with pytest.raises(SdkError):
        compile_c([write(tmp_path / "broken.c", "nonsense")], output)
    assert output.read_text() == "as before"


@pytest.mark.parametrize(
    ("name", "message"), [("absent.c", "no source file at"), ("notes.txt", "neither C nor C\\+\\+"), (None, "nothing to compile")]
)
def test_what_is_no_source_is_refused(tmp_path: Path, name: str | None, message: str) -> None:
    write(tmp_path / "notes.txt", "")
    with pytest.raises(SdkError, match=message):
        compile_c([tmp_path / name] if name else [], tmp_path / "program")


def test_without_the_compiler_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(SdkError, match=r"pip install 'edgecache\[sdk\]'"):
        compile_c([write(tmp_path / "a.c", "")], tmp_path / "a")


@pytest.mark.parametrize(("source", "library"), [("a.c", "the C library"), ("a.cpp", "the C++ library")])
def test_a_compiler_that_does_not_end_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, library: str
) -> None:
    pid = tmp_path / "pid"
    script = f"import os, pathlib, time; pathlib.Path({str(pid)!r}).write_text(str(os.getpid())); time.sleep(600)"
    monkeypatch.setattr(build, "_compiler", lambda _driver: [sys.executable, "-c", script])
    monkeypatch.setattr(build, "HEARTBEAT_S", 0.2)
    told: list[str] = []
    with pytest.raises(SdkError, match="had not ended after 2 s"):
        compile_c([write(tmp_path / source, "")], tmp_path / "a", on_progress=told.append, timeout_s=2)
    assert any(f"first build on a machine compiles {library}" in line for line in told)
    assert not Path(f"/proc/{pid.read_text()}").exists()


def test_the_header_is_good_cpp_too(tmp_path: Path) -> None:
    source = write(tmp_path / "page.cpp", '#include "edge.h"\nint main() { return edge_respond(200, "text/plain", "x") < 0; }\n')
    command = [sys.executable, "-m", "ziglang", "c++", "-target", build.TARGET, "-Wall", "-Wextra", "-Werror", "-c"]
    command += ["-I", str(INCLUDE), str(source), "-o", str(tmp_path / "page.o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("example", sorted(path.name for path in EXAMPLES.iterdir() if path.is_dir()))
def test_every_example_builds_without_a_warning(example: str, tmp_path: Path) -> None:
    told: list[str] = []
    compile_c([EXAMPLES / example / f"{example}.c"], tmp_path / example, on_progress=told.append)
    assert not [line for line in told if "warning" in line]
    assert parse((tmp_path / example).read_bytes()).entry
