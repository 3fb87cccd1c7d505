"""The same histories over HTTP/2, and with a disk tier whose memory holds next to nothing: where an answer is kept, and how it is
asked for, does not change which may be given."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgecache.store.disk import DiskSettings
from tests.conformance.history import History, Over, Wire, play
from tests.conformance.test_histories_shared import FOUND, histories
from tests.integration.h2_support import NAME, Authority, secure
from tests.integration.proxy_support import Edge, Got

_CAPACITY = 16 << 20
_MEMORY_BYTES = 8000
"""Two or three entries."""


def _http_2(authority: Authority) -> Over:
    @asynccontextmanager
    async def over(edge: Edge) -> AsyncIterator[Wire]:
        async with secure(edge, authority) as serving:
            client = await serving.connect()

            async def fetch(method: str, path: str, fields: Mapping[str, str], body: bytes | None) -> Got | None:
                exchange = await client.fetch(path, method, headers=tuple(fields.items()), body=body)
                return exchange.got if exchange.ended else None

            yield Wire(fetch, f"https://{NAME}", NAME)

    return over


def _on_disk(history: History, large_bytes: int) -> None:
    with tempfile.TemporaryDirectory() as path:
        tier = DiskSettings(path=Path(path), capacity_bytes=_CAPACITY, large_bytes=large_bytes)
        asyncio.run(play(history, disk=tier, capacity_bytes=_MEMORY_BYTES))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_over_http_2(name: str, authority: Authority) -> None:
    asyncio.run(play(FOUND[name], _http_2(authority)))


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.parametrize("large_bytes", [50, 1 << 20])
def test_what_was_found_on_disk(name: str, large_bytes: int) -> None:
    _on_disk(FOUND[name], large_bytes)


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=25)
@given(histories())
def test_over_http_2(authority: Authority, history: History) -> None:
    asyncio.run(play(history, _http_2(authority)))


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=25)
@given(histories(), st.sampled_from([50, 85, 1 << 20]))
def test_with_a_disk(history: History, large_bytes: int) -> None:
    """Small bodies too are written while they pass, with the first two."""
    _on_disk(history, large_bytes)
