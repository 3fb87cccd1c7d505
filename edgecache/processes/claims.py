"""Claims of one serving process on what it is about to fetch: asked of the leader, waited for, settled.

Implements `serve.elsewhere.Elsewhere` over the channel.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import msgspec

from edgecache.policy.fields import freeze
from edgecache.policy.message import Response, Timed
from edgecache.processes import messages
from edgecache.serve.elsewhere import Brought

WAIT_SECONDS: Final = 20.0
"""How long to wait for what another process fetches; then this one fetches too."""


class Claims:
    """All claims of this process."""

    def __init__(self, send: Callable[[msgspec.Struct], None]) -> None:
        self.send = send
        self._numbers = itertools.count(1)
        self._asked: dict[int, asyncio.Future[messages.Claimed]] = {}
        self._awaited: set[int] = set()
        self._held: set[int] = set()
        self._lost = False

    async def claim(self, key: Hashable, uri: str) -> FlightClaim:
        serial = next(self._numbers)
        if self._lost:
            return FlightClaim(self, serial, None)
        waiting = self._asked[serial] = asyncio.get_running_loop().create_future()
        self.send(messages.ClaimFlight(serial, _digest(key), uri))
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                claimed = await waiting
        except TimeoutError:
            self.settle(serial, None)
            return FlightClaim(self, serial, None)
        except BaseException:
            self.settle(serial, None)
            raise
        finally:
            self._asked.pop(serial, None)
        return FlightClaim(self, serial, None if claimed.brought is None else _unpacked(claimed.brought))

    def receive(self, message: messages.Claimed | messages.Awaited) -> None:
        match message:
            case messages.Awaited(serial=serial):
                if serial in self._held:
                    self._awaited.add(serial)
            case messages.Claimed(serial=serial, granted=granted):
                waiting = self._asked.get(serial)
                if waiting is not None and not waiting.done():
                    if granted:
                        self._held.add(serial)
                    waiting.set_result(message)
                elif granted:
                    # Whoever asked has given up: nobody else is to wait for it.
                    self.send(messages.Settle(serial))

    def settle(self, serial: int, brought: Brought | None) -> None:
        if serial not in self._held:
            return
        self._held.discard(serial)
        wanted = serial in self._awaited
        self._awaited.discard(serial)
        self.send(messages.Settle(serial, _packed(brought) if wanted and brought is not None else None))

    def lose(self) -> None:
        """The leader has gone: everybody fetches for himself."""
        self._lost = True
        for serial, waiting in self._asked.items():
            if not waiting.done():
                waiting.set_result(messages.Claimed(serial, granted=False))


@dataclass(frozen=True, slots=True)
class FlightClaim:
    """Implements `serve.elsewhere.Claim`."""

    claims: Claims
    serial: int
    brought: Brought | None

    def settle(self, brought: Brought | None) -> None:
        self.claims.settle(self.serial, brought)


def _digest(key: Hashable) -> bytes:
    return blake2b(repr(key).encode("utf-8", "surrogateescape"), digest_size=16).digest()


def _packed(brought: Brought) -> messages.BroughtOver:
    response = brought.timed.response
    return messages.BroughtOver(
        status=response.status,
        reason=_bytes(response.reason),
        fields=tuple((_bytes(name), _bytes(value)) for name, value in response.headers.items()),
        request_time=brought.timed.request_time,
        response_time=brought.timed.response_time,
        body=brought.body,
        vary=brought.vary,
        variant=_bytes(brought.variant),
        detail=brought.detail,
    )


def _unpacked(over: messages.BroughtOver) -> Brought:
    fields = freeze([(_text(name), _text(value)) for name, value in over.fields])
    timed = Timed(Response(over.status, _text(over.reason), fields), over.request_time, over.response_time)
    return Brought(timed, over.body, over.vary, _text(over.variant), over.detail)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")
