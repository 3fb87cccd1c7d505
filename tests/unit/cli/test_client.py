"""Talking to a control API: what is sent, and how each way to fail is told."""

from __future__ import annotations

import io
import json
import socket
from pathlib import Path

import pytest

from edgecache.cli.sites import NUMBERS
from edgecache.control.words import LIMIT_WORDS
from tests.unit.cli.conftest import PlayedApi, Run


def test_the_token_goes_into_the_authorization_field(run: Run, api: PlayedApi) -> None:
    api.will_answer(200, {"sites": []})
    assert run("site", "list", *api.arguments).code == 0
    method, path, headers, _ = api.asked[0]
    assert (method, path) == ("GET", "/v1/sites")
    assert headers["Authorization"] == "Bearer secret"


def test_url_and_token_come_from_the_environment(run: Run, api: PlayedApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGECACHE_URL", api.url + "/")
    monkeypatch.setenv("EDGECACHE_TOKEN", "from-environment")
    api.will_answer(200, {"sites": []})
    assert run("site", "list").code == 0
    assert api.asked[0][2]["Authorization"] == "Bearer from-environment"


def test_the_operators_token_is_read_from_the_state_directory(run: Run, api: PlayedApi, tmp_path: Path) -> None:
    (tmp_path / "operator.token").write_text("from-state\n")
    api.will_answer(200, {"sites": []})
    assert run("site", "list", "--url", api.url, "--state", str(tmp_path)).code == 0
    assert api.asked[0][2]["Authorization"] == "Bearer from-state"


def test_an_edge_started_here_needs_no_word_about_its_token(
    run: Run, api: PlayedApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".edgecache").mkdir()
    (tmp_path / ".edgecache" / "operator.token").write_text("from-here\n")
    api.will_answer(200, {"sites": []})
    assert run("site", "list", "--url", api.url).code == 0
    assert api.asked[0][2]["Authorization"] == "Bearer from-here"
    assert "no token" in run("site", "list", "--url", "https://edge.example:1").err, "it left this machine"


def test_a_state_directory_here_that_cannot_be_looked_into_is_told(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of another user; root, as whom tests may run, is stopped by a loop of links only."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".edgecache").symlink_to(".edgecache")
    result = run("site", "list", "--url", "http://127.0.0.1:9")
    assert result.code == 1
    assert "cannot read the operator's token from .edgecache/operator.token: Too many levels" in result.err


def test_a_state_directory_without_a_token_is_told(run: Run, tmp_path: Path) -> None:
    result = run("site", "list", "--state", str(tmp_path))
    assert result.code == 1
    assert f"cannot read the operator's token from {tmp_path}/operator.token: No such file or directory" in result.err


def test_without_a_token_nothing_is_sent(run: Run, api: PlayedApi) -> None:
    result = run("site", "list", "--url", api.url)
    assert result.code == 1
    assert "no token" in result.err
    assert "EDGECACHE_TOKEN" in result.err
    assert api.asked == []


def test_an_edge_that_is_not_there_is_told(run: Run) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        result = run("status", "--url", url, "--token", "x")
    assert result.code == 1
    assert f"no edge answers at {url} (connection refused)" in result.err
    assert "edgecache serve" in result.err


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1", "http://", "http://127.0.0.1:99999", "http://127.0.0.1/?q"])
def test_what_is_no_url_is_told(run: Run, url: str) -> None:
    result = run("status", "--url", url, "--token", "x")
    assert result.code == 2
    assert "is not the URL of a control API" in result.err


def test_a_token_never_crosses_a_network_in_the_clear(run: Run) -> None:
    result = run("status", "--url", "http://192.0.2.1:8081", "--token", "x")
    assert result.code == 2
    assert "in the clear" in result.err


def test_a_problem_document_is_told_with_place_and_advice(run: Run, api: PlayedApi) -> None:
    api.will_answer(
        409, {"detail": "the host a.test belongs to another site", "where": "$.hosts[0]", "advice": "choose another host"}
    )
    result = run("site", "add", "shop", "--host", "a.test", *api.arguments)
    assert result.code == 1
    assert result.err == "edgecache: the host a.test belongs to another site (hosts[0])\n  What to do: choose another host\n"


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        (
            "choose another name, or change it with PATCH /v1/sites/shop",
            "choose another name, or change it with `edgecache site set shop`",
        ),
        ("add it with PUT /v1/clusters/NAME first", "add it with `edgecache cluster set NAME` first"),
        ("correct the body; /v1/openapi.json says what is right", "correct it; the command's --help says what it takes"),
    ],
)
def test_what_to_do_is_said_in_commands(run: Run, api: PlayedApi, said: str, shown: str) -> None:
    api.will_answer(409, {"detail": "no", "advice": said})
    assert run("site", "list", *api.arguments).err == f"edgecache: no\n  What to do: {shown}\n"


def test_every_mistake_of_a_document_is_told(run: Run, api: PlayedApi) -> None:
    errors = [
        {"message": "unknown key", "file": "generator.yaml", "line": 4, "column": 3, "key": "foo"},
        {"message": "needs the key name"},
    ]
    api.will_answer(422, {"detail": "the manifest is wrong", "advice": "correct it", "errors": errors})
    result = run("status", *api.arguments)
    assert "  generator.yaml:4:3: foo: unknown key\n  needs the key name\n" in result.err


def test_401_says_where_the_token_shown_is_from_and_how_to_show_another(
    run: Run, api: PlayedApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "operator.token").write_text("from-state\n")
    state = ("--state", str(tmp_path))
    ways = [
        (("--token", "typed"), {}, "--token"),
        (("--token", "typed", *state), {}, "--token"),
        ((), {"EDGECACHE_TOKEN": "set"}, "EDGECACHE_TOKEN"),
        (state, {}, f"{tmp_path}/operator.token"),
        (state, {"EDGECACHE_TOKEN": "set"}, f"{tmp_path}/operator.token"),
    ]
    for arguments, environment, source in ways:
        api.will_answer(401, {"title": "Unauthorized", "advice": "send `Authorization: Bearer TOKEN`"})
        with monkeypatch.context() as patch:
            for name, value in environment.items():
                patch.setenv(name, value)
            result = run("status", "--url", api.url, *arguments)
        assert f"What to do: the token shown is from {source}; give --token, set EDGECACHE_TOKEN, or" in result.err
        assert "Bearer" not in result.err


@pytest.mark.parametrize("body", [b"<html>", b"[1]", b"\xff"])
def test_an_answer_that_is_not_the_apis_is_told(run: Run, api: PlayedApi, body: bytes) -> None:
    api.will_answer(200, body, "text/html")
    result = run("status", *api.arguments)
    assert result.code == 1
    assert "not the control API's JSON" in result.err


def test_names_are_quoted_in_paths(run: Run, api: PlayedApi) -> None:
    api.will_answer(200, {"name": "x"})
    assert run("site", "show", "a/../b?c", *api.arguments).code == 0
    assert api.asked[0][1] == "/v1/sites/a%2F..%2Fb%3Fc"


def test_site_add_sends_what_was_said(run: Run, api: PlayedApi) -> None:
    api.will_answer(201, {"name": "shop"})
    command = ("site", "add", "shop", "--host", "a.test", "--host", "*.a.test", "--origin", "http://127.0.0.1:1", "--weight", "3")
    assert run(*command, *api.arguments).out == "added site shop for a.test, *.a.test\n"
    expected = {"name": "shop", "hosts": ["a.test", "*.a.test"], "origins": ["http://127.0.0.1:1"], "weight": 3}
    assert json.loads(api.asked[0][3]) == expected


def test_site_set_sends_only_what_changes(run: Run, api: PlayedApi) -> None:
    api.will_answer(200, {"name": "shop"})
    settings = (
        "--cache",
        "default_ttl=60s",
        "--cache",
        "vary=Accept, Cookie",
        "--cache",
        "heuristic=false",
        "--ceiling",
        "vms=8",
    )
    assert run("site", "set", "shop", *settings, *api.arguments).code == 0
    method, path, _, body = api.asked[0]
    assert (method, path) == ("PATCH", "/v1/sites/shop")
    expected = {"cache": {"default_ttl": "60s", "vary": ["Accept", "Cookie"], "heuristic": False}, "ceiling": {"vms": 8}}
    assert json.loads(body) == expected


def test_words_of_sites_that_are_numbers_are_those_that_have_no_unit() -> None:
    counts = {word for word, limit in LIMIT_WORDS.items() if limit.kind == "count"}
    assert counts | {"client_rate", "client_burst"} == NUMBERS


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--cache", "default_ttl"), "such as --cache default_ttl=60s"),
        (("--access", "client_rate"), "such as --access client_rate=50"),
        (("--access", "client_rate=-1"), "client_rate must be a whole number, not '-1'"),
        (("--access", "client_burst="), "client_burst must be a whole number, not ''"),
        (("--ceiling", "vms=4.5"), "vms must be a whole number, not '4.5'"),
    ],
)
def test_a_setting_that_cannot_be_is_usage(run: Run, api: PlayedApi, arguments: tuple[str, ...], said: str) -> None:
    result = run("site", "set", "shop", *arguments, *api.arguments)
    assert (result.code, said in result.err, api.asked) == (2, True, []), result.err


def test_a_number_without_its_unit_is_sent_as_it_was_typed_for_the_edge_to_say_so(run: Run, api: PlayedApi) -> None:
    api.will_answer(200, {})
    run("site", "set", "shop", "--cache", "default_ttl=60", "--ceiling", "cpu=50", *api.arguments)
    assert json.loads(api.asked[0][3]) == {"cache": {"default_ttl": "60"}, "ceiling": {"cpu": "50"}}


def test_where_pages_are_served_is_told_from_the_control_api(run: Run, api: PlayedApi) -> None:
    api.will_answer(421, {"type": "about:blank", "title": "Misdirected Request", "status": 421, "detail": "No site here"})
    result = run("status", *api.arguments)
    assert result.code == 1 and "is not where pages are served" in result.err


@pytest.mark.parametrize("arguments", [(), ("--cache", "nonsense"), ("--ceiling", "=1")])
def test_site_set_without_a_change_is_a_usage_error(run: Run, api: PlayedApi, arguments: tuple[str, ...]) -> None:
    assert run("site", "set", "shop", *arguments, *api.arguments).code == 2
    assert api.asked == []


def test_a_created_token_stands_alone_on_standard_output(run: Run, api: PlayedApi) -> None:
    api.will_answer(201, {"token": "ec_secret", "id": "t1"})
    result = run("token", "create", "--site", "shop", "--verbs", "push, logs", *api.arguments)
    assert result.out == "ec_secret\n"
    assert "t1" in result.err
    assert json.loads(api.asked[0][3]) == {"site": "shop", "verbs": ["push", "logs"]}


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--site", "shop"),
        ("--verbs", "push"),
        ("--verbs", "read", "--site", ""),
        ("--operator", "--site", "shop"),
        ("--site", "shop", "--verbs", "push,fly"),
    ],
)
def test_token_create_needs_a_site_with_verbs_or_operator(run: Run, api: PlayedApi, arguments: tuple[str, ...]) -> None:
    assert run("token", "create", *arguments, *api.arguments).code == 2
    assert api.asked == []


@pytest.mark.parametrize(
    ("arguments", "body"),
    [
        (("http://a.test/x", "http://a.test/y"), {"urls": ["http://a.test/x", "http://a.test/y"]}),
        (("--tag", "t", "--soft"), {"tag": "t", "soft": True}),
        (("--tag", "t", "--refresh"), {"tag": "t", "refresh": True}),
        (("--prefix", "http://a.test/", "--site", "s"), {"prefix": "http://a.test/", "site": "s"}),
        (("--site", "s"), {"site": "s"}),
        (("--all",), {"everything": True}),
    ],
)
def test_purge_sends_one_choice(run: Run, api: PlayedApi, arguments: tuple[str, ...], body: dict[str, object]) -> None:
    api.will_answer(200, {"purged": 1, "soft": False, "refresh": False})
    assert run("purge", *arguments, *api.arguments).out.endswith(": 1 entry\n")
    assert json.loads(api.asked[0][3]) == body


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--soft",),
        ("--tag", "t", "--all"),
        ("--tag", "", "--site", "s"),
        ("--tag", "t", "--site", ""),
        ("", "--site", "s"),
        ("--tag", "t", "--soft", "--refresh"),
        ("http://a.test/", "--tag", "t"),
    ],
)
def test_purge_of_nothing_or_of_two_things_is_a_usage_error(run: Run, api: PlayedApi, arguments: tuple[str, ...]) -> None:
    assert run("purge", *arguments, *api.arguments).code == 2
    assert api.asked == []


def test_urls_come_from_a_file_in_requests_that_the_api_takes(run: Run, api: PlayedApi, tmp_path: Path) -> None:
    urls = [f"http://a.test/{number}" for number in range(2_500)]
    (tmp_path / "urls").write_text("\n".join(["", *urls, "  ", "http://a.test/" + "x" * 8_000]))
    for purged in (1_000, 1_000, 400):
        api.will_answer(200, {"purged": purged, "soft": True, "refresh": False})
    result = run("purge", "--file", str(tmp_path / "urls"), "--soft", *api.arguments)
    assert result.out == "marked stale: 2400 entries\n"
    bodies = [json.loads(asked[3]) for asked in api.asked]
    assert [len(body["urls"]) for body in bodies] == [1_000, 1_000, 501]
    assert [url for body in bodies for url in body["urls"]][:2_500] == urls
    assert all(body["soft"] for body in bodies)


@pytest.mark.parametrize("content", [None, b"", b"\n\n", b"\xff"])
def test_a_file_without_urls_purges_nothing(run: Run, api: PlayedApi, tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "urls").write_bytes(content)
    result = run("purge", "--file", str(tmp_path / "urls"), *api.arguments)
    assert (result.code, api.asked) == (1, [])
    assert "one a line" in result.err


def test_removing_asks_first(run: Run, api: PlayedApi) -> None:
    api.will_answer(204, b"")
    assert run("site", "remove", "shop", "--yes", *api.arguments).out == "removed site shop\n"
    assert api.asked[0][:2] == ("DELETE", "/v1/sites/shop")


def test_where_nobody_can_say_yes_nothing_is_removed(run: Run, api: PlayedApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    result = run("site", "remove", "shop", *api.arguments)
    assert (result.code, api.asked) == (1, [])
    assert "give --yes" in result.err


def test_logs_are_shown_with_control_characters_made_visible(run: Run, api: PlayedApi) -> None:
    line = {"seq": 1, "time": "2026-01-01T00:00:00Z", "version": 2, "request_id": "r1", "text": "a\x1b[31mb"}
    api.will_answer(200, {"lines": [line], "dropped": 0, "next": 1})
    result = run("generator", "logs", "hello", "--site", "shop", "--lines", "5", *api.arguments)
    assert result.out == "2026-01-01T00:00:00Z  v2  r1  a\\x1b[31mb\n"
    assert api.asked[0][1] == "/v1/sites/shop/generators/hello/logs?lines=5"


def test_a_log_without_lines_is_told_beside_the_output(run: Run, api: PlayedApi) -> None:
    api.will_answer(200, {"lines": [], "dropped": 0, "next": 0})
    result = run("generator", "logs", "hello", "--site", "shop", *api.arguments)
    assert (result.out, result.err) == ("", "hello of shop has logged nothing since the edge started\n")


STATUS = {
    "version": "0.1.0",
    "started": "2026-01-01T00:00:00Z",
    "uptime_seconds": 3725.5,
    "state": {"status": "ok"},
    "sites": [
        {
            "name": "shop",
            "hosts": ["a.test"],
            "weight": 1,
            "from_config": False,
            "generators": [{"name": "hello", "routes": ["/h/*"], "active": [{"version": 3, "percent": 100}]}],
        }
    ],
    "parts": {
        "cache": {"entries": 12, "memory_bytes": 3 << 20, "sites": {"shop": {"hits": 5}}},
        "sandbox": {"engine": "unicorn", "generators": {"shop/hello@3": {"calls": 4, "cpu_ns": 2_000_000_000}}},
    },
}


def test_status_tells_the_rooms_and_the_sites(run: Run, api: PlayedApi) -> None:
    api.will_answer(200, STATUS)
    lines = run("status", *api.arguments).out.splitlines()
    assert lines[0] == "edgecache 0.1.0 · up 1 h 2 m · state ok"
    assert "cache: entries 12  memory 3.0 MiB" in lines
    assert "sandbox: engine unicorn" in lines
    assert lines[-1].split("\t") == ["shop", "a.test", "1", "hello", "/h/*", "v3 100 %"]


def test_json_is_what_the_api_said(run: Run, api: PlayedApi) -> None:
    api.will_answer(200, STATUS)
    assert json.loads(run("status", "--json", *api.arguments).out) == STATUS


def test_top_shows_growth_between_two_looks(run: Run, api: PlayedApi) -> None:
    later = json.loads(json.dumps(STATUS))
    later["uptime_seconds"] += 2
    later["parts"]["sandbox"]["generators"]["shop/hello@3"]["cpu_ns"] += 1_000_000_000
    api.will_answer(200, STATUS)
    api.will_answer(200, later)
    result = run("top", "--times", "2", "--every", "0.2", *api.arguments)
    assert result.code == 0
    looks = [line.split() for line in result.out.splitlines() if line.startswith("shop/hello@3")]
    assert [look[5:7] for look in looks] == [["-", "-"], ["50.0%", "0"]]
