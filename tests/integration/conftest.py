"""What tests of several files start with."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sandbox import Monitor
from tests.integration.monitor_support import limits, resident


@pytest.fixture
async def monitor() -> AsyncIterator[Monitor]:
    """A monitor with one resident generator, `probe`."""
    async with Monitor() as running:
        running.register("probe", resident(), limits(), tenant="shop")
        yield running
