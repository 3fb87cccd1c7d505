"""How the other caches are configured: one core, the same storage, the same origin, an access log. `__main__` starts them.

Each does its work with one worker or thread where its design has such a choice. Varnish keeps its log in shared memory, as it
always does; nobody writes that to a file here, which the others' logs are.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from demo.processes import DemoError, started
from demo.visit import get
from loadtests.bench.rows import DISK_ROW_MEMORY_BYTES, KIB, MIB, STORE_BYTES, Storage
from loadtests.bench.servers import LOAD_CORE, SERVER_CORE, Server, free_port, process

_NGINX_COMMON: Final = """\
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 4096; }}
"""
_NGINX_PATHS: Final = """\
    keepalive_requests 1000000000; keepalive_timeout 75s;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
"""
NGINX: Final = (
    _NGINX_COMMON
    + "http {{\n"
    + _NGINX_PATHS
    + """\
    access_log {folder}/access.log combined buffer=32k flush=1s;
    proxy_cache_path {folder}/cache levels=1:2 keys_zone=edge:32m max_size={store}m inactive=1d use_temp_path=off;
    open_file_cache max=20000 inactive=1h;
    sendfile on; tcp_nopush on;
    upstream origin {{ server {origin_address}; keepalive 64; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_cache edge; proxy_cache_lock on; add_header X-Cache $upstream_cache_status;
            proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
            proxy_pass http://origin;
        }}
    }}
}}
"""
)
"""Its store is files, which the kernel's page cache keeps in memory."""

ORIGIN: Final = (
    _NGINX_COMMON
    + "http {{\n"
    + _NGINX_PATHS
    + """\
    access_log off; default_type application/octet-stream; sendfile on; tcp_nopush on;
    server {{
        listen 127.0.0.1:{port};
        add_header Cache-Control "public, max-age=86400";
        location / {{ if ($arg__size = "1MiB") {{ rewrite ^ /large last; }} return 200 "{body}"; }}
        location = /status {{ stub_status; }}
        location = /large {{ internal; alias {folder}/large; }}
    }}
}}
"""
)
"""An origin that keeps up with the caches, so that misses measure those; it shares wrk's core."""

VARNISH: Final = """\
vcl 4.1;
backend origin {{ .host = "{host}"; .port = "{origin_port}"; .max_connections = 1000; }}
sub vcl_deliver {{
    if (obj.hits > 0) {{ set resp.http.X-Cache = "HIT"; }}
}}
"""

TRAFFIC_SERVER: Final = """\
CONFIG proxy.config.exec_thread.autoconfig INT 0
CONFIG proxy.config.exec_thread.limit INT 1
CONFIG proxy.config.exec_thread.affinity INT 0
CONFIG proxy.config.accept_threads INT 0
CONFIG proxy.config.task_threads INT 1
CONFIG proxy.config.admin.user_id STRING #-1
CONFIG proxy.config.crash_log_helper STRING NULL
CONFIG proxy.config.http.server_ports STRING {port}:ip-in=127.0.0.1
CONFIG proxy.config.cache.ram_cache.size INT {memory}
CONFIG proxy.config.cache.ram_cache_cutoff INT 4M
CONFIG proxy.config.cache.min_average_object_size INT 8000
CONFIG proxy.config.http.insert_response_via_str INT 2
CONFIG proxy.config.http.keep_alive_no_activity_timeout_in INT 75
CONFIG proxy.config.http.keep_alive_no_activity_timeout_out INT 75
CONFIG proxy.config.url_remap.remap_required INT 1
CONFIG proxy.config.log.logging_enabled INT 3
"""
_TS_LOG: Final = """\
logging:
  formats:
    - name: common
      format: '%<chi> - %<caun> [%<cqtn>] "%<cqtx>" %<pssc> %<pscl>'
  logs:
    - filename: access
      format: common
      mode: ascii
"""
_TS_ALLOW: Final = "ip_allow:\n  - {apply: in, ip_addrs: 127.0.0.1, action: allow, methods: ALL}\n"
_TS_ROOT: Final = """\
prefix: {folder}
exec_prefix: /usr
bindir: /usr/bin
sbindir: /usr/sbin
sysconfdir: {folder}/etc
datadir: /usr/share/trafficserver
includedir: /usr/include
libdir: /usr/lib/trafficserver
libexecdir: /usr/lib/trafficserver/modules
localstatedir: {folder}/run
runtimedir: {folder}/run
logdir: {folder}/log
cachedir: {folder}/cache
"""

Start = Callable[[Path, str, Storage], AbstractContextManager[Server]]
"""Folder of its own, the origin's URL, storage. Raises DemoError."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One that may be installed."""

    name: str
    program: str
    package: str
    """Debian's."""
    start: Start
    version_command: tuple[str, ...]

    @property
    def installed(self) -> bool:
        return _found(self.program) is not None

    def version(self) -> str:
        done = subprocess.run(self.version_command, capture_output=True, text=True, check=False, timeout=20)
        found = re.search(r"(?:nginx/|varnish-|traffic_server - )([0-9][0-9.]*)", done.stdout + done.stderr)
        return found[1] if found else "unknown"


@contextlib.contextmanager
def nginx(folder: Path, origin: str, storage: Storage) -> Iterator[Server]:
    """The same for both storages: its store is files in any case."""
    del storage
    with _nginx(
        "nginx", folder, NGINX, SERVER_CORE, store=str(STORE_BYTES // MIB), origin_address=urlsplit(origin).netloc
    ) as server:
        yield server


@contextlib.contextmanager
def varnish(folder: Path, origin: str, storage: Storage) -> Iterator[Server]:
    _open_to_all(folder)
    port = free_port()
    parts = urlsplit(origin)
    vcl = folder / "edge.vcl"
    vcl.write_text(VARNISH.format(host=parts.hostname, origin_port=parts.port))
    store = f"malloc,{STORE_BYTES}" if storage is Storage.MEMORY else f"file,{folder}/store,{STORE_BYTES}"
    command = [str(_found("varnishd")), "-F", "-a", f"127.0.0.1:{port}", "-f", str(vcl), "-n", str(folder / "run"), "-T", "none"]
    # Transient storage takes short-lived objects and passes; unbounded by default.
    command += ["-s", f"store={store}", "-s", "Transient=malloc,64m", "-p", "thread_pools=1"]
    with process("varnish", command, folder, port, SERVER_CORE) as server:
        yield server


@contextlib.contextmanager
def traffic_server(folder: Path, origin: str, storage: Storage) -> Iterator[Server]:
    """Its store is a file; what is asked for again is in its memory cache, as far as that reaches."""
    port = free_port()
    for part in ("etc", "log", "run", "cache"):
        (folder / part).mkdir(parents=True)
    memory = STORE_BYTES if storage is Storage.MEMORY else DISK_ROW_MEMORY_BYTES
    etc = folder / "etc"
    (etc / "records.config").write_text(TRAFFIC_SERVER.format(port=port, memory=memory))
    (etc / "remap.config").write_text(f"map / {origin}/\n")
    (etc / "storage.config").write_text(f"{folder}/cache {2 * STORE_BYTES}\n")
    (etc / "logging.yaml").write_text(_TS_LOG)
    (etc / "ip_allow.yaml").write_text(_TS_ALLOW)
    for empty in ("plugin.config", "cache.config", "parent.config", "hosting.config", "volume.config", "splitdns.config"):
        (etc / empty).touch()
    root = folder / "runroot.yaml"
    root.write_text(_TS_ROOT.format(folder=folder))
    command = [str(_found("traffic_server")), f"--run-root={root}"]
    with process("trafficserver", command, folder, port, SERVER_CORE) as server:
        yield server


def origin_requests(origin: str) -> int | None:
    """How many requests the origin has answered so far; None where it does not say."""
    visit = get(origin, "/status")
    found = re.search(r"server accepts handled requests\s+[0-9]+ [0-9]+ ([0-9]+)", visit.text)
    return int(found[1]) if found else None


@contextlib.contextmanager
def origin(folder: Path) -> Iterator[str]:
    """The URL of an origin that answers every row's targets with what their size says, to store for a day."""
    if _found("nginx") is None:
        command = ["-m", "origin_sim", "--port", "0"]
        with started("the origin", command, r"ready on (http://[^\s/]+)", folder / "origin.log") as simulated:
            yield simulated.ready[1]
        return
    home = folder / "origin"
    home.mkdir()
    (home / "large").write_bytes(b"x" * MIB)
    with _nginx("the origin", home, ORIGIN, LOAD_CORE, body="x" * KIB) as server:
        yield server.url


PEERS: Final = (
    Peer("nginx", "nginx", "nginx-light", nginx, ("nginx", "-v")),
    Peer("varnish", "varnishd", "varnish", varnish, ("varnishd", "-V")),
    Peer("trafficserver", "traffic_server", "trafficserver", traffic_server, ("traffic_server", "--version")),
)


@contextlib.contextmanager
def _nginx(name: str, folder: Path, config: str, core: int, **words: str) -> Iterator[Server]:
    _open_to_all(folder)
    port = free_port()
    file = folder / "nginx.conf"
    file.write_text(config.format(folder=folder, port=port, **words))
    command = [str(_found("nginx")), "-c", str(file), "-p", str(folder), "-e", str(folder / "error.log")]
    try:
        with process(name, command, folder, port, core) as server:
            yield server
    except DemoError as error:
        log = folder / "error.log"
        raise DemoError(f"{error}\n{log.read_text(errors='replace')[-500:] if log.exists() else ''}") from error


def _open_to_all(folder: Path) -> None:
    """Started by root, nginx and Varnish give their workers to other users, who must be able to write here."""
    folder.mkdir(exist_ok=True)
    for path in (folder.parent, folder):
        path.chmod(0o777)


def _found(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")
