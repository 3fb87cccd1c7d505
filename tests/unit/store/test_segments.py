"""Segments closed while a thread writes them, as a spool is when its client leaves. Real files; only the moment is arranged."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from edgecache.store.disk import segments
from edgecache.store.disk.segments import SegmentWriter, path_of


def test_what_is_written_while_it_is_closed_is_in_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writing, closed = threading.Event(), threading.Event()
    pwrite = os.pwrite

    def late(fd: int, data: Any, offset: int) -> int:
        if threading.current_thread() is thread:
            writing.set()
            assert closed.wait(10)
        return pwrite(fd, data, offset)

    given_up = SegmentWriter(tmp_path, 1, 1000)
    errors: list[OSError] = []

    def work() -> None:
        try:
            given_up.append(b"given up", b"and more")
        except OSError as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    monkeypatch.setattr(segments.os, "pwrite", late)
    thread.start()
    assert writing.wait(10)
    given_up.close()
    other = SegmentWriter(tmp_path, 2, 1000)
    closed.set()
    thread.join(10)
    other.append(b"kept")
    other.close()
    assert Path(path_of(tmp_path, 2)).read_bytes() == b"kept"
    assert len(errors) == 1
    links = [os.readlink(each) for each in Path("/proc/self/fd").iterdir() if each.exists()]
    assert not [link for link in links if link.startswith(str(tmp_path))]
    given_up.close()
    with pytest.raises(OSError, match="closed"):
        given_up.append(b"x")
