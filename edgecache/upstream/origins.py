"""The origins of a site as a `source.Source`: one is asked, and another where that is safe and of use. `serve` calls it.

Whose turn it is says `pool`, what may be sent again `retrying`; the exchange itself is `origin`'s.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

from edgecache.policy.lookup import ERROR_STATUSES
from edgecache.policy.message import Request, Response
from edgecache.policy.trailing import wants_trailers
from edgecache.source import Body, Culprit, Interim, Reply, SourceError
from edgecache.upstream.balancing import Condition
from edgecache.upstream.body import BytesBody, EmptyBody, OriginBody, ReplayableBody
from edgecache.upstream.endpoint import waits
from edgecache.upstream.member import Lease, Member
from edgecache.upstream.origin import OriginClient
from edgecache.upstream.pool import Pool
from edgecache.upstream.response import OriginResponse
from edgecache.upstream.retrying import retriable, retriable_status
from edgecache.upstream.trailers import TrailerReader
from edgecache.upstream.whole import WholeResponse

_BODILESS = frozenset({204, 304})
_HEDGED = frozenset({"GET", "HEAD"})


@dataclass(frozen=True, slots=True)
class Answered:
    """A response whose body is still to come, and the place that it takes."""

    response: OriginResponse | WholeResponse
    lease: Lease

    def drop(self) -> None:
        self.response.close()
        self.lease.release()


class Origins:
    """One site's, as its pool is now."""

    def __init__(self, client: OriginClient, pool: Pool) -> None:
        self._client = client
        self._pool = pool
        self._waits = waits(client.settings, pool.rule.timeouts)

    async def fetch(self, request: Request, body: Body | None, request_id: str, on_interim: Interim | None = None) -> Reply:
        """The first origin's answer, or the next one's where nothing was said yet. Raises SourceError."""
        trailers = TrailerReader() if wants_trailers(request) else None
        reply = self._reply(request, await self._answer(request, body, on_interim, trailers))
        return reply if trailers is None else replace(reply, trailers=trailers.fields)

    async def switch(self, request: Request) -> Answered | Reply:
        """As `fetch`, for a request that asks for an upgrade: a 101 is whole, connection and all. Raises SourceError."""
        answered = await self._answer(request, None, None, None)
        return answered if answered.response.status == 101 else self._reply(request, answered)

    async def _answer(
        self, request: Request, body: Body | None, on_interim: Interim | None, trailers: TrailerReader | None
    ) -> Answered:
        pool, rule = self._pool, self._pool.rule.retries
        if body is not None and not isinstance(body, ReplayableBody):
            body = ReplayableBody(body, self._client.settings.replay_bytes)
        pool.budget.asked()
        order = deque(pool.turn(request))
        if not order:
            raise pool.refusal()
        retries = 0
        while True:
            member = order.popleft()
            try:
                answered = await self._first(member, order, request, body, on_interim=on_interim, trailers=trailers)
            except SourceError as error:
                again = error.retry and bool(order)
                if not again and retriable(rule, request.method, error.reason, retries):
                    if not order and body is not None and error.reason == "reset":
                        # RFC 9112 section 9.3.1: a kept connection may be closed just when a request is sent on it. aiohttp sends
                        # what has no body once more by itself.
                        order.append(member)
                    again = bool(order) and pool.budget.take()
                    retries += 1
                if not again or (body is not None and not body.rewind()):
                    raise
            else:
                bad = bool(order) and retriable_status(rule, request.method, answered.response.status, retries)
                # The body is taken back last: until this answer is dropped, its request may still be reading it.
                if not (bad and pool.budget.take() and (body is None or body.rewind())):
                    return answered
                answered.drop()
                retries += 1
            order[0].retries += 1

    async def _first(
        self,
        member: Member,
        order: deque[Member],
        request: Request,
        body: Body | None,
        *,
        on_interim: Interim | None,
        trailers: TrailerReader | None,
    ) -> Answered:
        """`member`'s answer; or where that takes long and the site hedges, the first of its and the next one's."""
        hedge = self._pool.rule.hedge
        if hedge is None or body is not None or not order or request.method not in _HEDGED or "Upgrade" in request.headers:
            return await self._ask(member, request, body, on_interim, trailers)
        tasks = [asyncio.ensure_future(self._ask(member, request, None, on_interim, trailers))]
        winner: asyncio.Future[Answered] | None = None
        try:
            done, _ = await asyncio.wait(tasks, timeout=hedge.after)
            if not done and self._pool.condition(order[0]) is Condition.HEALTHY and self._pool.budget.take():
                second = order.popleft()
                second.hedges += 1
                tasks.append(asyncio.ensure_future(self._ask(second, request, None)))
            pending = set(tasks)
            while pending and winner is None:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                winner = next((task for task in tasks if task in done and task.exception() is None), None)
            return (winner or tasks[0]).result()
        finally:
            await _end(task for task in tasks if task is not winner)

    async def _ask(
        self,
        member: Member,
        request: Request,
        body: Body | None,
        on_interim: Interim | None = None,
        trailers: TrailerReader | None = None,
    ) -> Answered:
        """One exchange with one origin, counted and judged. Raises SourceError."""
        lease = await member.lease(self._waits.connect)
        member.sent()
        try:
            response = await self._client.exchange(
                member.endpoint, request, body, self._waits, on_interim=on_interim, trailers=trailers
            )
        except BaseException as error:
            lease.release()
            if isinstance(error, SourceError) and error.culprit is Culprit.ORIGIN:
                self._pool.failed(member, error.reason)
            else:
                member.undecided()
            raise
        if response.status in ERROR_STATUSES:
            self._pool.failed(member, "error-status")
        else:
            self._pool.succeeded(member)
        return Answered(response, lease)

    def _reply(self, request: Request, answered: Answered) -> Reply:
        response = answered.response
        head = Response(response.status, response.reason or "", response.headers)
        if isinstance(response, WholeResponse):
            answered.lease.release()
            return Reply(head, BytesBody(response.body))
        if request.method == "HEAD" or response.status in _BODILESS:
            response.release()
            answered.lease.release()
            return Reply(head, EmptyBody())
        return Reply(head, OriginBody(response, self._waits.between_bytes, answered.lease.release))


async def _end(losers: Iterable[asyncio.Future[Answered]]) -> None:
    """Cancel what is still asked, and drop what has been answered in vain."""
    tasks = tuple(losers)
    for task in tasks:
        task.cancel()
    for found in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(found, Answered):
            found.drop()
