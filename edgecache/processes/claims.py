"""Claims of one serving process on what it is about to fetch: written on the board that all share, or asked of the leader.

Implements `serve.elsewhere.Elsewhere`. Who finds another's word on the board asks the leader, and waits for what that one brings;
all else costs no message.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

import msgspec

from edgecache.policy.fields import freeze
from edgecache.policy.message import Response, Timed
from edgecache.processes import messages
from edgecache.processes.flight_board import DIGEST_BYTES, FlightBoard
from edgecache.serve.elsewhere import Brought

WAIT_SECONDS: Final = 20.0
"""How long to wait for what another process fetches; then this one fetches too."""


class FlightClaim:
    """Implements `serve.elsewhere.Claim`."""

    __slots__ = ("_claims", "awaited", "brought", "digest", "serial", "told", "uri")

    def __init__(self, claims: Claims, serial: int, digest: bytes, uri: str) -> None:
        self._claims = claims
        self.serial = serial
        self.digest = digest
        self.uri = uri
        self.brought: Brought | None = None
        self.awaited = False
        self.told = False
        """The leader knows of it, and is to hear of its end."""

    def settle(self, brought: Brought | None) -> None:
        self._claims.settle(self, brought)


class Claims:
    """All claims of this process. `board` may be set once; before that nobody else is told of anything."""

    def __init__(self, send: Callable[[msgspec.Struct], None]) -> None:
        self.send = send
        self.board: FlightBoard | None = None
        self._serials = itertools.count(1)
        self._asked: dict[int, _Question] = {}
        self._held: dict[int, FlightClaim] = {}
        self._open: dict[bytes, FlightClaim] = {}
        """Those whose word is on the board, by digest."""
        self._lost = False

    def hold(self, key: Hashable, uri: str) -> FlightClaim | None:
        """The right to fetch, at once; None: another process may be about to, or this one is."""
        digest = _digest(key)
        return None if self._take(digest) else self._hold(digest, uri)

    async def claim(self, key: Hashable, uri: str) -> FlightClaim:
        digest = _digest(key)
        holder = self._take(digest)
        if holder == 0:
            return self._hold(digest, uri)
        claim = FlightClaim(self, next(self._serials), digest, uri)
        if self._lost or digest in self._open:
            return claim
        question = self._asked[claim.serial] = _Question(claim, holder, asyncio.get_running_loop().create_future())
        self.send(messages.ClaimFlight(claim.serial, digest, uri, holder))
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                brought = await question.answer
        except TimeoutError:
            self.settle(claim, None)
            return claim
        except BaseException:
            self.settle(claim, None)
            raise
        finally:
            self._asked.pop(claim.serial, None)
        if brought is not None:
            claim.brought = _unpacked(brought)
        return claim

    def receive(self, message: messages.Claimed | messages.Awaited | messages.Whose) -> None:
        match message:
            case messages.Awaited(serial=serial):
                if (claim := self._held.get(serial)) is not None:
                    claim.awaited = True
            case messages.Whose(key=digest):
                claim = self._open.get(digest)
                if claim is not None:
                    claim.awaited = claim.told = True
                self.send(messages.HeldClaim(digest, 0 if claim is None else claim.serial))
            case messages.Claimed(serial=serial, granted=granted, brought=brought):
                question = self._asked.get(serial)
                if question is not None and not question.answer.done():
                    if granted:
                        self._granted(question.claim, question.holder)
                    question.answer.set_result(brought)
                elif granted:
                    # Whoever asked has given up: nobody else is to wait for it.
                    self.send(messages.Settle(serial))

    def seal(self, uris: Collection[str] | None = None) -> None:
        """A purge: nobody else is to wait for what was asked for before it, or for these URIs."""
        sealed = [claim for claim in self._open.values() if uris is None or claim.uri in uris]
        for claim in sealed:
            self._close(claim)

    def settle(self, claim: FlightClaim, brought: Brought | None) -> None:
        if self._held.pop(claim.serial, None) is None:
            return
        self._close(claim)
        if claim.told:
            self.send(messages.Settle(claim.serial, _packed(brought) if claim.awaited and brought is not None else None))

    def lose(self) -> None:
        """The leader has gone: everybody fetches for himself."""
        self._lost = True
        for question in self._asked.values():
            if not question.answer.done():
                question.answer.set_result(None)

    def _take(self, digest: bytes) -> int:
        return 0 if self.board is None else self.board.take(digest)

    def _hold(self, digest: bytes, uri: str) -> FlightClaim:
        serial = next(self._serials)
        claim = self._held[serial] = self._open[digest] = FlightClaim(self, serial, digest, uri)
        return claim

    def _granted(self, claim: FlightClaim, holder: int) -> None:
        """The leader knows that `holder`, whose word is on the board, is not fetching it."""
        self._held[claim.serial] = claim
        claim.told = True
        if self.board is not None and claim.digest not in self._open:
            self.board.take_over(claim.digest, holder)
            if self.board.take(claim.digest) in (0, self.board.number):
                self._open[claim.digest] = claim

    def _close(self, claim: FlightClaim) -> None:
        """Take its word from the board."""
        if self._open.get(claim.digest) is claim:
            del self._open[claim.digest]
            if self.board is not None:
                self.board.give_back(claim.digest)


@dataclass(frozen=True, slots=True)
class _Question:
    """What the leader has been asked."""

    claim: FlightClaim
    holder: int
    answer: asyncio.Future[messages.BroughtOver | None]


def _digest(key: Hashable) -> bytes:
    return blake2b(repr(key).encode("utf-8", "surrogateescape"), digest_size=DIGEST_BYTES).digest()


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
