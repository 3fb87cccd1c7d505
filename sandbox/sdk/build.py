"""Compiles C and C++ to the static x86-64 executables that the sandbox runs, with the clang inside the `ziglang` package.

The compiler caches by content, headers included: building the same again takes a tenth of a second, the first build of all,
which compiles the C library, about a minute (that of C++, two). `edgecache generator`, the demo and the tests call it.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Final

from sandbox.errors import SandboxError
from sandbox.sdk.stripping import stripped

TARGET: Final = "x86_64-linux-musl"
FLAGS: Final = ("-target", TARGET, "-static", "-O2", "-g", "-Wall", "-Wextra")
"""Always with symbols, which are taken away here: the compiler would keep a second C library for programs without."""
BUILD_TIMEOUT_S: Final = 600.0
HEARTBEAT_S: Final = 5.0
MAX_MESSAGES_BYTES: Final = 256 << 10
"""Of the compiler's output; the rest is dropped and said to be."""

_C: Final = frozenset({".c"})
_CPP: Final = frozenset({".cc", ".cpp", ".cxx"})
_FIRST: Final = {"cc": "the C library, about a minute", "c++": "the C++ library, about two minutes"}
_HEADERS: Final = Path(__file__).parent


class SdkError(SandboxError):
    """A program cannot be built. `messages` holds the compiler's own words, verbatim, where it had any."""

    def __init__(self, message: str, messages: str = "") -> None:
        super().__init__(f"{message}\n{messages.rstrip()}" if messages else message)
        self.messages = messages


def compile_c(
    sources: Sequence[Path],
    output: Path,
    *,
    include: Sequence[Path] = (),
    symbols: Path | None = None,
    on_progress: Callable[[str], None] | None = None,
    timeout_s: float = BUILD_TIMEOUT_S,
) -> None:
    """Compile and link `sources` (C, C++ or both) into `output`, a static x86-64 Linux executable with mode 0755.

    `symbols` is where to keep a copy with what debuggers read: the same code at the same addresses, a megabyte longer.

    `edge.h` is on the include path. `on_progress` gets a line at the start, every few seconds, and at the end.
    Each file appears whole or not at all. Raises SdkError: no compiler, no source, a compiler error, no end after `timeout_s`.
    """
    languages = {_language(source) for source in sources}
    if not languages:
        raise SdkError("nothing to compile: name at least one C source")
    tell = on_progress or (lambda _line: None)
    driver = "c++" if "c++" in languages else "cc"
    compiler = _compiler(driver)
    names = ", ".join(source.name for source in sources)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=output.parent) as folder:
        binary = Path(folder).resolve() / "program"
        includes = [word for path in (*include, _HEADERS) for word in ("-I", str(path.resolve()))]
        command = [*compiler, *FLAGS, *includes, "-o", str(binary), *(str(source.resolve()) for source in sources)]
        tell(f"compiling {names}")

        def beat(spent: float) -> None:
            tell(f"compiling {names}: {spent:.0f} s (the first build on a machine compiles {_FIRST[driver]})")

        started = time.monotonic()
        status, messages = _run(command, Path(folder), beat, names, timeout_s)
        if status != 0:
            raise SdkError(f"cannot compile {names}: the compiler ended with status {status}", messages)
        if messages:
            tell(messages.rstrip())
        program = binary.with_name("stripped")
        program.write_bytes(stripped(binary.read_bytes()))
        program.chmod(0o755)
        program.replace(output)
        if symbols is not None:
            os.utime(binary)  # never older than the program that it speaks of
            binary.replace(symbols)
    tell(f"compiled {names} in {time.monotonic() - started:.1f} s: {output} ({output.stat().st_size:,} bytes)")


def warm_up(*, on_progress: Callable[[str], None] | None = None) -> None:
    """Have the C library compiled, so that later builds on this machine take their own time only. Raises SdkError."""
    with tempfile.TemporaryDirectory(prefix="edgecache-warm-up-") as folder:
        source = Path(folder) / "nothing.c"
        source.write_text("int main(void) { return 0; }\n", encoding="utf-8")
        compile_c([source], Path(folder) / "nothing", on_progress=on_progress)


def _language(source: Path) -> str:
    if not source.is_file():
        raise SdkError(f"no source file at {source}: check the path, or run this in the bundle's directory")
    if source.suffix in _C:
        return "c"
    if source.suffix in _CPP:
        return "c++"
    raise SdkError(f"{source} is neither C nor C++: sources end in {', '.join(sorted(_C | _CPP))}")


def _compiler(driver: str) -> list[str]:
    if importlib.util.find_spec("ziglang") is None:
        raise SdkError("no C compiler: it comes with the extra `sdk`. Install it with: pip install 'edgecache[sdk]'")
    return [sys.executable, "-m", "ziglang", driver]


def _run(command: Sequence[str], folder: Path, beat: Callable[[float], None], names: str, timeout_s: float) -> tuple[int, str]:
    with tempfile.TemporaryFile() as messages:
        # A session of its own: a stop must reach the compiler's own children too. A directory that does not hold the compiler:
        # its cache takes its own files for the user's when they are below the working directory, and compiles the C library anew.
        process = subprocess.Popen(  # noqa: S603 (our own interpreter; each path is one argument)
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=messages,
            stderr=messages,
            env=_environment(),
            start_new_session=True,
        )
        try:
            status = _wait(process, beat, names, timeout_s)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        return status, _read(messages, command)


def _wait(process: subprocess.Popen[bytes], beat: Callable[[float], None], names: str, timeout_s: float) -> int:
    started = time.monotonic()
    while (left := started + timeout_s - time.monotonic()) > 0:
        try:
            return process.wait(min(HEARTBEAT_S, left))
        except subprocess.TimeoutExpired:
            beat(time.monotonic() - started)
    raise SdkError(f"cannot compile {names}: the compiler had not ended after {timeout_s:g} s, and was stopped")


def _read(messages: IO[bytes], command: Sequence[str]) -> str:
    messages.seek(0)
    text = messages.read(MAX_MESSAGES_BYTES).decode("utf-8", "replace")
    if messages.read(1):
        text += f"\n… and more: run {shlex.join(command)} to see all of it\n"
    return text


def _environment() -> Mapping[str, str]:
    """The compiler caches below $XDG_CACHE_HOME or ~/.cache; a user who has neither gets a place in the temporary directory."""
    environ = dict(os.environ)
    if "XDG_CACHE_HOME" not in environ and "ZIG_GLOBAL_CACHE_DIR" not in environ and not _writable_home(environ):
        environ["ZIG_GLOBAL_CACHE_DIR"] = str(Path(tempfile.gettempdir()) / f"edgecache-zig-{os.getuid()}")
    return environ


def _writable_home(environ: Mapping[str, str]) -> bool:
    home = environ.get("HOME")
    return bool(home) and os.access(str(home), os.W_OK)
