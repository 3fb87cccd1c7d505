"""Runs the command line in this process, and plays a control API that answers what a test says, over a real socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from edgecache.cli import main


@dataclass(frozen=True)
class Result:
    """What a command said, and how it ended."""

    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `edgecache ARGUMENTS…`."""
    for name in ("EDGECACHE_URL", "EDGECACHE_TOKEN", "EDGECACHE_DEBUG", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)

    def command(*arguments: str) -> Result:
        code = main(arguments)
        said = capfd.readouterr()
        assert "Traceback" not in said.err
        return Result(code, said.out, said.err)

    return command


@dataclass
class PlayedApi:
    """Answers every request with the next of `answers`; remembers what it was asked."""

    url: str = ""
    answers: list[tuple[int, str, bytes]] = field(default_factory=list)
    asked: list[tuple[str, str, dict[str, str], bytes]] = field(default_factory=list)

    def will_answer(self, status: int, document: Any, content_type: str = "application/json") -> None:
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.answers.append((status, content_type, body))

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("--url", self.url, "--token", "secret")


@pytest.fixture
def api() -> Iterator[PlayedApi]:
    played = PlayedApi()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            played.asked.append((self.command, self.path, dict(self.headers.items()), body))
            status, content_type, content = played.answers.pop(0)
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    played.url = f"http://127.0.0.1:{server.server_port}"
    yield played
    server.shutdown()
    thread.join()
    server.server_close()
