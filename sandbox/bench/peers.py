"""The same page made by others: a new process, CGI behind nginx, WebAssembly, a JavaScript isolate. What is missing is skipped.

Each figure says what it holds: peers behind HTTP are asked over one kept connection to a Unix socket. Called by `figures.py`.
"""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.bench.neighbour import Latency, latency
from sandbox.errors import SandboxError

_START_S: Final = 20.0
_STOP_S: Final = 5.0
_ANSWER_S: Final = 10.0
_INSTALL_S: Final = 180.0
WARM_UP: Final = 20
_PATHS: Final = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where daemons are and PATH does not always look."""

_WASM: Final = """
(module
  (memory (export "memory") 1)
  (data (i32.const 0) "<li>item 00 price 00.00</li>\\n")
  (data (i32.const 64) "Content-Type: text/html\\n\\n<h1>A request</h1>\\n")
  (func $two (param $at i32) (param $value i32)
    (i32.store8 (local.get $at) (i32.add (i32.const 48) (i32.div_u (local.get $value) (i32.const 10))))
    (i32.store8 (i32.add (local.get $at) (i32.const 1)) (i32.add (i32.const 48) (i32.rem_u (local.get $value) (i32.const 10)))))
  (func (export "page") (result i32) (local $i i32) (local $at i32)
    (memory.copy (i32.const 4096) (i32.const 64) (i32.const 43))
    (local.set $at (i32.const 4139))
    (loop $more
      (memory.copy (local.get $at) (i32.const 0) (i32.const 29))
      (call $two (i32.add (local.get $at) (i32.const 9)) (local.get $i))
      (call $two (i32.add (local.get $at) (i32.const 18)) (i32.mul (local.get $i) (i32.const 3)))
      (call $two (i32.add (local.get $at) (i32.const 21)) (i32.rem_u (i32.mul (local.get $i) (i32.const 7)) (i32.const 100)))
      (local.set $at (i32.add (local.get $at) (i32.const 29)))
      (br_if $more (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1))) (i32.const 20))))
    (i32.sub (local.get $at) (i32.const 4096))))
"""
_WORKER: Final = """export default { fetch() {
  let page = "<h1>A request</h1>\\n";
  for (let i = 0; i < 20; i++) page += `<li>item ${i} price ${i * 3}.${String(i * 7 % 100).padStart(2, "0")}</li>\\n`;
  return new Response(page, { headers: { "Content-Type": "text/html" } });
} };
"""
_WORKERD: Final = """using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = .page)],
  sockets = [(name = "http", address = "unix:{socket}", http = (), service = "main")]
);
const page :Workerd.Worker = (
  modules = [(name = "page", esModule = embed "page.js")],
  compatibilityDate = "2024-01-01"
);
"""
_NGINX: Final = """daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log crit;
events {{ }}
http {{
  access_log off; keepalive_requests 1000000;
  client_body_temp_path {folder}/1; proxy_temp_path {folder}/2; fastcgi_temp_path {folder}/3;
  uwsgi_temp_path {folder}/4; scgi_temp_path {folder}/5;
  server {{
    listen unix:{folder}/http;
    location / {{
      fastcgi_pass unix:{folder}/cgi;
      fastcgi_param SCRIPT_FILENAME {program}; fastcgi_param QUERY_STRING $query_string;
      fastcgi_param REQUEST_METHOD $request_method; fastcgi_param SERVER_PROTOCOL $server_protocol;
    }}
  }}
}}
"""


class PeerMissing(SandboxError):
    """This peer is not to be had here, for the reason given."""


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    holds: str
    """What one measured call is made of."""
    found: Latency | None
    skipped: str = ""
    """Why there is no figure."""

    def as_json(self) -> dict[str, object]:
        if self.found is None:
            return {"skipped": self.skipped}
        return {"p50_us": self.found.p50_us, "p99_us": self.found.p99_us}


def ours(name: str, taken_s: list[float]) -> Peer:
    """This sandbox in the same table, on the same program."""
    return Peer(f"this sandbox, {name}", "a VM of the same program, reset included", latency(taken_s[WARM_UP:]))


def measure(program: bytes, calls: int, say: Callable[[str], None], *, install: Path | None) -> tuple[Peer, ...]:
    """Ask every peer `calls` times. `program`: `page_cgi.c` compiled; `install`: where npm may put workerd, if it may."""
    found = []
    with tempfile.TemporaryDirectory(prefix="peers-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        path = folder / "page"
        path.write_bytes(program)
        path.chmod(0o755)
        makers: tuple[tuple[str, str, Callable[[], AbstractContextManager[Callable[[], bytes]]]], ...] = (
            ("fork and exec", "a new process of the same program, its output read", lambda: _process(path)),
            ("nginx, fcgiwrap", "HTTP, and a new process of the same program", lambda: _cgi(folder, path)),
            ("wasmtime", "a new instance, one call, the page read", _wasmtime),
            ("workerd", "HTTP, and one call of an isolate that stays", lambda: _workerd(folder, install, say)),
        )
        for peer, holds, make in makers:
            say(f"peer {peer}")
            try:
                with make() as ask:
                    found.append(Peer(peer, holds, _timed(ask, calls)))
            except (PeerMissing, OSError, http.client.HTTPException, subprocess.SubprocessError) as missing:
                found.append(Peer(peer, holds, None, str(missing) or type(missing).__name__))
    return tuple(found)


def _timed(ask: Callable[[], bytes], calls: int) -> Latency:
    taken = []
    for number in range(WARM_UP + calls):
        started = time.perf_counter()
        page = ask()
        if number >= WARM_UP:
            taken.append(time.perf_counter() - started)
        if page.count(b"<li>") != 20:
            raise PeerMissing(f"it answered with something else: {page[:80]!r}")
    return latency(taken)


@contextmanager
def _process(path: Path) -> Iterator[Callable[[], bytes]]:
    def ask() -> bytes:
        ours, theirs = os.pipe()
        try:
            try:
                pid = os.posix_spawn(path, ["page"], {}, file_actions=[(os.POSIX_SPAWN_DUP2, theirs, 1)])
            finally:
                os.close(theirs)
            page = b"".join(iter(lambda: os.read(ours, 1 << 16), b""))
        finally:
            os.close(ours)
        os.waitpid(pid, 0)
        return page

    yield ask


@contextmanager
def _wasmtime() -> Iterator[Callable[[], bytes]]:
    try:
        import wasmtime  # noqa: PLC0415 -- an extra
    except ImportError:
        raise PeerMissing("not installed: pip install 'edgecache[bench]'") from None
    engine = wasmtime.Engine()
    module = wasmtime.Module(engine, _WASM)
    linker = wasmtime.Linker(engine)

    def ask() -> bytes:
        store = wasmtime.Store(engine)
        exports = linker.instantiate(store, module).exports(store)
        page, memory = exports["page"], exports["memory"]
        if not isinstance(page, wasmtime.Func) or not isinstance(memory, wasmtime.Memory):
            raise PeerMissing("its module has no page")
        return bytes(memory.read(store, 4096, 4096 + int(page(store))))

    yield ask


@contextmanager
def _cgi(folder: Path, program: Path) -> Iterator[Callable[[], bytes]]:
    nginx, fcgiwrap = _installed("nginx"), _installed("fcgiwrap")
    config = folder / "nginx.conf"
    config.write_text(_NGINX.format(folder=folder, program=program), encoding="utf-8")
    with ExitStack() as stack:
        stack.enter_context(_running([fcgiwrap, "-s", f"unix:{folder}/cgi"], folder / "cgi"))
        stack.enter_context(_running([nginx, "-p", str(folder), "-c", str(config)], folder / "http"))
        yield stack.enter_context(_http(folder / "http"))


@contextmanager
def _workerd(folder: Path, install: Path | None, say: Callable[[str], None]) -> Iterator[Callable[[], bytes]]:
    (folder / "page.js").write_text(_WORKER, encoding="utf-8")
    config = folder / "workerd.capnp"
    config.write_text(_WORKERD.replace("{socket}", str(folder / "workerd")), encoding="utf-8")
    with _running([_workerd_program(install, say), "serve", str(config)], folder / "workerd"), _http(folder / "workerd") as ask:
        yield ask


def _workerd_program(install: Path | None, say: Callable[[str], None]) -> str:
    found = shutil.which("workerd")
    if found is not None:
        return found
    if install is None:
        raise PeerMissing("not installed")
    program = install / "node_modules" / ".bin" / "workerd"
    if not program.exists():
        npm = _installed("npm")
        install.mkdir(parents=True, exist_ok=True)
        say(f"installing workerd into {install} (at most {_INSTALL_S:g} s)")
        command = [npm, "install", "--no-audit", "--no-fund", "--prefix", str(install), "workerd"]
        try:
            done = subprocess.run(command, check=False, capture_output=True, timeout=_INSTALL_S, cwd=install)  # noqa: S603
        except subprocess.TimeoutExpired:
            raise PeerMissing(f"npm had not installed it after {_INSTALL_S:g} s") from None
        if done.returncode:
            last = done.stderr.decode(errors="replace").strip().splitlines()[:1]
            raise PeerMissing(f"npm cannot install it: {' '.join(last)}")
    return str(program.resolve())


def _installed(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path=_PATHS)
    if found is None:
        raise PeerMissing(f"{name} is not installed")
    return found


@contextmanager
def _running(command: list[str], listening: Path) -> Iterator[None]:
    """A server in the foreground, from its first connection on until it has ended."""
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=words, stderr=words)  # noqa: S603
        try:
            deadline = time.monotonic() + _START_S
            while not _accepts(listening):
                if process.poll() is not None or time.monotonic() > deadline:
                    words.seek(0)
                    said = words.read(500).decode(errors="replace").strip()
                    raise PeerMissing(f"{Path(command[0]).name} does not start: {said or f'no socket after {_START_S:g} s'}")
                time.sleep(0.05)
            yield
        finally:
            process.terminate()
            try:
                process.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _accepts(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as trial, suppress(OSError):
        trial.connect(str(path))
        return True
    return False


@contextmanager
def _http(path: Path) -> Iterator[Callable[[], bytes]]:
    connection = http.client.HTTPConnection("localhost", timeout=_ANSWER_S)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(_ANSWER_S)
    connection.sock.connect(str(path))

    def ask() -> bytes:
        connection.request("GET", "/")
        return connection.getresponse().read()

    try:
        yield ask
    finally:
        connection.close()
