"""Origins in metrics and status."""

from __future__ import annotations

from edgecache.observe.metrics import Metrics, Sources
from edgecache.observe.recorder import Recorder
from edgecache.observe.status import StatusBoard
from edgecache.observe.upstreams import MAX_ROWS, origins_part
from edgecache.upstream.choosing.balancing import Condition
from edgecache.upstream.choosing.figures import OriginFigures


def figures(url: str = "http://a", **said: object) -> OriginFigures:
    counts = dict.fromkeys(("requests", "failures", "retries", "hedges", "connections", "pending"), 0)
    return OriginFigures(**{"site": "shop", "url": url, "state": "healthy", "backup": False, **counts, **said})  # type: ignore[arg-type]


def sources(*rows: OriginFigures) -> Sources:
    return Sources(recorder=Recorder(), origins=lambda: rows)


def test_each_origin_has_its_rows_in_the_metrics() -> None:
    text = Metrics(sources(figures(state="open", requests=5, failures=2, connections=1))).render()[0].decode()
    labels = '{origin="http://a",site="shop"}'
    assert f"edgecache_origin_requests_total{labels} 5.0" in text
    assert f"edgecache_origin_failures_total{labels} 2.0" in text
    assert f"edgecache_origin_connections{labels} 1.0" in text
    for state in Condition:
        expected = 1.0 if state == "open" else 0.0
        assert f'edgecache_origin_state{{origin="http://a",site="shop",state="{state}"}} {expected}' in text


def test_status_has_totals_and_the_origins_of_each_site() -> None:
    rows = (figures(requests=3, retries=1), figures("http://b", state="down", requests=4, hedges=1))
    part = StatusBoard(sources(*rows), 0.0).snapshot(1.0).parts()["upstream"]
    assert (part["origins"], part["unhealthy"], part["requests"], part["retries"], part["hedges"]) == (2, 1, 7, 1, 1)
    sites = part["sites"]
    assert isinstance(sites, dict)
    assert sites["shop"]["origins"]["http://b"]["state"] == "down"


def test_the_busiest_are_shown_where_there_are_too_many() -> None:
    rows = [figures(f"http://{number}", requests=number) for number in range(MAX_ROWS + 5)]
    part = origins_part(rows)
    shown = part["sites"]["shop"]["origins"]  # type: ignore[index]
    assert len(shown) == MAX_ROWS
    assert "http://4" not in shown
    assert part["origins"] == MAX_ROWS + 5
