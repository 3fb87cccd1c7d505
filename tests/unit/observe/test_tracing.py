"""Which requests are traced, what a traceparent must look like, and what becomes of spans that nobody takes."""

from __future__ import annotations

import socket
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from edgecache.observe.otlp import Exporter, PackagesMissing
from edgecache.observe.recorder import Recorder
from edgecache.observe.settings import TraceSettings
from edgecache.observe.trace_context import TraceParent, parse
from edgecache.observe.tracing import FinishedSpan, Tracer
from tests.unit.observe.values import RECORD as A_RECORD

GOOD = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
RECORD = replace(A_RECORD, time=10.0, request_id="r-1", uri="http://a/b?c")


def tracer(sink: list[FinishedSpan], *, sample: float = 1.0, follow: bool = False, query: bool = True) -> Tracer:
    settings = TraceSettings(endpoint="http://127.0.0.1:1/", sample=sample, follow_clients=follow)
    return Tracer(settings, sink.append, query=query)


def test_a_traceparent_is_read() -> None:
    assert parse([GOOD]) == TraceParent(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, True)
    assert str(parse([GOOD])) == GOOD


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [GOOD, GOOD],
        [GOOD.upper()],
        [GOOD + "-more"],
        [GOOD + " "],
        [GOOD[:-1]],
        ["ff" + GOOD[2:]],
        ["0g" + GOOD[2:]],
        [f"00-{'0' * 32}-b7ad6b7169203331-01"],
        [f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01"],
        ["01" + GOOD[2:] + "more"],
        ["01" + GOOD[2:] + "-" + "a" * 1000],
    ],
)
def test_what_is_not_exactly_one_is_none(lines: list[str]) -> None:
    assert parse(lines) is None


def test_a_later_version_may_say_more() -> None:
    assert parse(["01" + GOOD[2:] + "-more"]) == parse([GOOD])
    assert parse(["01" + GOOD[2:-2] + "02"]) == TraceParent(0x0AF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, False)


@given(st.text(max_size=80))
def test_whatever_a_client_sends_is_read_or_refused(text: str) -> None:
    found = parse([text])
    assert found is None or text[3:35] == f"{found.trace_id:032x}"


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
def test_what_is_written_can_be_read(trace: int, span: int, sampled: bool) -> None:
    parent = TraceParent(trace, span, sampled)
    assert parse([str(parent)]) == parent


def test_the_servers_span_and_its_steps_agree_without_speaking_to_each_other() -> None:
    spans: list[FinishedSpan] = []
    traces = tracer(spans)
    begun = traces.begin("r-1", None)
    assert begun is not None
    begun.begin("step").end()
    traces.finished(RECORD)
    step, server = spans
    assert (server.trace_id, server.span_id, server.parent_id) == (step.trace_id, step.parent_id, None)
    assert (server.start_ns, server.end_ns) == (10_000_000_000, 10_002_000_000)


def test_a_span_ends_once() -> None:
    spans: list[FinishedSpan] = []
    begun = tracer(spans).begin("r", None)
    assert begun is not None
    step = begun.begin("step")
    step.end("reset")
    step.end()
    assert [span.error for span in spans] == ["reset"]


def test_a_part_of_the_requests_is_traced_both_at_their_beginning_and_at_their_end() -> None:
    spans: list[FinishedSpan] = []
    traces = tracer(spans, sample=0.1)
    begun = [number for number in range(2000) if traces.begin(f"abc-{number:x}", None) is not None]
    for number in range(2000):
        traces.finished(replace(RECORD, request_id=f"abc-{number:x}"))
    assert 100 < len(begun) < 300
    assert [span.attributes["edgecache.request_id"] for span in spans] == [f"abc-{number:x}" for number in begun]


def test_requests_that_are_alike_are_traced_too() -> None:
    spans: list[FinishedSpan] = []
    alike = Recorder(None, tracer(spans)).repeated(replace(RECORD, time=0.0, request_id="", client="", duration=0.0))
    alike.on_request(10.0, "r-1", "::1", 0.002)
    tracer(spans).finished(RECORD)
    assert spans[0] == spans[1]


def test_hits_that_are_alike_are_traced_so_many_times_a_second() -> None:
    spans: list[FinishedSpan] = []
    alike = Recorder(None, tracer(spans)).repeated(RECORD)
    for second in (10, 11):
        for number in range(200):
            alike.on_request(second + number / 1000, f"r-{number}", "::1", 0.0)
    assert len(spans) == 2 * TraceSettings(endpoint="").hits_per_second


def test_only_a_client_that_is_followed_decides() -> None:
    for follow in (False, True):
        traces = tracer([], sample=0.0, follow=follow)
        assert (traces.begin("r", parse([GOOD])) is not None) is follow
        assert traces.begin("r", parse([GOOD[:-1] + "0"])) is None
        assert traces.begin("r", None) is None


@pytest.mark.parametrize("query", [True, False])
def test_the_query_is_told_only_where_the_log_tells_it(query: bool) -> None:
    spans: list[FinishedSpan] = []
    tracer(spans, query=query).finished(RECORD)
    assert (spans[0].attributes.get("url.query") == "c") is query


@given(st.text(alphabet=st.characters(codec=None), max_size=60))
def test_whatever_a_client_sends_can_be_told(text: str) -> None:
    spans: list[FinishedSpan] = []
    tracer(spans).finished(replace(RECORD, uri=text, method=text, client=text))
    for value in spans[0].attributes.values():
        if isinstance(value, str):
            value.encode()


def test_spans_beyond_the_queue_are_dropped_and_counted() -> None:
    spans: list[FinishedSpan] = []
    tracer(spans).finished(RECORD)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces"
        exporter = Exporter(TraceSettings(endpoint=endpoint, queue=100, timeout_seconds=0.2))
        for _ in range(1000):
            exporter(spans[0])
        assert exporter.dropped >= 300
        assert exporter.close(wait_seconds=30)
    assert (exporter.sent, exporter.dropped) == (0, 1000)
    exporter(spans[0])
    assert exporter.dropped == 1001


def test_without_the_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "opentelemetry"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(PackagesMissing, match=r"pip install 'edgecache\[otel\]'"):
        Exporter(TraceSettings(endpoint="http://127.0.0.1:1/"))
