"""What one process goes by after its settings have changed, and after a change that failed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgecache.config import Config
from edgecache.observe.record import Record
from edgecache.observe.settings import LogSettings
from edgecache.processes.path import RequestPath
from edgecache.processes.settings import PathSettings, whole
from edgecache.serve.call import Call
from edgecache.sites import SiteTable
from edgecache.source import Source

RECORD = Record(
    time=0.0,
    request_id="0",
    client="127.0.0.1",
    method="GET",
    uri="http://shop.test/",
    status=200,
    bytes_sent=0,
    duration=0.0,
    cache="hit",
    site="shop",
)


def logging_to(file: Path) -> PathSettings:
    return replace(whole(Config()), log=LogSettings(access=file))


def no_generator(call: Call) -> Source:
    raise AssertionError(call)


async def test_a_log_that_could_not_be_opened_is_tried_again_though_the_settings_are_the_same(tmp_path: Path) -> None:
    old, new = tmp_path / "old.log", tmp_path / "later" / "new.log"
    path = RequestPath(logging_to(old), SiteTable(), no_generator)
    try:
        with pytest.raises(FileNotFoundError):
            path.change(logging_to(new))
        path.recorder.on_request(RECORD)
        new.parent.mkdir()
        path.change(logging_to(new))
        assert new.exists()
    finally:
        await path.drain()
        await path.close()
    assert (old.read_text() + new.read_text()).count("http://shop.test/") == 1
