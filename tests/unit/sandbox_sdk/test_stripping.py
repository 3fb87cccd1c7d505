"""What is taken from an executable is what is not loaded; native, and to the sandbox, it is the same program."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sandbox.image import parse
from sandbox.sdk import compile_c
from sandbox.sdk.stripping import stripped
from tests.control_support import program

# The first build on a machine compiles the C library.
pytestmark = pytest.mark.timeout(900)

_HEADER_BYTES = 64
"""Of ELF: it is loaded too, and says where the sections are."""


def test_a_program_and_its_copy_with_symbols_are_loaded_alike(tmp_path: Path) -> None:
    source = tmp_path / "told.c"
    source.write_text('#include <stdio.h>\nint table[9] = {7};\nint main(void) { puts("told"); return table[0]; }\n')
    output, symbols = tmp_path / "told", tmp_path / "debug"
    compile_c([source], output, symbols=symbols)
    images = [parse(file.read_bytes()) for file in (output, symbols)]
    assert images[0].entry == images[1].entry and images[0].pages == images[1].pages
    contents = [b"".join(segment.content for segment in image.segments)[_HEADER_BYTES:] for image in images]
    assert contents[0] == contents[1]
    assert b"told.c" in symbols.read_bytes()
    assert b"told.c" not in output.read_bytes()
    assert output.stat().st_size < symbols.stat().st_size // 10
    assert symbols.stat().st_mtime >= output.stat().st_mtime
    for executable in (output, symbols):
        done = subprocess.run([executable], capture_output=True, check=False)
        assert (done.returncode, done.stdout) == (7, b"told\n")


def test_what_follows_the_last_segment_is_dropped() -> None:
    bare = program()
    assert stripped(bare) == bare
    assert stripped(bare + b"sections") == bare
