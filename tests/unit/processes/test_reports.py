"""What several processes have counted is what one would have counted, also after some of them have ended."""

from __future__ import annotations

from dataclasses import fields, replace

from hypothesis import given
from hypothesis import strategies as st

from edgecache.observe.figures import MAX_SITES, OTHER, Clients, Figures, SiteFigures
from edgecache.observe.record import Record, Renewal
from edgecache.processes.messages import ENCODER, TO_LEADER, Report, Told
from edgecache.processes.reports import Reports, disk_of, store_of, summed
from edgecache.store import MemoryStore
from edgecache.store.disk import DiskStats
from sandbox.outcome import End, Usage


def report(figures: Figures, **more: int) -> Report:
    store = MemoryStore(1000).stats()
    return Report(sites=figures.sites, generators=figures.generators, durations=figures.durations, store=store, **more)


def record(site: str, status: int, cache: str, duration: float) -> Record:
    return Record(
        time=0.0,
        request_id="",
        client="",
        method="GET",
        uri="",
        status=status,
        bytes_sent=10,
        duration=duration,
        cache=cache,
        site=site,
    )


durations = st.integers(0, 60 << 10).map(lambda number: number / 1024)
"""Whose sums are exact in any order."""
requests = st.tuples(
    st.sampled_from(["a", "b", "c"]), st.sampled_from([200, 304, 500]), st.sampled_from(["hit", "miss"]), durations
)


@given(st.lists(st.tuples(st.integers(0, 2), requests), max_size=60))
def test_a_sum_is_what_one_process_would_have_counted(seen: list[tuple[int, tuple[str, int, str, float]]]) -> None:
    parts, whole = [Figures() for _ in range(3)], Figures()
    for process, request in seen:
        for figures in (parts[process], whole):
            figures.count(record(*request))
            figures.count_call(f"{request[0]}/g@1", End.FINISHED, Usage(cpu_ns=5))
            figures.count_renewal(request[0], Renewal.PREFETCH, done=request[1] < 500)
    total = summed(map(report, parts))
    assert (total.sites, total.generators) == (whole.sites, whole.generators)
    assert {word: histogram.counts for word, histogram in total.durations.items()} == {
        word: histogram.counts for word, histogram in whole.durations.items()
    }


def test_a_report_crosses_the_channel_unchanged() -> None:
    figures = Figures()
    figures.count(record("shop", 200, "hit", 0.01))
    figures.count_call("shop/g@1", End.FINISHED, Usage(cpu_ns=5))
    figures.count_renewal("shop", Renewal.STALE, done=True)
    told = Told(3, report(figures, fast_hits=7))
    assert TO_LEADER.decode(ENCODER.encode(told)) == told


def test_counters_do_not_fall_when_a_process_ends() -> None:
    first, second = Figures(), Figures()
    for figures in (first, second):
        figures.count(record("shop", 200, "hit", 0.01))
    living = [report(first, fast_hits=1), report(second, fast_hits=2)]
    reports = Reports(lambda: living)
    assert (reports.figures.sites["shop"].requests, reports.fast_hits()) == (2, 3)
    reports.bury(living.pop())
    assert (reports.figures.sites["shop"].requests, reports.fast_hits()) == (2, 3)
    assert reports.store().capacity_bytes == 1000, "what an ended process held is gone"


def test_labels_stay_bounded() -> None:
    many = [Figures(), Figures()]
    for number, figures in enumerate(many):
        for site in range(MAX_SITES):
            figures.sites[f"{number}-{site}"] = SiteFigures(by_result={("2xx", "hit"): 1})
    total = summed(map(report, many))
    assert len(total.sites) <= MAX_SITES + 1
    assert total.sites[OTHER].requests == MAX_SITES


def test_clients_are_those_of_living_processes() -> None:
    living = [
        replace(report(Figures()), connections=2, tunnels={"a": 1}),
        replace(report(Figures()), connections=3, tunnels={"a": 2}),
    ]
    reports = Reports(lambda: living)
    assert reports.clients() == Clients(5, {"a": 3})
    reports.bury(living.pop())
    assert reports.clients() == Clients(2, {"a": 1})


def test_every_counter_of_the_disk_is_of_all_processes() -> None:
    """Gauges are what the tier holds; all else is counted by each process for itself."""
    held = {"capacity_bytes", "used_bytes", "objects", "segments", "purges_pending", "waiting_bytes"}
    one = DiskStats(**{field.name: 1 for field in fields(DiskStats)})
    told = disk_of([replace(report(Figures()), disk=one)] * 2, [replace(report(Figures()), disk=one)])
    assert told is not None
    assert {field.name: getattr(told, field.name) for field in fields(DiskStats) if field.name not in held} == {
        field.name: 3 for field in fields(DiskStats) if field.name not in held
    }


def test_the_store_of_all_is_the_sum_of_the_living() -> None:
    empty = report(Figures())
    assert store_of([empty, empty], [empty]).capacity_bytes == 2000
