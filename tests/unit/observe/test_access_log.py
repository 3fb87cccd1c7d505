from __future__ import annotations

import fcntl
import json
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from edgecache.observe.access_log import AccessLog
from edgecache.observe.log_line import LineEncoder
from edgecache.observe.record import Record
from edgecache.observe.settings import LogSettings
from tests.unit.observe.values import RECORD as A_RECORD

RECORD = replace(
    A_RECORD,
    time=1767225600.0125,
    request_id="01ABC",
    client="192.0.2.7",
    uri="http://shop.example/a?token=secret",
    bytes_sent=512,
    duration=0.0123456789,
)


def until(condition: Callable[[], bool]) -> None:
    """Poll, for the writer is a thread; the test's own timeout ends it."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.005)


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def test_a_line_holds_what_happened() -> None:
    line = LineEncoder(LogSettings()).encode(replace(RECORD, generator="hello", cpu_ns=42, collapsed=True))
    assert json.loads(line) == {
        "time": "2026-01-01T00:00:00.012Z",
        "id": "01ABC",
        "client": "192.0.2.7",
        "method": "GET",
        "uri": "http://shop.example/a?token=secret",
        "protocol": "http/1.1",
        "status": 200,
        "bytes": 512,
        "received": 0,
        "duration": 0.012346,
        "cache": "hit",
        "reason": "",
        "site": "shop",
        "generator": "hello",
        "collapsed": True,
        "truncated": False,
        "cpu_ns": 42,
    }


def test_the_query_can_be_left_out_and_long_uris_are_cut() -> None:
    assert json.loads(LineEncoder(LogSettings(query=False)).encode(RECORD))["uri"] == "http://shop.example/a"
    assert json.loads(LineEncoder(LogSettings(uri_chars=6)).encode(RECORD))["uri"] == "http:/…"


_TEXT = st.text(alphabet=st.characters(codec=None), max_size=20)
_RECORDS = st.builds(
    Record,
    time=st.floats(0, 4e9),
    request_id=st.one_of(st.just("0a1b-2c3"), _TEXT),
    client=st.one_of(st.just("192.0.2.7"), _TEXT),
    method=st.one_of(st.just("GET"), _TEXT),
    uri=st.one_of(st.just('http://a/"b"?c=\\'), _TEXT),
    protocol=st.sampled_from(["http/1.1", "h2"]),
    status=st.sampled_from([200, 404]),
    bytes_sent=st.integers(0, 1 << 40),
    duration=st.floats(0, 1000),
    cache=st.sampled_from(["hit", "miss"]),
    site=st.one_of(st.just("shop"), _TEXT),
    generator=st.one_of(st.none(), _TEXT),
    reason=st.one_of(st.just(""), _TEXT),
    collapsed=st.booleans(),
    cpu_ns=st.sampled_from([0, 42]),
    bytes_received=st.sampled_from([0, 42]),
    truncated=st.booleans(),
)


@example([replace(RECORD, generator="\ud800")], False)
@settings(max_examples=50, deadline=None)
@given(st.lists(_RECORDS, min_size=1, max_size=8), st.booleans())
def test_lines_made_of_parts_say_what_whole_ones_say(records: list[Record], query: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "access.log")
        chosen = LogSettings(access=path, query=query, uri_chars=12)
        log = AccessLog(chosen)
        for record in records:
            log.write(record)
        assert log.close()
        encoder = LineEncoder(chosen)
        written, expected = lines(path), [json.loads(encoder.encode(record)) for record in records]
    for line in expected:
        line["duration"] = pytest.approx(line["duration"], abs=1.1e-6)
    assert written == expected


@given(st.text(alphabet=st.characters(codec=None), max_size=80))
def test_whatever_a_client_sends_is_one_line_of_json(text: str) -> None:
    record = replace(RECORD, uri=text, method=text, client=text, request_id=text)
    line = LineEncoder(LogSettings()).encode(record)
    assert line.count(b"\n") == 1
    assert b"\r" not in line
    json.loads(line)


def test_bytes_that_are_no_text_are_escaped() -> None:
    line = LineEncoder(LogSettings()).encode(replace(RECORD, uri="/\udcff"))
    assert json.loads(line)["uri"] == "/\\udcff"


def test_lines_are_written_in_order_and_all_by_the_end(tmp_path: Path) -> None:
    log = AccessLog(LogSettings(access=tmp_path / "access.log"))
    for number in range(2500):
        log.write(replace(RECORD, status=number))
    assert log.close()
    assert [line["status"] for line in lines(tmp_path / "access.log")] == list(range(2500))
    assert log.dropped == 0
    log.write(RECORD)
    assert log.dropped == 1
    assert log.close()


def test_lines_appear_without_an_end(tmp_path: Path) -> None:
    path = tmp_path / "access.log"
    log = AccessLog(LogSettings(access=path))
    log.write(RECORD)
    until(lambda: path.stat().st_size > 0)
    log.close()


def test_reopening_goes_on_in_a_new_file(tmp_path: Path) -> None:
    path, old = tmp_path / "access.log", tmp_path / "access.log.1"
    log = AccessLog(LogSettings(access=path))
    log.write(RECORD)
    until(lambda: path.stat().st_size > 0)
    path.rename(old)
    log.reopen()
    log.write(replace(RECORD, status=404))
    until(path.exists)
    log.write(replace(RECORD, status=500))
    assert log.close()
    assert [line["status"] for line in lines(old) + lines(path)] == [200, 404, 500]
    assert [line["status"] for line in lines(path)][-1] == 500


def test_a_reader_that_never_reads_makes_nobody_wait(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(reader, fcntl.F_SETPIPE_SZ, 4096)
    log = AccessLog(LogSettings(access=pipe, queue=100))
    for _ in range(5000):
        log.write(RECORD)
    assert log.dropped >= 1000
    assert not log.close(wait_seconds=0.1)
    os.set_blocking(reader, True)
    drained = threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(reader, 1 << 16), b"")])
    drained.start()
    assert log.close()
    drained.join()
    os.close(reader)


def test_a_full_disk_loses_lines_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "full.log"
    path.symlink_to("/dev/full")
    log = AccessLog(LogSettings(access=path))
    for _ in range(3):
        log.write(RECORD)
    until(lambda: log.dropped == 3)
    path.unlink()
    log.reopen()
    log.write(RECORD)
    assert log.close()
    assert len(caplog.records) == 1
    assert "No space left on device" in caplog.text
    assert len(lines(path)) <= 1


def test_a_directory_that_is_not_there_is_an_error_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        AccessLog(LogSettings(access=tmp_path / "no" / "access.log"))
    with pytest.raises(ValueError, match="no access log"):
        AccessLog(LogSettings())


def test_lines_of_several_writers_to_one_pipe_stay_whole(tmp_path: Path) -> None:
    count, writers = 2_000, 3
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(reading, True)
    logs = [AccessLog(LogSettings(access=path, queue=count), shared=True) for _ in range(writers)]
    uri = "http://shop.example/" + "a" * 700
    for number in range(count):
        for log in logs:
            log.write(replace(RECORD, request_id=str(number), uri=uri))
    got = bytearray()
    while got.count(b"\n") < count * writers:
        got += os.read(reading, 1 << 20)
    assert all(log.close() for log in logs)
    os.close(reading)
    found = [json.loads(line)["id"] for line in got.splitlines()]
    assert sorted(found) == sorted(str(number) for number in range(count) for _ in range(writers))


def sampled(tmp_path: Path, records: list[Record], *, repeated: bool, **settings: object) -> list[dict[str, object]]:
    """The lines of `records` with these settings, by the usual way or by that of the fast lane."""
    path = tmp_path / f"sampled-{repeated}"
    log = AccessLog(LogSettings(access=path, **settings))  # type: ignore[arg-type]
    for record in records:
        if repeated:
            log.repeated(record).on_request(record.time, record.request_id, record.client, record.duration)
        else:
            log.write(record)
    assert log.close()
    assert log.dropped == 0
    return lines(path)


@pytest.mark.parametrize("repeated", [False, True])
def test_a_part_of_the_requests_is_logged_and_the_line_says_which(tmp_path: Path, repeated: bool) -> None:
    records = [replace(RECORD, request_id=f"0a1b2c3d4e5f-{number:x}") for number in range(5000)]
    found = sampled(tmp_path, records, repeated=repeated, sample=0.1)
    assert 350 < len(found) < 650
    assert {line["sample"] for line in found} == {0.1}
    assert sampled(tmp_path, [], repeated=repeated, sample=0.1) == found


def test_both_ways_choose_the_same_requests(tmp_path: Path) -> None:
    records = [replace(RECORD, request_id=f"0a1b2c3d4e5f-{number:x}") for number in range(2000)]
    usual, repeated = (sampled(tmp_path, records, repeated=way, sample=0.25) for way in (False, True))
    assert usual == repeated


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({}, 0),
        ({"status": 500}, 100),
        ({"status": 404}, 0),
        ({"truncated": True}, 100),
        ({"cache": "error"}, 100),
        ({"duration": 0.5}, 100),
        ({"site": "docs"}, 100),
    ],
)
def test_failed_and_slow_requests_are_always_logged(
    tmp_path: Path, changes: dict[str, object], count: int, repeated: bool
) -> None:
    records = [replace(RECORD, request_id=f"r-{number}", **changes) for number in range(100)]
    found = sampled(tmp_path, records, repeated=repeated, sample=0.0, sample_sites={"docs": 1.0}, slow_seconds=0.5)
    assert len(found) == count
    for line in found:
        assert ("sample" in line) == (line["site"] != "docs")
        assert line.get("sample", 1.0) == 1.0
