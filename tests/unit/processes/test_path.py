"""What one process goes by after its settings have changed, and after a change that failed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgecache.config import Config
from edgecache.observe.settings import LogSettings
from edgecache.processes.path import RequestPath
from edgecache.processes.remote_guests import RemoteGuests
from edgecache.processes.settings import PathSettings, undivided
from edgecache.sites import SiteTable
from tests.unit.observe.values import RECORD


def logging_to(file: Path) -> PathSettings:
    return replace(undivided(Config()), log=LogSettings(access=file))


async def test_a_log_that_could_not_be_opened_is_tried_again_though_the_settings_are_the_same(tmp_path: Path) -> None:
    old, new = tmp_path / "old.log", tmp_path / "later" / "new.log"
    path = RequestPath(logging_to(old), SiteTable(), RemoteGuests(lambda message: None))
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
    assert (old.read_text() + new.read_text()).count(RECORD.uri) == 1
