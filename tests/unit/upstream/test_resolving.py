"""Names of origins: how long addresses hold, and what stays of a name that stops resolving."""

from __future__ import annotations

import asyncio
import socket

import pytest
from aiohttp.abc import ResolveResult
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache.upstream.resolving import Resolution, Resolver, answered, failed
from tests.integration.proxy_support import Ticks


def found(*addresses: str) -> list[ResolveResult]:
    return [
        ResolveResult(hostname="a.test", host=address, port=80, family=socket.AF_INET, proto=0, flags=0) for address in addresses
    ]


class Names:
    """Says what it is told to; an empty answer is a name that does not resolve."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.asked = 0
        self.open = asyncio.Event()
        self.open.set()

    async def __call__(self, host: str, _port: int, _family: int) -> list[ResolveResult]:
        self.asked += 1
        await self.open.wait()
        if not self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return found(*self.addresses)


def resolver(names: Names, ticks: Ticks, ttl: float = 30.0, keep: float = 3600.0) -> Resolver:
    return Resolver(ttl=ttl, keep=keep, clock=ticks, lookup=names)


async def hosts(of: Resolver) -> list[str]:
    return [address["host"] for address in await of.resolve("a.test", 80)]


async def test_addresses_hold_for_their_time_and_are_asked_for_again_after_it() -> None:
    names, ticks = Names("192.0.2.1"), Ticks()
    resolving = resolver(names, ticks)
    assert await hosts(resolving) == ["192.0.2.1"]
    names.addresses = ("192.0.2.2",)
    ticks.advance(29.9)
    assert await hosts(resolving) == ["192.0.2.1"]
    ticks.advance(0.1)
    assert await hosts(resolving) == ["192.0.2.2"]
    assert names.asked == 2
    await resolving.close()


async def test_a_name_that_stops_resolving_keeps_its_addresses_for_a_while() -> None:
    names, ticks = Names("192.0.2.1"), Ticks()
    resolving = resolver(names, ticks)
    await hosts(resolving)
    names.addresses = ()
    ticks.advance(3600.0)
    assert await hosts(resolving) == ["192.0.2.1"]
    ticks.advance(30.0)
    with pytest.raises(OSError, match=r"a\.test: Name or service not known"):
        await hosts(resolving)
    names.addresses = ("192.0.2.9",)
    ticks.advance(1.0)
    assert await hosts(resolving) == ["192.0.2.9"]
    await resolving.close()


async def test_a_name_that_fails_is_not_asked_for_at_every_request() -> None:
    names, ticks = Names(), Ticks()
    resolving = resolver(names, ticks)
    for _ in range(5):
        with pytest.raises(OSError, match="not known"):
            await hosts(resolving)
    assert names.asked == 1
    await resolving.close()


async def test_those_who_ask_at_once_share_one_lookup_and_one_who_leaves_ends_none() -> None:
    names, ticks = Names("192.0.2.1"), Ticks()
    names.open.clear()
    resolving = resolver(names, ticks)
    tasks = [asyncio.create_task(hosts(resolving)) for _ in range(3)]
    await asyncio.sleep(0)
    tasks[0].cancel()
    await asyncio.sleep(0)
    names.open.set()
    assert await asyncio.gather(*tasks[1:]) == [["192.0.2.1"]] * 2
    assert names.asked == 1
    await resolving.close()


async def test_each_address_comes_first_in_turn() -> None:
    resolving = resolver(Names("192.0.2.1", "192.0.2.2"), Ticks())
    firsts = [(await hosts(resolving))[0] for _ in range(4)]
    assert sorted(firsts) == ["192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2"]
    await resolving.close()


async def test_closing_ends_what_is_asked() -> None:
    names = Names("192.0.2.1")
    names.open.clear()
    resolving = resolver(names, Ticks())
    task = asyncio.create_task(hosts(resolving))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    await resolving.close()
    with pytest.raises(OSError, match="does not resolve"):
        await task


async def test_the_systems_resolver_knows_this_machine() -> None:
    resolving = Resolver(ttl=1.0, keep=1.0, clock=Ticks())
    assert {address["host"] for address in await resolving.resolve("localhost", 80)} & {"127.0.0.1", "::1"}
    await resolving.close()


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(0, 100))), st.floats(0, 100), st.floats(0, 300))
def test_old_addresses_are_never_older_than_they_may_be(history: list[tuple[bool, float]], ttl: float, keep: float) -> None:
    known: Resolution | None = None
    now, last_good = 0.0, None
    for good, pause in history:
        now += pause
        if good:
            known, last_good = answered(found("192.0.2.1"), now, ttl), now
        else:
            known = failed(known, "gone", now, ttl, keep)
            assert known.until > now
        if known.addresses:
            assert last_good is not None
            assert now <= last_good + ttl + keep
