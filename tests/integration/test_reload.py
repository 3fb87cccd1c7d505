"""SIGHUP: what the configuration says now is in force in every process, or the old one is, and no connection is lost over it."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from demo.processes import Running, started
from demo.stage import EDGE_READY

SHOP = (["-m", "origin_sim", "--port", "0"], r"(http://127\.0\.0\.1:\d+)")
pytestmark = pytest.mark.timeout(180)


@dataclass
class Here:
    """An edge that reads `file`, in front of `origin`."""

    file: Path
    origin: str
    processes: int
    edge: Running

    @property
    def said(self) -> str:
        return self.edge.log.read_text()

    def write(self, sites: str, more: str = "", listen: str = "127.0.0.1:0", serve: str = "") -> None:
        write(self.file, self.processes, sites, more, listen, serve)

    def hang_up(self) -> None:
        self.edge.process.send_signal(signal.SIGHUP)

    def reload(self) -> None:
        """Returns when it is in force."""
        before = self.said.count("is in force")
        self.hang_up()
        until(lambda: self.said.count("is in force") > before)

    def get(self, path: str, host: str = "shop.test") -> tuple[str, int, http.client.HTTPMessage]:
        connection = self.connect()
        try:
            return ask(connection, path, host)
        finally:
            connection.close()

    def statuses(self, path: str, host: str) -> set[int]:
        """What all processes answer."""
        seen: dict[str, int] = {}
        while len(seen) < self.processes:
            process, status, _ = self.get(path, host)
            seen[process] = status
        return {*seen.values(), *(self.get(path, host)[1] for _ in range(10))}

    def connect(self) -> http.client.HTTPConnection:
        parts = urlsplit(self.edge.ready[1])
        return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=20)


def write(file: Path, processes: int, sites: str, more: str = "", listen: str = "127.0.0.1:0", serve: str = "") -> None:
    file.write_text(
        f"listen: {listen}\ncontrol: {{listen: '127.0.0.1:0'}}\nstate: state\n"
        f"serve: {{processes: {processes}{serve}}}\nsites: [{sites}]\n{more}\n"
    )


def ask(connection: http.client.HTTPConnection, path: str, host: str) -> tuple[str, int, http.client.HTTPMessage]:
    connection.request("GET", path, headers={"Host": host})
    with connection.getresponse() as response:
        response.read()
        return (response.headers["X-Request-Id"] or "").partition("-")[0], response.status, response.headers


def until(condition: Callable[[], bool]) -> None:
    """Poll; the test's own timeout ends it."""
    while not condition():
        time.sleep(0.02)


def site(name: str, origin: str, more: str = "") -> str:
    return f"{{name: {name}, hosts: [{name}.test], origins: ['{origin}']{more}}}"


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with started("the origin", SHOP[0], SHOP[1], tmp_path_factory.mktemp("origin") / "log") as shop:
        yield shop.ready[1]


@pytest.fixture(params=[1, 2], ids=["one process", "led processes"])
def here(request: pytest.FixtureRequest, tmp_path: Path, origin: str) -> Iterator[Here]:
    file = tmp_path / "edge.yaml"
    write(file, request.param, site("shop", origin), f"log: {{access: {tmp_path}/first.log}}")
    with started("the edge", ["-m", "edgecache", "serve", str(file)], EDGE_READY, tmp_path / "log") as edge:
        yield Here(file, origin, request.param, edge)
        edge.process.send_signal(signal.SIGTERM)
        assert edge.process.wait(30) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_sites_and_settings_change_in_every_process_and_connections_go_on(here: Here) -> None:
    kept = here.connect()
    assert ask(kept, "/products", "shop.test")[1] == 200
    assert here.statuses("/products", "new.test") == {421}
    refusing = site("shop", here.origin, ", access: {deny: [127.0.0.1]}")
    here.write(
        f"{refusing}, {site('new', here.origin)}", f"log: {{access: {here.file.parent}/second.log}}", serve=", max_target: 300B"
    )
    here.reload()
    assert here.statuses("/products", "new.test") == {200}
    assert here.statuses("/products", "shop.test") == {403}
    assert here.statuses("/" + "a" * 400, "new.test") == {414}
    assert ask(kept, "/products", "shop.test")[1] == 403, "an open connection goes on, under the new rules"
    kept.close()
    second = here.file.parent / "second.log"
    until(lambda: second.exists() and "new.test" in second.read_text())
    here.write(site("new", here.origin))
    here.reload()
    assert here.statuses("/products", "shop.test") == {421}
    length = second.stat().st_size
    assert here.statuses("/products", "new.test") == {200}
    until(lambda: second.stat().st_size == length)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ("sites: [{name: shop}]\n", "edge.yaml:1:9"),
        ("sites: [\n", "edge.yaml:2:1"),
        ("serve: {processes: 2, max_bodies: 1}\n", "max_bodies"),
    ],
)
def test_a_wrong_configuration_changes_nothing_and_is_told_by_line_and_column(here: Here, wrong: str, told: str) -> None:
    here.file.write_text(wrong)
    here.hang_up()
    until(lambda: "the configuration in use stays" in here.said)
    assert told in here.said
    assert here.statuses("/products", "shop.test") == {200}
    here.write(site("other", here.origin))
    here.reload()
    assert here.statuses("/products", "other.test") == {200}


def test_what_cannot_change_is_told_and_the_rest_is_in_force(here: Here) -> None:
    here.write(site("other", here.origin), listen="127.0.0.1:1", serve=", edge_id: renamed")
    here.reload()
    assert "not changed while running: listen, serve.edge_id; for these, restart" in here.said
    assert here.statuses("/products", "other.test") == {200}


def test_a_log_that_cannot_be_opened_is_told(here: Here) -> None:
    here.write(site("other", here.origin), f"log: {{access: {here.file.parent}/absent/access.log}}")
    here.hang_up()
    until(lambda: "does not exist" in here.said)
    first = here.file.parent / "first.log"
    before = first.read_text().count("\n")
    assert here.statuses("/products", "shop.test") == {200}
    until(lambda: first.read_text().count("\n") > before)
    assert json.loads(first.read_text().splitlines()[-1])["status"] == 200


def test_a_rotated_log_is_opened_anew_by_every_process(here: Here) -> None:
    here.statuses("/products", "shop.test")
    first = here.file.parent / "first.log"
    until(first.exists)
    first.rename(first.with_suffix(".1"))
    here.reload()

    def all_have_written() -> bool:
        # A process that was writing just then still puts what came meanwhile into the old file.
        here.get("/products")
        lines = first.read_text().splitlines() if first.exists() else []
        return len({json.loads(line)["id"].partition("-")[0] for line in lines}) == here.processes

    until(all_have_written)


@pytest.fixture
def echoing() -> Iterator[str]:
    """An origin that switches whoever asks to a protocol that says everything again."""

    class Echo(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
            while data := self.connection.recv(1024):
                self.wfile.write(data)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever).start()
        yield "http://{}:{}".format(*server.server_address)
        server.shutdown()


def switched(here: Here, host: str) -> tuple[bytes, socket.socket]:
    """The status line of an attempt to become a WebSocket, and its connection."""
    parts = urlsplit(here.edge.ready[1])
    connection = socket.create_connection((parts.hostname, parts.port), timeout=20)
    connection.sendall(
        f"GET /chat HTTP/1.1\r\nHost: {host}\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
    )
    said = b""
    while b"\r\n\r\n" not in said:
        more = connection.recv(4096)
        assert more, said
        said += more
    return said.partition(b"\r\n")[0], connection


def test_settings_of_tunnels_change_and_open_tunnels_go_on(here: Here, echoing: str) -> None:
    chat = site("chat", echoing, ", upgrade: [websocket]")
    here.write(chat, serve=", tunnels_per_site: 0")
    here.reload()
    status, refused = switched(here, "chat.test")
    refused.close()
    assert b" 503 " in status
    here.write(chat, serve=", tunnels_per_site: 1")
    here.reload()
    status, tunnel = switched(here, "chat.test")
    assert b" 101 " in status
    here.write(chat, "upstream: {connect_timeout: 3s}", serve=", tunnels_per_site: 0")
    here.reload()
    status, refused = switched(here, "chat.test")
    refused.close()
    assert b" 503 " in status
    with tunnel:
        tunnel.sendall(b"still here")
        assert tunnel.recv(100) == b"still here"
