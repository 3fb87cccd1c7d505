"""Every scenario of this folder again, asked over HTTP/2: what is stored, reused and passed on does not depend on the framing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tests.conformance import test_fields, test_freshness, test_requests, test_states, test_storing, test_updates
from tests.conformance.scenario import Fetch, Fields, Scenario, f, play
from tests.integration.h2_support import Authority, secure
from tests.integration.proxy_support import Clock, Edge, Got

_OF_HTTP_1 = {"connection", "keep-alive", "proxy-connection", "te", "transfer-encoding", "upgrade", "host"}
"""Fields that HTTP/2 has no place for; requests with them are streams in error, see test_http2_requests."""


def _sendable(scenario: Scenario) -> bool:
    return not any(name.lower() in _OF_HTTP_1 for ask in scenario.asks for name, _ in f(ask.sends))


def _over_http_2(scenario: Scenario) -> Scenario:
    """Via names the protocol that a request came over (RFC 9110 section 7.6.3)."""
    asks = (replace(ask, origin_saw=ask.origin_saw.replace("Via: 1.1", "Via: 2.0")) for ask in scenario.asks)
    return replace(scenario, asks=tuple(asks))


SCENARIOS = [
    _over_http_2(scenario)
    for module in (test_fields, test_freshness, test_requests, test_states, test_storing, test_updates)
    for scenario in module.SCENARIOS
    if _sendable(scenario)
]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
async def test_the_same_over_http_2(scenario: Scenario, authority: Authority) -> None:
    @asynccontextmanager
    async def http_2(edge: Edge) -> AsyncIterator[Fetch]:
        async with secure(edge, authority) as serving:
            client = await serving.connect()
            # Origins send the real date, and the handshake has taken its time.
            edge.clock.now = Clock().now

            async def fetch(path: str, method: str, fields: Fields) -> Got:
                exchange = await client.fetch(path, method, headers=fields)
                assert exchange.ended, exchange
                return exchange.got

            yield fetch

    await play(scenario, http_2)


def test_most_scenarios_can_be_asked_over_http_2() -> None:
    assert len(SCENARIOS) > 100
