"""`edgecache generator run`: the examples answer in the real sandbox, and what goes wrong is told."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from origin_sim.server import Shop
from sandbox.sdk import EXAMPLES, compile_c

pytestmark = pytest.mark.timeout(900)


CRASHING = r"""
#include "edge.h"
__attribute__((noinline)) void wreck(char *where) {
    *(volatile char *)where = 1; /* line 4 */
}
int main(void) {
    static edge_request req;
    while (edge_next(&req)) {
        if (req.path[1] == 'v') {
            static char value[65537];
            edge_log("short %ld, long %ld", edge_kv_put("a", value, 9), edge_kv_put("b", value, sizeof value));
            edge_respond(200, "text/plain", "stored");
            continue;
        }
        wreck((char *)16);
    }
    return 1;
}
"""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    for example in ("hello", "guestinfo", "spinner", "visits"):
        shutil.copytree(EXAMPLES / example, folder / example)
        compile_c([folder / example / f"{example}.c"], folder / example / example)
    return folder


def run(*arguments: str | Path, code: int = 0, stdin: bytes = b"") -> tuple[str, str]:
    command = [sys.executable, "-m", "edgecache", "generator", "run", *map(str, arguments)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("EDGECACHE_")}
    done = subprocess.run(command, capture_output=True, input=stdin, check=False, timeout=60, env=environment)
    assert done.returncode == code, (done.stdout, done.stderr)
    assert b"Traceback" not in done.stderr
    return done.stdout.decode(), done.stderr.decode()


def test_the_sample_of_the_manifest_is_the_default(bundles: Path) -> None:
    out, told = run(bundles / "hello")
    assert out.startswith("HTTP/1.1 200 OK\nContent-Type: text/html; charset=utf-8\n")
    assert "<h1>Hello, world!</h1>" in out
    assert "log: greeted in en" in told
    assert "run: finished" in told


@pytest.mark.parametrize(
    ("accept", "greeting"), [("de-CH, en", "Hallo"), ("xx, fr;q=0.5", "Bonjour"), ("", "Hello"), (",,,", "Hello")]
)
def test_hello_speaks_the_first_language_that_it_knows(bundles: Path, accept: str, greeting: str) -> None:
    out, _ = run(bundles / "hello", "--target", "/hello/%3Cb%3E", "-H", f"Accept-Language: {accept}", "--body")
    assert f"<h1>{greeting}, &lt;b&gt;!</h1>" in out


def test_a_request_can_come_as_a_message(bundles: Path) -> None:
    out, _ = run(bundles / "guestinfo", "--request", "-", stdin=b"PUT /guestinfo?a=%3Cb%3E HTTP/1.1\r\nX-Thing: <i>\r\n\r\nbody")
    for row in ("REQUEST_METHOD<td>PUT", "QUERY_STRING<td>a=%3Cb%3E", "HTTP_X_THING<td>&lt;i&gt;", "CONTENT_LENGTH<td>4"):
        assert f"<tr><th>{row}\n" in out


def test_a_request_that_is_too_long_is_refused_rather_than_cut(bundles: Path) -> None:
    _, told = run(bundles / "guestinfo", "--request", "-", code=1, stdin=b"PUT /guestinfo\n\n" + bytes(2 << 20))
    assert "longer than 2 MiB" in told and "What to do:" in told


def test_over_its_cpu_limit_a_program_fails_with_the_limit_named(bundles: Path) -> None:
    out, told = run(bundles / "spinner", "--target", "/spinner?ms=60000", code=1)
    assert out == ""
    assert "the program gave no answer: cpu-limit: more than 50 ms of CPU time" in told


@pytest.fixture(scope="module")
def crashing_built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crashing")
    (folder / "crash.c").write_text(CRASHING)
    (folder / "generator.yaml").write_text(
        "{name: crash, program: crash, convention: resident, routes: [/x], sample: {path: /x}}"
    )
    command = [sys.executable, "-m", "edgecache", "generator", "build", str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    return folder


@pytest.fixture
def crashing(crashing_built: Path, tmp_path: Path) -> Path:
    return shutil.copytree(crashing_built, tmp_path / "crashing")


@pytest.mark.parametrize("tools", [True, False])
def test_a_fault_is_told_with_its_place_in_the_source(crashing: Path, monkeypatch: pytest.MonkeyPatch, tools: bool) -> None:
    if not tools:
        monkeypatch.setenv("PATH", "/nowhere")
    _, told = run(crashing, code=1)
    place = "wreck (crash.c:4)" if tools and shutil.which("addr2line") else "wreck"
    assert re.search(rf"the program gave no answer: fault: write of 0x10 at 0x[0-9a-f]+, in {re.escape(place)}\n", told), told
    assert "What to do: an address near 0 is a null pointer" in told


@pytest.mark.parametrize("broken", [b"", b"\x7fELF\x02\x01", b"\x7fELF\x02\x01" + b"\xff" * 500])
def test_without_symbols_that_can_be_read_a_fault_is_told_all_the_same(crashing: Path, broken: bytes) -> None:
    (crashing / ".crash.debug").write_bytes(broken)
    _, told = run(crashing, code=1)
    assert re.search(r"fault: write of 0x10 at 0x[0-9a-f]+\n", told)


def test_a_value_that_an_edge_would_not_keep_is_not_kept_here(crashing: Path) -> None:
    _, told = run(crashing, "--target", "/v")
    assert "log: short 0, long -28" in told


async def test_fetches_go_to_the_origin_that_is_named(bundles: Path) -> None:
    async with Shop(host="127.0.0.1", port=0) as shop:
        out, _ = await asyncio.to_thread(run, bundles / "visits", "--origin", shop.url)
    assert "<h1>Visit 1</h1>" in out
    assert "The origin answered 200" in out


def test_without_an_origin_a_fetch_fails_and_the_program_goes_on(bundles: Path) -> None:
    out, told = run(bundles / "visits")
    assert "The origin answered 502" in out
    assert "name an origin with --origin" in told


@pytest.mark.parametrize("message", [b"", b"nonsense", b"GET nowhere\n\n", b"GET / HTTP/1.1\nno field\n\n"])
def test_what_is_no_request_is_told(bundles: Path, message: bytes) -> None:
    _, told = run(bundles / "hello", "--request", "-", code=1, stdin=message)
    assert "not a request" in told


def test_a_target_is_a_path(bundles: Path) -> None:
    _, told = run(bundles / "hello", "--target", "hello", code=2)
    assert "--target 'hello' does not begin with /" in told


@pytest.mark.parametrize(("target", "noted"), [("/hello/x?/other", False), ("/a/../hello", False), ("/other?/hello", True)])
def test_who_asks_for_what_no_route_claims_is_told(bundles: Path, target: str, noted: bool) -> None:
    _, told = run(bundles / "hello", "--target", target)
    assert ("its routes are /hello, /hello/*" in told) is noted


def test_a_program_that_is_none_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "generator.yaml").write_text("name: g\nprogram: g\nconvention: cgi\nroutes: [/g]\n")
    (tmp_path / "g").write_text("#!/bin/sh\necho hello\n")
    _, told = run(tmp_path, code=1)
    assert "a script (#!)" in told


def test_a_request_is_given_in_one_way_only(bundles: Path) -> None:
    run(bundles / "hello", "--request", "-", "--target", "/x", code=2)
