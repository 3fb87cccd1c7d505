from __future__ import annotations

import json
from pathlib import Path

from edgecache.observe.access_log import AccessLog
from edgecache.observe.record import NullObserver, Observer, Record
from edgecache.observe.recorder import Recorder
from edgecache.observe.settings import LogSettings

RECORD = Record(
    time=1.5,
    request_id="7",
    client="::1",
    method="GET",
    uri="http://a/",
    status=200,
    bytes_sent=3,
    duration=0.1,
    cache="miss",
    site="",
)


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


def test_without_a_log_requests_are_still_counted() -> None:
    recorder = Recorder()
    recorder.on_request(RECORD)
    assert recorder.figures.sites["(none)"].requests == 1
