"""Origins and `--upstream` on the command line."""

from __future__ import annotations

import json

import click
import pytest

from edgecache.cli.originforms import origins_of, texts_of, upstream_of
from tests.unit.cli.conftest import PlayedApi, Run


def test_origins_with_and_without_traits() -> None:
    assert origins_of(["http://a", "http://b,weight=3,backup", "http://c,proxy_protocol=2"]) == [
        "http://a",
        {"url": "http://b", "weight": 3, "backup": True},
        {"url": "http://c", "proxy_protocol": 2},
    ]


@pytest.mark.parametrize("text", ["http://a", "http://b,weight=3,backup", "http://c,proxy_protocol=2"])
def test_they_are_shown_as_they_are_given(text: str) -> None:
    assert texts_of(origins_of([text])) == [text]


def test_upstream_words() -> None:
    pairs = ("balance=weight", "health.path=/ready", "health.expect=204", "retries.on=reset,timeout", "retries.budget=0.1")
    assert upstream_of((*pairs, "hedge=null", "ejection=on", "tls.insecure_skip_verify=true", "breaker.max_failures=5")) == {
        "balance": "weight",
        "health": {"path": "/ready", "expect": "204"},
        "retries": {"on": ["reset", "timeout"], "budget": 0.1},
        "hedge": None,
        "ejection": {},
        "tls": {"insecure_skip_verify": True},
        "breaker": {"max_failures": 5},
    }


@pytest.mark.parametrize("text", ["http://a,weight", "http://a,wait=3", "http://a,"])
def test_what_an_origin_does_not_have(text: str) -> None:
    with pytest.raises(click.UsageError, match="is none of weight=N"):
        origins_of([text])


@pytest.mark.parametrize("pairs", [["health"], ["=1"], ["health.=1"], ["health=null", "health.path=/"]])
def test_what_is_no_part_of_upstream(pairs: list[str]) -> None:
    with pytest.raises(click.UsageError, match="--upstream"):
        upstream_of(pairs)


def test_site_set_sends_them(run: Run, api: PlayedApi) -> None:
    api.will_answer(200, {"name": "shop"})
    said = ("--origin", "http://a,weight=2", "--upstream", "hedge.after=200ms")
    result = run("site", "set", "shop", *said, *api.arguments)
    assert (result.code, result.out) == (0, "changed origins, upstream of site shop\n")
    assert json.loads(api.asked[0][3]) == {
        "origins": [{"url": "http://a", "weight": 2}],
        "upstream": {"hedge": {"after": "200ms"}},
    }


def test_site_add_sends_them(run: Run, api: PlayedApi) -> None:
    api.will_answer(201, {"name": "shop"})
    said = ("--host", "a.test", "--origin", "http://a", "--upstream", "ejection=on", "--upstream", "breaker.max_failures=9")
    assert run("site", "add", "shop", *said, *api.arguments).code == 0
    assert json.loads(api.asked[0][3])["upstream"] == {"ejection": {}, "breaker": {"max_failures": 9}}


def test_status_shows_origins(run: Run, api: PlayedApi) -> None:
    row = {
        "state": "ejected",
        "backup": True,
        "requests": 7,
        "failures": 2,
        "retries": 1,
        "hedges": 0,
        "connections": 3,
        "pending": 0,
    }
    part = {"origins": 1, "sites": {"shop": {"origins": {"http://a": row}}}}
    found = {"version": "1", "uptime_seconds": 1, "state": {"status": "ok"}, "parts": {"upstream": part}, "sites": []}
    api.will_answer(200, found)
    result = run("status", *api.arguments)
    assert result.code == 0
    line = next(line for line in result.out.splitlines() if "http://a" in line)
    assert line.split() == ["shop", "http://a", "ejected", "(backup)", "7", "2", "1", "0", "3"]
