"""edge.h inside a guest: what a program writes with it is what comes out, and its checks hold."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.sdk import compile_c

pytestmark = pytest.mark.timeout(900)

SOURCE = r"""
#include "edge.h"

static char big[100000];

static void headers(edge_response *res) {
    edge_begin(res, 201, "text/plain");
    if (edge_set(res, "X-Bad", "a\r\nX-Injected: 1") != -EINVAL) return;
    if (edge_set(res, "Bad Name", "x") != -EINVAL || edge_set(res, "", "x") != -EINVAL) return;
    edge_set(res, "X-Good", "caf\xc3\xa9\t1");
    edge_print(res, "body");
    if (edge_set(res, "X-Late", "x") != -EINVAL) edge_print(res, " and a late header");
}

static void escapes(edge_response *res) {
    edge_begin(res, 200, "text/plain");
    edge_html(res, "<a href=\"x\">'&'</a>");
    edge_print(res, "\n");
    edge_json(res, "\"\\\n</script>\x01" "caf\xc3\xa9");
    edge_printf(res, "\n%s %d %s", "printf", 7, "");
}

static void large(edge_response *res) {
    memset(big, 'x', sizeof big - 1);
    edge_begin(res, 200, "text/plain");
    edge_printf(res, "[%s]", big);
    for (int i = 0; i < 5000; i++) edge_printf(res, "%04d\n", i);
    edge_write(res, "a\0b", 3);
}

static void values(edge_response *res) {
    char text[4];
    edge_begin(res, 200, "text/plain");
    edge_printf(res, "%ld ", edge_kv_get("absent", text, sizeof text));
    edge_printf(res, "%ld ", edge_kv_put("key", "12345678", 8));
    edge_printf(res, "%ld:%.4s ", edge_kv_get("key", text, sizeof text), text);
    edge_printf(res, "%ld ", edge_kv_put_number("number", -42));
    edge_printf(res, "%ld %ld", edge_kv_get_number("number", 0), edge_kv_get_number("absent", 7));
}

int main(void) {
    static edge_request req;
    int more = edge_next(&req);
    while (more) {
        edge_response res;
        if (strcmp(req.path, "/headers") == 0) headers(&res);
        else if (strcmp(req.path, "/escapes") == 0) escapes(&res);
        else if (strcmp(req.path, "/large") == 0) large(&res);
        else if (strcmp(req.path, "/values") == 0) values(&res);
        else edge_begin(&res, 404, NULL);
        if (strcmp(req.query, "finish") == 0) {
            more = edge_finish(&res, &req);
        } else {
            edge_end(&res);
            more = edge_next(&req);
        }
    }
    return 1;
}
"""
MANIFEST = "name: probe\nprogram: probe\nconvention: resident\nroutes: [/*]\nfiles: []\nlimits: {cpu: 2s, wall: 20s}\n"


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe")
    (folder / "probe.c").write_text(SOURCE)
    (folder / "generator.yaml").write_text(MANIFEST)
    compile_c([folder / "probe.c"], folder / "probe")
    return folder


def ask(probe: Path, target: str, *options: str) -> bytes:
    command = [sys.executable, "-m", "edgecache", "generator", "run", str(probe), "--target", target, *options]
    done = subprocess.run(command, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_headers_cannot_be_split_and_end_with_the_body(probe: Path) -> None:
    head, _, body = ask(probe, "/headers").partition(b"\n\n")
    assert head.splitlines() == [b"HTTP/1.1 201 Created", b"Content-Type: text/plain", "X-Good: café\t1".encode()]
    assert body == b"body"


def test_text_is_escaped_for_html_and_json(probe: Path) -> None:
    lines = ask(probe, "/escapes", "--body").decode().splitlines()
    assert lines == [
        "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;",
        '"\\"\\\\\\u000a\\u003c/script>\\u0001café"',
        "printf 7 ",
    ]


def test_answers_larger_than_the_buffer_come_whole_and_in_order(probe: Path) -> None:
    body = ask(probe, "/large", "--body")
    assert body == b"[" + b"x" * 99_999 + b"]" + b"".join(b"%04d\n" % number for number in range(5000)) + b"a\0b"


def test_values_are_kept_and_cut_to_the_buffer(probe: Path) -> None:
    assert ask(probe, "/values", "--body") == b"-2 0 8:1234 0 -42 7"


def test_an_answer_may_have_no_body_and_no_type(probe: Path) -> None:
    assert ask(probe, "/nothing") == b"HTTP/1.1 404 Not Found\n\n"


@pytest.mark.parametrize("target", ["/headers", "/escapes", "/large", "/nothing"])
def test_an_answer_finished_is_the_answer_ended(probe: Path, target: str) -> None:
    assert ask(probe, target + "?finish") == ask(probe, target)
