"""Waiting for a place at an origin whose places are all taken. `origins` does; what is counted is `member`'s."""

from __future__ import annotations

import asyncio

from edgecache.upstream.choosing.member import Lease, Member, overloaded


async def leased(member: Member, patience: float) -> Lease:
    """A place for one request, within `patience` seconds. Raises SourceError."""
    if (lease := member.lease_at_once()) is not None:
        return lease
    turn = member.line_up()
    try:
        async with asyncio.timeout(patience):
            await turn
    except BaseException as error:
        member.step_out(turn)
        if isinstance(error, TimeoutError):
            limit = member.rule.breaker.max_connections
            raise overloaded(f"{limit} requests were under way, and none ended in time") from None
        raise
    return Lease(member)
