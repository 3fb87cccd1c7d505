from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from edgecache.observe.access_log import AccessLog
from edgecache.observe.record import NullObserver, Observer
from edgecache.observe.recorder import Recorder
from edgecache.observe.settings import LogSettings
from tests.unit.observe.values import RECORD as A_RECORD

RECORD = replace(A_RECORD, time=1.5, request_id="7", bytes_sent=3, duration=0.1, cache="miss", site="")


def test_a_request_is_counted_and_logged(tmp_path: Path) -> None:
    log = AccessLog(LogSettings(access=tmp_path / "access.log"))
    recorder = Recorder(log)
    observers: list[Observer] = [recorder, NullObserver()]
    for observer in observers:
        observer.on_request(RECORD)
    assert log.close()
    assert json.loads((tmp_path / "access.log").read_bytes())["id"] == "7"
    assert recorder.figures.sites["(none)"].requests == 1
    assert recorder.log_lines_dropped == 0
    recorder.on_request(RECORD)
    assert recorder.log_lines_dropped == 1


@pytest.mark.parametrize("query", [True, False])
@pytest.mark.parametrize("client", ["10.0.0.1", "fe80::1%eth0", 'a"\\\n\udc80'])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"uri": 'http://a/?"client":""&"duration":0.0,', "site": 'a"b', "generator": "g", "cpu_ns": 5},
        {"uri": "http://a/\udc80\u00e9", "status": 504, "cache": "surprise", "collapsed": True, "truncated": True, "reason": "r"},
    ],
)
def test_repeated_requests_are_counted_and_logged_as_others_are(
    tmp_path: Path, changes: dict[str, object], client: str, query: bool
) -> None:
    lines, figures = [], []
    for way in ("usual", "repeated"):
        log = AccessLog(LogSettings(access=tmp_path / way, query=query))
        recorder = Recorder(log)
        record = replace(RECORD, client=client, **changes)
        like = recorder.repeated(replace(record, time=0.0, request_id="", client="", duration=0.0))
        for time, duration in ((1.5, 0.0), (1.9999, 0.0000049), (1700000000.25, 0.00123456), (3.0, 31.0)):
            if way == "usual":
                changed = replace(record, time=time, duration=duration, request_id="ab-1")
                recorder.on_request(changed)
            else:
                like.on_request(time, "ab-1", client, duration)
        assert log.close()
        lines.append([list(json.loads(line).items()) for line in (tmp_path / way).read_bytes().splitlines()])
        figures.append((recorder.figures.sites, recorder.figures.durations))
    assert len(lines[0]) == 4
    assert lines[0] == lines[1]
    assert figures[0] == figures[1]


@pytest.mark.parametrize(
    ("uri", "target", "shared"),
    [
        ("http://a/b", b"/b", True),
        ("http://a/b?c=d", b"/b?c=d", False),
        ('http://a/"b', b'/"b', False),
        ("http://a/" + "b" * 300, b"/" + b"b" * 300, False),
        ("http://a/b", b"http://a/b", True),
        ("http://a/b", b"http://A/b", False),
    ],
)
def test_one_report_serves_for_all_targets_that_are_logged_as_they_are_sent(
    tmp_path: Path, uri: str, target: bytes, shared: bool
) -> None:
    log = AccessLog(LogSettings(access=tmp_path / "log", query=False, uri_chars=200))
    recorder = Recorder(log)
    own = recorder.repeated(replace(RECORD, uri=uri))
    report = own.but_for(target)
    assert (report is not None) == shared
    own.on_request(1.5, "ab-1", "::1", 0.000012)
    if report is not None:
        other = recorder.repeated(replace(RECORD, uri="http://a/other")).but_for(b"/other")
        assert (other is report) == (target == b"/b")
        report.hear(1.5, b"ab-1", "::1", 0.000012, target)
    assert log.close()
    lines = (tmp_path / "log").read_bytes().splitlines()
    assert len(lines) == 1 + shared
    assert len(set(lines)) == 1
    assert sum(site.requests for site in recorder.figures.sites.values()) == 1 + shared


@pytest.mark.parametrize("changes", [{"reason": "r"}, {"collapsed": True}, {"truncated": True}])
def test_what_is_out_of_the_ordinary_shares_no_report(changes: dict[str, object]) -> None:
    assert Recorder().repeated(replace(RECORD, uri="http://a/b", **changes)).but_for(b"/b") is None


def test_a_kind_of_request_that_has_not_come_counts_nothing() -> None:
    recorder = Recorder()
    recorder.repeated(RECORD)
    assert recorder.figures.sites["(none)"].requests == 0


def test_without_a_log_requests_are_still_counted() -> None:
    recorder = Recorder()
    recorder.on_request(RECORD)
    assert recorder.figures.sites["(none)"].requests == 1
