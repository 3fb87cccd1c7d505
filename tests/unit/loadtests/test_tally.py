"""What load tests count, and whom they may load."""

from __future__ import annotations

import pytest

from demo.visit import parameters
from loadtests.guard import NotLocal, must_be_local
from loadtests.tally import Kind, Tally, Times, classify
from loadtests.wrk import parse_wrk


@pytest.mark.parametrize(
    ("status", "by_generator", "kind"),
    [
        (None, False, None),
        ("", False, None),
        ("edgecache; hit; ttl=5", False, Kind.HIT),
        ("edgecache; hit; ttl=5", True, Kind.HIT),
        ("edgecache; hit; ttl=-3", False, Kind.STALE),
        ("edgecache; hit; ttl=-3; detail=cpu-limit", True, Kind.STALE),
        ("edgecache; fwd=uri-miss; stored", False, Kind.MISS),
        ("edgecache; fwd=uri-miss; collapsed", False, Kind.MISS),
        ("edgecache; fwd=uri-miss; stored", True, Kind.GENERATED),
        ('edgecache; fwd=uri-miss; detail="shop/hello@1"', True, Kind.GENERATED),
        ("edgecache; fwd=uri-miss; detail=generator-cpu-limit", True, Kind.FALLBACK),
        ("edgecache; fwd=uri-miss", False, Kind.PASSED),
        ("other; hit, edgecache; fwd=uri-miss; stored", False, Kind.MISS),
    ],
)
def test_an_answer_is_counted_by_the_last_member_of_cache_status(
    status: str | None, by_generator: bool, kind: Kind | None
) -> None:
    assert classify(status, by_generator=by_generator) is kind


def test_parameters_of_a_member() -> None:
    assert parameters('edgecache; hit; ttl=-3; detail="a b"') == {"hit": "", "ttl": "-3", "detail": "a b"}


def test_quantiles_are_times_that_were_seen() -> None:
    times = Times()
    for number in range(1, 101):
        times.add(float(number))
    assert [times.quantile(part) for part in (0.5, 0.9, 0.99, 1.0)] == [50.0, 90.0, 99.0, 100.0]
    assert Times().quantile(0.5) == 0.0


def test_the_table_has_a_row_for_each_kind_and_names_failures() -> None:
    tally = Tally()
    for _ in range(3):
        tally.add(Kind.HIT, 1.0)
    tally.fail("/x", "status 500", 9.0)
    lines = tally.table(2.0).splitlines()
    assert [line.split()[0] for line in lines[1:10]] == [*Kind, "all"]
    assert lines[1].split()[1:3] == ["3", "75.0%"]
    assert lines[-1].split(maxsplit=2) == ["1", "×", "/x: status 500"]
    assert (tally.total, tally.failed) == (4, 1)
    assert tally.as_json(2.0)["failures"] == {"/x: status 500": 1}


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080", "http://localhost:1", "http://[::1]:8080", "http://127.9.9.9"])
def test_this_machine_may_be_loaded(url: str) -> None:
    assert must_be_local(url) == url


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1", "https://127.0.0.1", "http://192.0.2.1", "http://10.0.0.1", "http://example.org", "http://localhost.example.org",
     "http://127.0.0.1@192.0.2.1/", "http://0.0.0.0:80", "http://[::ffff:192.0.2.1]/", "http://[nonsense"],
)  # fmt: skip
def test_other_machines_may_not(url: str) -> None:
    with pytest.raises(NotLocal):
        must_be_local(url)


WRK = """Running 5s test @ http://127.0.0.1:1/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.57ms    1.51ms  37.03ms   97.34%
  Latency Distribution
     50%  950.00us
     75%    1.30ms
     90%    2.00ms
     99%    1.20s
  10 requests in 5.00s, 1.00MB read
{trouble}Requests/sec:  43210.98
Transfer/sec:    1.00MB
"""


def test_wrks_report_is_read() -> None:
    run = parse_wrk(WRK.format(trouble=""))
    assert (run.per_second, run.p50_ms, run.p99_ms, run.errors) == (43210.98, pytest.approx(0.95), 1200.0, 0)
    assert (run.requests, run.seconds) == (10, 5.0)


def test_wrks_errors_are_counted() -> None:
    trouble = "  Socket errors: connect 1, read 2, write 0, timeout 3\n  Non-2xx or 3xx responses: 4\n"
    assert parse_wrk(WRK.format(trouble=trouble)).errors == 10
