"""docs/observability.md names nothing that is not there."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from edgecache.observe.figures import Clients
from edgecache.observe.log_line import _Line
from edgecache.observe.metrics import Metrics, Sources
from edgecache.observe.record import CACHE_WORDS, Renewal
from edgecache.observe.recorder import Recorder
from edgecache.store.disk import DiskStats
from edgecache.store.memory import MemoryStore
from edgecache.upstream.choosing.figures import OriginFigures
from sandbox.dispatch.ledger import NOTHING
from sandbox.jail import JailReport
from sandbox.outcome import End, Usage
from sandbox.status import MonitorStatus, ShareStatus, WorkerStatus
from tests.unit.observe.values import RECORD

PAGE = (Path(__file__).parents[3] / "docs" / "observability.md").read_text()


class Traces:
    sent = dropped = 0


class Process:
    name, serving, restarts, cpu_seconds = "0", True, 0, 0.0


def exposed() -> set[str]:
    recorder = Recorder()
    recorder.on_request(replace(RECORD, cache="miss", reason="private"))
    recorder.on_usage("shop/hello@1", End.FINISHED, Usage(cpu_ns=1))
    recorder.on_renewal("shop", Renewal.PREFETCH, done=True)
    worker = WorkerStatus(1, "shop", JailReport((), ()), 1, 1, 5)
    share = ShareStatus("shop", 1, None, 5, NOTHING)
    numbers = dict.fromkeys((field.name for field in dataclasses.fields(DiskStats)), 1)
    counts = dict.fromkeys(("requests", "failures", "retries", "hedges", "connections", "pending"), 1)
    origin = OriginFigures(site="shop", url="http://a", state="healthy", backup=False, **counts)
    told = Sources(
        recorder=recorder,
        store=MemoryStore(1 << 20).stats,
        monitor=lambda: MonitorStatus((worker,), (), 1, 0, clusters=(share,), tenants=(share,)),
        fast_hits=lambda: 1,
        clients=lambda: Clients(1, {"shop": 1}),
        traces=Traces(),
        disk=lambda: DiskStats(**numbers),
        origins=lambda: (origin,),
        processes=lambda: (Process(),),
    )
    text = Metrics(told).render()[0].decode()
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def test_every_metric_on_the_page_is_exposed() -> None:
    names = exposed()
    families = {name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") for name in names}
    mentioned = set(re.findall(r"\bedgecache_[a-z_]+[a-z]", PAGE))
    assert len(mentioned) > 30
    assert mentioned <= names | families


def test_every_room_that_has_metrics_is_on_the_page() -> None:
    """Of a room with many, those that are not named are meant by `edgecache_ROOM_…`."""
    named = {name.removeprefix("edgecache_").partition("_")[0] for name in re.findall(r"edgecache_\w+", PAGE)}
    assert {name.removeprefix("edgecache_").partition("_")[0] for name in exposed() if name.startswith("edgecache_")} <= named


def test_every_metric_of_requests_is_on_the_page() -> None:
    assert {
        name
        for name in exposed()
        if re.match(r"edgecache_(route|request|response|collapsed|truncated|renewals|fast)\w*_total", name)
    } <= set(re.findall(r"edgecache_\w+", PAGE))


def test_every_key_of_a_log_line_is_on_the_page() -> None:
    table = PAGE.partition("## Access log")[2].partition("### ")[0]
    keys = set(re.findall(r"`([a-z_]+)`", " ".join(line.split("|")[1] for line in table.splitlines() if line.startswith("|"))))
    assert keys == set(_Line.__struct_fields__)


def test_every_cache_word_is_on_the_page() -> None:
    assert set(re.findall(r"^\| `([a-z]+)` \|", PAGE, re.MULTILINE)) >= CACHE_WORDS
