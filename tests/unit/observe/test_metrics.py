from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import pytest
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from edgecache.observe import figures
from edgecache.observe.metrics import Metrics, Sources
from edgecache.observe.record import CACHE_WORDS, Renewal
from edgecache.observe.recorder import Recorder
from edgecache.observe.status import StatusBoard
from edgecache.store.memory import MemoryStore
from sandbox.dispatch.ledger import Allocation
from sandbox.jail import JailReport, Layer, MissingLayer
from sandbox.outcome import End, Usage
from sandbox.status import GeneratorStatus, MonitorStatus, ShareStatus, WorkerStatus
from tests.unit.observe.values import RECORD


def monitor_status() -> MonitorStatus:
    report = JailReport((Layer.SECCOMP,), (MissingLayer(Layer.LANDLOCK, "not in this kernel"),))
    worker = WorkerStatus(1, "shop", report, 1, 1, 5)
    generator = GeneratorStatus("shop/hello@1", "shop", 1, 4, {End.FINISHED: 3, End.FAULT: 1}, 9, 2, 1, 3, 1.5)
    clusters = (ShareStatus("default", 2, None, 9, Allocation(0.75, 0.5)),)
    tenants = (ShareStatus("shop", 3, 50, 9, Allocation(0.75, 0.5), "default"),)
    return MonitorStatus((worker,), (generator,), 2, 1, clusters=clusters, tenants=tenants)


def sources(recorder: Recorder) -> Sources:
    return Sources(recorder=recorder, store=MemoryStore(1 << 20).stats, monitor=monitor_status)


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    text = metrics.render()[0].decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_requests_are_counted_by_site_status_and_cache_word() -> None:
    recorder = Recorder()
    for _ in range(3):
        recorder.on_request(RECORD)
    recorder.on_request(replace(RECORD, status=503, cache="error", collapsed=True, truncated=True, duration=60.0, protocol="h2"))
    found = samples(Metrics(sources(recorder)))
    assert found["edgecache_requests_total", "hit", "http/1.1", "shop", "2xx"] == 3
    assert found["edgecache_requests_total", "error", "h2", "shop", "5xx"] == 1
    assert found["edgecache_response_bytes_total", "shop"] == 40
    assert found["edgecache_collapsed_requests_total", "shop"] == found["edgecache_truncated_responses_total", "shop"] == 1
    assert found["edgecache_request_duration_seconds_bucket", "hit", "0.001"] == 0
    assert found["edgecache_request_duration_seconds_bucket", "hit", "0.0025"] == 3
    assert found["edgecache_request_duration_seconds_bucket", "error", "30"] == 0
    assert found["edgecache_request_duration_seconds_bucket", "error", "+Inf"] == 1
    assert found["edgecache_request_duration_seconds_count", "hit"] == 3


def test_rate_errors_and_durations_are_told_by_site_and_route() -> None:
    recorder = Recorder()
    for _ in range(3):
        recorder.on_request(RECORD)
    repeated = recorder.repeated(RECORD)
    repeated.on_request(1.0, "1", "::1", 0.02)
    recorder.on_request(replace(RECORD, generator="hello", status=504, cache="error", reason="wall-limit", duration=2.0))
    recorder.on_request(replace(RECORD, site="", status=421, cache="none", reason="unknown-host"))
    found = samples(Metrics(sources(recorder)))
    assert found["edgecache_route_requests_total", "hit", "origin", "shop", "2xx"] == 4
    assert found["edgecache_route_requests_total", "error", "hello", "shop", "5xx"] == 1
    assert found["edgecache_route_requests_total", "none", figures.NO_SITE, figures.NO_SITE, "4xx"] == 1
    assert found["edgecache_route_duration_seconds_count", "origin", "shop"] == 4
    assert found["edgecache_route_duration_seconds_bucket", "0.0025", "origin", "shop"] == 3
    assert found["edgecache_route_duration_seconds_bucket", "0.025", "origin", "shop"] == 4
    assert found["edgecache_route_duration_seconds_sum", "hello", "shop"] == 2.0
    assert found["edgecache_request_reasons_total", "wall-limit", "shop"] == 1
    assert found["edgecache_request_reasons_total", "unknown-host", figures.NO_SITE] == 1


def test_figures_of_two_edges_add_up() -> None:
    first, second = figures.RouteFigures(), figures.RouteFigures()
    first.of_result("2xx", "hit").counts[0] = 2
    second.of_result("2xx", "hit").counts[0] = 3
    second.of_result("5xx", "error").seconds = 1.5
    first.add(second)
    assert (first.by_result["2xx", "hit"].counts[0], first.by_result["5xx", "error"].seconds) == (5, 1.5)
    assert second.by_result["2xx", "hit"].counts[0] == 3


def test_calls_of_generators_are_counted_whatever_their_version() -> None:
    recorder = Recorder()
    recorder.on_usage("shop/hello@1", End.FINISHED, Usage(cpu_ns=500_000_000, log_dropped_bytes=7))
    recorder.on_usage("shop/hello@2", End.CPU_LIMIT, Usage(cpu_ns=1_000_000_000))
    found = samples(Metrics(sources(recorder)))
    assert found["edgecache_generated_total", "finished", "shop/hello"] == 1
    assert found["edgecache_generated_total", "cpu-limit", "shop/hello"] == 1
    assert found["edgecache_generator_cpu_seconds_total", "shop/hello"] == 1.5
    assert found["edgecache_generator_log_dropped_bytes_total", "shop/hello"] == 7


def test_store_and_monitor_are_asked_at_the_scrape() -> None:
    found = samples(Metrics(sources(Recorder())))
    assert found["edgecache_store_capacity_bytes",] == 1 << 20
    assert found["edgecache_workers",] == 1
    assert found["edgecache_workers_started_total",] == 2
    assert found["edgecache_vm_requests", "queued"] == 2
    assert found["edgecache_generators_quarantined",] == 1
    assert found["edgecache_access_log_dropped_total",] == 0
    assert ("process_open_fds",) in found


def test_promised_and_received_are_told_by_cluster_and_site() -> None:
    found = samples(Metrics(sources(Recorder())))
    assert found["edgecache_cluster_cpu_promised_ratio", "default"] == 0.75
    assert found["edgecache_site_cpu_received_ratio", "shop"] == 0.5


def test_sites_beyond_a_thousand_share_one_label() -> None:
    many = tuple(ShareStatus(f"s{n}", 1, None, n, Allocation(0.001, 0.001)) for n in range(figures.MAX_SITES + 50))
    status = dataclasses.replace(monitor_status(), tenants=many)
    found = samples(Metrics(Sources(recorder=Recorder(), monitor=lambda: status)))
    labels = [key[1] for key in found if key[0] == "edgecache_site_cpu_received_ratio"]
    assert len(labels) == figures.MAX_SITES + 1
    assert found["edgecache_site_cpu_received_ratio", figures.OTHER] == pytest.approx(0.05)


def test_renewals_are_counted_by_site_cause_and_result() -> None:
    recorder = Recorder()
    for done in (True, True, False):
        recorder.on_renewal("shop", Renewal.PREFETCH, done=done)
    recorder.on_renewal("shop", Renewal.STALE, done=True)
    found = samples(Metrics(sources(recorder)))
    assert found["edgecache_renewals_total", "prefetch", "done", "shop"] == 2
    assert found["edgecache_renewals_total", "prefetch", "failed", "shop"] == 1
    assert found["edgecache_renewals_total", "stale", "done", "shop"] == 1


def test_tunnels_of_sites_beyond_a_thousand_share_one_label() -> None:
    many = figures.Clients(2000, {f"s{number}": 1 for number in range(figures.MAX_SITES + 50)})
    found = samples(Metrics(Sources(recorder=Recorder(), clients=lambda: many)))
    assert found["edgecache_connections",] == 2000
    assert len([key for key in found if key[0] == "edgecache_tunnels"]) == figures.MAX_SITES + 1
    assert found["edgecache_tunnels", figures.OTHER] == 50


def test_the_fast_lanes_share_can_be_told() -> None:
    found = samples(Metrics(Sources(recorder=Recorder(), fast_hits=lambda: 7)))
    assert found["edgecache_fast_lane_requests_total",] == 7


def test_labels_are_bounded_whatever_comes() -> None:
    recorder = Recorder()
    for number in range(figures.MAX_SITES + 50):
        recorder.on_request(replace(RECORD, site=f"s{number}", status=number, cache=f"word{number}"))
        recorder.on_usage(f"s/g{number}@1", End.FINISHED, Usage())
    assert len(recorder.figures.sites) == figures.MAX_SITES + 1
    assert len(recorder.figures.generators) == figures.MAX_GENERATORS + 1
    assert recorder.figures.sites[figures.OTHER].requests == 50
    for number in range(200):
        recorder.on_request(replace(RECORD, generator=f"g{number}", reason=f"r{number}"))
    shop = recorder.figures.sites[figures.OTHER]
    assert (len(shop.routes), len(shop.reasons)) == (figures.MAX_ROUTES + 1, figures.MAX_REASONS + 1)
    assert sum(shop.reasons.values()) == 200
    assert set(recorder.figures.durations) <= {*CACHE_WORDS, figures.OTHER}


def test_the_format_is_what_the_scraper_accepts() -> None:
    metrics = Metrics(Sources(recorder=Recorder()))
    assert metrics.render()[1].startswith("text/plain")
    body, content_type = metrics.render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


def test_a_snapshot_has_totals_and_the_rates_of_the_last_seconds() -> None:
    recorder = Recorder()
    board = StatusBoard(sources(recorder), 100.0)
    for _ in range(10):
        recorder.on_request(RECORD)
    first = board.snapshot(102.0)
    assert (first.traffic.requests, first.traffic.requests_per_second, first.traffic.hit_ratio) == (10, 5.0, 1.0)
    for _ in range(30):
        recorder.on_request(replace(RECORD, cache="miss", status=502, site="docs"))
    later = board.snapshot(112.0)
    assert (later.traffic.requests, later.traffic.requests_per_second, later.traffic.hit_ratio) == (40, 3.0, 0.0)
    assert (later.sites["docs"].errors, later.sites["shop"].requests_per_second) == (30, 0.0)
    assert list(later.sites) == ["docs", "shop"]
    quiet = board.snapshot(130.0)
    assert (quiet.traffic.requests_per_second, quiet.traffic.hit_ratio) == (0.0, 0.0)


def test_a_snapshot_as_plain_values() -> None:
    recorder = Recorder()
    recorder.on_request(RECORD)
    parts = StatusBoard(sources(recorder), 0.0).snapshot(1.0).parts()
    assert list(parts) == ["traffic", "cache", "sandbox"]
    sandbox = parts["sandbox"]
    assert isinstance(sandbox, dict)
    assert (sandbox["jail"], sandbox["jail_missing"]) == (("seccomp",), ("landlock (not in this kernel)",))
    assert sandbox["generators"]["shop/hello@1"]["failed"] == 1
    assert list(StatusBoard(Sources(recorder=recorder), 0.0).snapshot(0.0).parts()) == ["traffic"]


def test_the_dashboard_asks_for_nothing_that_is_not_there() -> None:
    recorder = Recorder()
    recorder.on_request(replace(RECORD, reason="refresh"))
    recorder.on_usage("shop/hello@1", End.FINISHED, Usage(cpu_ns=1))
    recorder.on_renewal("shop", Renewal.PREFETCH, done=True)
    clients = figures.Clients(1, {"shop": 1})
    told = dataclasses.replace(sources(recorder), fast_hits=lambda: 1, clients=lambda: clients)
    text = Metrics(told).render()[0].decode()
    labels: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, {"instance"}).update(sample.labels)
    dashboard = json.loads((Path(__file__).parents[3] / "configs" / "grafana-dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert len(asked) > 20
    for query in asked:
        selectors = re.findall(r"((?:edgecache|process)_\w+)\{([^}]*)\}", query)
        assert selectors, query
        for name, matchers in selectors:
            assert name in labels, f"{name} in {query}"
            assert set(re.findall(r"(\w+)=", matchers)) <= labels[name], query
            for group in re.findall(r"by \(([^)]*)\)", query):
                assert set(group.split(", ")) <= labels[name], query
