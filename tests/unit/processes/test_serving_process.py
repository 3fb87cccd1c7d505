"""A serving process that cannot be started is told of as such, whatever is missing: whoever keeps its place tries again later."""

from __future__ import annotations

import asyncio
import itertools
import os
import resource
from pathlib import Path

import pytest

from edgecache.generate.bridge import GuestLog
from edgecache.processes import messages
from edgecache.processes.guests import GuestHost
from edgecache.processes.serving_process import Asks, ServingProcess, ServingState, StartFailed


class Nothing:
    """No monitor, values or logs: nothing gets so far."""

    def of(self, site: str, generator: str) -> GuestLog:
        raise AssertionError((site, generator))

    async def asked(self, *message: object) -> int:
        raise AssertionError(message)

    def told(self, *message: object) -> None:
        raise AssertionError(message)


def member() -> ServingProcess:
    nothing = Nothing()
    host = GuestHost(nothing, nothing, nothing, nothing.asked, nothing)  # type: ignore[arg-type]
    return ServingProcess(0, 1, Asks(purge=nothing.asked, invalidate=nothing.asked, flight=nothing.told), host)


def descriptors() -> set[int]:
    with os.scandir("/proc/self/fd") as found:
        numbers = [int(entry.name) for entry in found]
    return {number for number in numbers if Path(f"/proc/self/fd/{number}").exists()}


def limit(taken: set[int], left: int) -> int:
    """The limit under which `left` more descriptors can be had."""
    free = (number for number in itertools.count() if number not in taken)
    return next(itertools.islice(free, left, None))


def refused() -> messages.Begin:
    raise StartFailed("so far it came")


@pytest.mark.parametrize("left", range(8))
async def test_a_start_for_which_descriptors_are_lacking_has_failed_and_leaves_nothing(left: int) -> None:
    failing, before = member(), descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit(before, left), hard))
    try:
        with pytest.raises(StartFailed):
            await failing.start(refused, ())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert failing.state is ServingState.ENDED and failing.ended.is_set()
    await asyncio.sleep(0)
    assert descriptors() == before
    if failing.pid:
        assert not Path(f"/proc/{failing.pid}").exists()
