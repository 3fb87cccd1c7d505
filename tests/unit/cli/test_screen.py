"""The screen of `edgecache top`: what matters is on it, whatever the terminal's size."""

from __future__ import annotations

import copy
import io
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edgecache.cli.screen import screen

SHARE = {"weight": 1, "cap": None, "cpu_ns": 0, "promised": 0.0, "received": 0.0}


def status(sites: int, generators: int = 0, processes: int = 0) -> dict[str, Any]:
    """As GET /v1/status answers; the last site is the busiest."""
    names = [f"site-{number}" for number in range(sites)]
    made = [f"site-0/page-{number}@1" for number in range(generators)]
    traffic = {"requests": 1000, "hits": 900, "errors": 1, "sent_bytes": 1 << 20, "hit_ratio": 0.9}
    origin = {"state": "healthy", "backup": False, "requests": 9, "failures": 0, "connections": 1, "pending": 0}
    return {
        "version": "0.1.0",
        "uptime_seconds": 100.0,
        "state": {"status": "ok"},
        "sites": [{"name": name, "hosts": [f"{name}.test"], "weight": 1, "generators": []} for name in names],
        "parts": {
            "traffic": {**traffic, "sites": dict.fromkeys(names, traffic)},
            "cache": {"capacity_bytes": 1 << 30, "used_bytes": 1 << 20, "entries": 7, "evicted": 0, "purged": 0},
            "sandbox": {
                "engine": "kvm",
                **dict.fromkeys(("workers", "vms", "queued", "active", "cpu_ns", "hot_bytes", "hot_budget_bytes"), 1),
                "clusters": {"default": SHARE, "gold": {**SHARE, "weight": 3, "cap": 150}},
                "sites": {name: {**SHARE, "received": number / max(sites, 1)} for number, name in enumerate(names)},
                "generators": {
                    name: {**SHARE, "calls": 5, "failed": 0, "queued": 0, "vms": 1, "quarantined_seconds": 0.0} for name in made
                },
            },
            "upstream": {
                **dict.fromkeys(("origins", "unhealthy", "requests", "failures", "connections"), 1),
                "sites": {name: {"origins": {"http://127.0.0.1:8090": origin}} for name in names},
            },
            "processes": {
                "each": {
                    str(number): {"pid": 9, "state": "serving", "restarts": 0, "requests": 1, "connections": 0, "stored_bytes": 5}
                    for number in range(processes)
                }
            },
        },
    }


def drawn(now: dict[str, Any], before: dict[str, Any] | None = None, width: int = 100, height: int = 10_000) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width, highlight=False).print(screen(now, before, width, height))
    return [line.rstrip() for line in out.getvalue().splitlines()]


@given(
    st.integers(0, 60), st.integers(0, 60), st.integers(0, 9), st.integers(40, 200), st.sampled_from([24, 30, 50]), st.booleans()
)
def test_it_fits_the_terminal(sites: int, generators: int, processes: int, width: int, height: int, again: bool) -> None:
    now = status(sites, generators, processes)
    lines = drawn(now, now if again else None, width, height)
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert lines[0].startswith("edgecache 0.1.0")


def test_a_site_that_has_no_generator_has_its_weight_shown() -> None:
    now = status(sites=1)
    now["sites"].append({"name": "plain", "hosts": ["plain.test"], "weight": 7, "generators": []})
    (row,) = (line.split() for line in drawn(now) if line.startswith("plain"))
    assert row[1] == "7"


def test_on_a_small_terminal_shares_and_the_busiest_are_seen() -> None:
    lines = drawn(status(sites=30, generators=30), width=80, height=24)
    assert [line.split()[0] for line in lines if "PROMISED" in line] == ["CLUSTER", "SITE", "GENERATOR"]
    assert "RECEIVED" in "".join(lines)
    at = next(number for number, line in enumerate(lines) if line.startswith("SITE"))
    assert lines[at + 1].startswith("site-29 ")
    assert any(line.endswith(" more") and "…" in line for line in lines)


def test_rates_are_of_what_grew_since_the_look_before() -> None:
    before = status(sites=1)
    now = copy.deepcopy(before)
    now["uptime_seconds"] += 2
    now["parts"]["traffic"]["sites"]["site-0"] = {**before["parts"]["traffic"]["sites"]["site-0"], "requests": 1500}
    now["parts"]["sandbox"]["sites"]["site-0"] = {**SHARE, "cpu_ns": 1_000_000_000}
    lines = [line.split() for line in drawn(now, before, width=200)]
    heads = next(line for line in lines if line[:1] == ["SITE"])
    row = next(line for line in lines if line[:1] == ["site-0"])
    told = dict(zip(heads, row, strict=True))
    assert (told["REQ/S"], told["CPU"], told["HITS"]) == ("250", "50.0%", "90.0%")


def test_what_rests_and_what_is_down_is_seen() -> None:
    now = status(sites=3, generators=2)
    now["parts"]["sandbox"]["generators"]["site-0/page-1@1"]["quarantined_seconds"] = 7.6
    now["parts"]["upstream"]["sites"]["site-2"]["origins"] = {
        "http://127.0.0.1:1": {**now["parts"]["upstream"]["sites"]["site-2"]["origins"]["http://127.0.0.1:8090"], "state": "down"}
    }
    lines = drawn(now)
    assert any(line.startswith("site-0/page-1@1") and line.endswith("8 s") for line in lines)
    at = next(number for number, line in enumerate(lines) if line.startswith("ORIGIN"))
    assert lines[at + 1].split()[:3] == ["site-2", "http://127.0.0.1:1", "down"]


def test_rooms_that_are_not_there_are_left_out() -> None:
    assert drawn({**status(sites=0), "parts": {}}) == ["edgecache 0.1.0 · up 1 m 40 s · state ok · 0 sites · 0 generators"]
