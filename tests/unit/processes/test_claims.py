"""Two serving processes' claims over one board: what is said to the leader, and only then, and who waits for what."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from edgecache.policy.fields import freeze
from edgecache.policy.message import Response, Timed
from edgecache.processes import messages
from edgecache.processes.claims import Claims, FlightClaim
from edgecache.processes.flight_board import FlightBoard
from edgecache.serve.elsewhere import Brought

KEY, URI = ("site", None, "http://a.test/", ""), "http://a.test/"
BROUGHT = Brought(Timed(Response(200, "OK", freeze([("X-A", "\udce9")])), 1.0, 2.0), b"body", ("accept",), "v", "detail")


@dataclass
class Process:
    said: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.claims = Claims(self.said.append)

    def held(self) -> FlightClaim:
        claim = self.claims.hold(KEY, URI)
        assert claim is not None
        return claim

    async def asks(self) -> tuple[asyncio.Task[FlightClaim], messages.ClaimFlight]:
        """Claim what another's word is on the board for; the question that the leader gets."""
        task = asyncio.create_task(self.claims.claim(KEY, URI))
        await asyncio.sleep(0)
        question = self.said.pop()
        assert isinstance(question, messages.ClaimFlight)
        return task, question


@pytest.fixture
def two() -> Iterator[tuple[Process, Process]]:
    one, other = Process(), Process()
    board = FlightBoard(1)
    one.claims.board, other.claims.board = board, FlightBoard(2, board.descriptor)
    yield one, other
    other.claims.board.close()
    board.close()


async def test_what_nobody_else_wants_is_nobodys_business(two: tuple[Process, Process]) -> None:
    one, other = two
    claim = one.held()
    assert one.claims.hold(KEY, URI) is None
    assert other.claims.hold(KEY, URI) is None
    claim.settle(BROUGHT)
    claim.settle(None)
    (await other.claims.claim(KEY, URI)).settle(None)
    assert one.said == other.said == []
    assert one.claims.hold(KEY, URI) is not None


async def test_who_wants_the_same_waits_for_what_is_brought(two: tuple[Process, Process]) -> None:
    one, other = two
    claim = one.held()
    task, question = await other.asks()
    assert (question.holder, question.uri) == (1, URI)
    one.claims.receive(messages.Whose(question.key))
    assert claim.awaited
    assert one.said.pop() == messages.HeldClaim(question.key, claim.serial)
    claim.settle(BROUGHT)
    told = one.said.pop()
    assert told.serial == claim.serial
    other.claims.receive(messages.Claimed(question.serial, granted=False, brought=told.brought))
    theirs = await task
    assert theirs.brought == BROUGHT
    theirs.settle(BROUGHT)
    assert one.said == other.said == []


async def test_who_is_granted_takes_the_place_of_one_who_does_not_fetch(two: tuple[Process, Process]) -> None:
    one, other = two
    one.held()
    task, question = await other.asks()
    # The first has died, its word is still there.
    other.claims.receive(messages.Claimed(question.serial, granted=True))
    other.claims.receive(messages.Awaited(question.serial))
    claim = await task
    assert (claim.brought, claim.awaited) == (None, True)
    third = FlightBoard(3, one.claims.board.descriptor if one.claims.board else None)
    assert third.take(question.key) == 2
    claim.settle(BROUGHT)
    assert [type(said) for said in other.said] == [messages.Settle]
    assert third.take(question.key) == 0
    third.close()


@pytest.mark.parametrize("uris", [None, (URI,)])
async def test_what_was_asked_for_before_a_purge_is_nobodys_to_wait_for(
    two: tuple[Process, Process], uris: tuple[str, ...] | None
) -> None:
    one, other = two
    claim = one.held()
    _, question = await other.asks()
    one.claims.seal(("http://a.test/other",))
    assert other.claims.hold(KEY, URI) is None
    one.claims.seal(uris)
    assert other.claims.hold(KEY, URI) is not None
    one.claims.receive(messages.Whose(question.key))
    assert one.said.pop() == messages.HeldClaim(question.key, 0)
    claim.settle(BROUGHT)
    assert one.said == []
    assert other.claims.hold(KEY, URI) is None, "the word that stands is the other's"


async def test_who_gives_up_holds_nothing(two: tuple[Process, Process]) -> None:
    one, other = two
    one.held()
    task, question = await other.asks()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    other.claims.receive(messages.Claimed(question.serial, granted=True))
    assert other.said == [messages.Settle(question.serial)]


async def test_a_grant_that_comes_as_its_asker_gives_up_is_settled(two: tuple[Process, Process]) -> None:
    one, other = two
    one.held()
    task, question = await other.asks()
    other.claims.receive(messages.Claimed(question.serial, granted=True))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert other.said == [messages.Settle(question.serial)]


async def test_without_a_leader_everybody_fetches_for_himself(two: tuple[Process, Process]) -> None:
    one, other = two
    one.held()
    task, _ = await other.asks()
    other.claims.lose()
    assert (await task).brought is None
    assert (await other.claims.claim(KEY, URI)).brought is None
    assert other.said == []
