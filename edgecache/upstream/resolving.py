"""Addresses of origins by name: remembered for a bounded time, asked for again after it, kept when a name stops resolving.

The system's resolver is asked, in threads of this module's own, once at a time for each name. `origin`'s connectors call it.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from aiohttp.abc import AbstractResolver, ResolveResult
from lru import LRU

_CAPACITY: Final = 4096
_THREADS: Final = 8
_AGAIN: Final = 1.0
"""Seconds until a name is asked for again that has just failed to resolve."""
_PATIENCE: Final = 1.0
"""Seconds for which an answer is waited for where old addresses could be used instead."""

Key = tuple[str, int, int]
"""Host, port, family."""
Clock = Callable[[], float]
Lookup = Callable[[str, int, int], Awaitable[list[ResolveResult]]]
"""Raises OSError."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """What is known of a name; times in the caller's clock."""

    addresses: tuple[ResolveResult, ...]
    """None at all: it has never resolved."""
    answered: float
    """When they were said."""
    until: float
    """Until when nobody needs to be asked again."""
    failure: str = ""


def answered(addresses: list[ResolveResult], now: float, ttl: float) -> Resolution:
    return Resolution(tuple(addresses), now, now + ttl)


def failed(known: Resolution | None, failure: str, now: float, ttl: float, keep: float) -> Resolution:
    """The last good addresses stay for `keep` seconds past their time; then there are none."""
    until = now + _AGAIN
    if known is None or now >= known.answered + ttl + keep:
        return Resolution((), now, until, failure)
    return replace(known, until=until, failure=failure)


class Resolver(AbstractResolver):
    """`ttl` and `keep` in seconds, of `clock`."""

    def __init__(self, *, ttl: float, keep: float, clock: Clock, lookup: Lookup | None = None) -> None:
        self._ttl, self._keep, self._clock = ttl, keep, clock
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="resolver")
        self._lookup = lookup or partial(_system, self._threads)
        self._known: LRU[Key, Resolution] = LRU(_CAPACITY)
        self._asking: dict[Key, asyncio.Task[None]] = {}
        self._turn = 0

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        """The addresses of `host`, each time another one first. Raises OSError."""
        key = (host, port, int(family))
        known = self._known.get(key)
        if known is None or self._clock() >= known.until:
            asking = self._asking.get(key) or self._ask(key)
            await asyncio.wait({asking}, timeout=_PATIENCE if known is not None and known.addresses else None)
            known = self._known.get(key)
        if known is None or not known.addresses:
            raise OSError(None, (known and known.failure) or f"{host} does not resolve")
        self._turn += 1
        first = self._turn % len(known.addresses)
        return [*known.addresses[first:], *known.addresses[:first]]

    async def close(self) -> None:
        for task in self._asking.values():
            task.cancel()
        await asyncio.gather(*self._asking.values(), return_exceptions=True)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _ask(self, key: Key) -> asyncio.Task[None]:
        task = self._asking[key] = asyncio.get_running_loop().create_task(self._answer(key))
        task.add_done_callback(lambda _done: self._asking.pop(key, None))
        return task

    async def _answer(self, key: Key) -> None:
        try:
            addresses = await self._lookup(*key)
        except (OSError, UnicodeError) as error:
            failure = getattr(error, "strerror", None) or str(error)
        else:
            if addresses:
                self._known[key] = answered(addresses, self._clock(), self._ttl)
                return
            failure = "no address"
        self._known[key] = failed(self._known.get(key), f"{key[0]}: {failure}", self._clock(), self._ttl, self._keep)


async def _system(threads: ThreadPoolExecutor, host: str, port: int, family: int) -> list[ResolveResult]:
    ask = partial(socket.getaddrinfo, host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    found = await asyncio.get_running_loop().run_in_executor(threads, ask)
    return [
        ResolveResult(
            hostname=host,
            host=_with_zone(address),
            port=port,
            family=kind,
            proto=protocol,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for kind, _, protocol, _, address in found
    ]


def _with_zone(address: tuple[object, ...]) -> str:
    """An IPv6 address of one link needs to say which (RFC 4007 section 11)."""
    host = str(address[0])
    return f"{host}%{address[3]}" if len(address) == 4 and address[3] and "%" not in host else host
