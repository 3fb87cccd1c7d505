"""The origins of a site as a `source.Source`: one is asked, and another where that is safe and of use. `serve` calls it.

Whose turn it is says `pool`, what may be sent again `retrying`; the exchange itself is `origin`'s.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, replace

from edgecache.policy.message import Request, Response
from edgecache.policy.trailing import wants_trailers
from edgecache.source import Body, Culprit, Interim, Reply, Resumed, Source, SourceError
from edgecache.upstream.choosing.balancing import Condition
from edgecache.upstream.choosing.leasing import leased
from edgecache.upstream.choosing.member import Lease, Member
from edgecache.upstream.choosing.pool import Pool
from edgecache.upstream.choosing.retrying import retriable, retriable_status
from edgecache.upstream.endpoint import waits
from edgecache.upstream.http1.beginning import Beginner
from edgecache.upstream.http1.begun import BegunExchange
from edgecache.upstream.http1.body import BytesBody, EmptyBody, OriginBody, ReplayableBody
from edgecache.upstream.http1.origin import OriginClient
from edgecache.upstream.http1.response import OriginResponse
from edgecache.upstream.http1.trailers import TrailerReader
from edgecache.upstream.http1.whole import WholeResponse

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
        self._beginner = Beginner(client.kit(), pool, self._waits.first_byte, self.going_on)

    async def fetch(self, request: Request, body: Body | None, request_id: str, on_interim: Interim | None = None) -> Reply:
        """The first origin's answer, or the next one's where nothing was said yet. Raises SourceError."""
        trailers = TrailerReader() if wants_trailers(request) else None
        reply = self._reply(request, await self._answer(request, body, on_interim, trailers))
        return reply if trailers is None else replace(reply, trailers=trailers.fields)

    def begin(self, request: Request, request_id: str, told: Callable[[], None], on_interim: Interim) -> BegunExchange | None:
        """As `Source.begin`: on a kept connection, to the origin whose turn it is."""
        del request_id
        return self._beginner.begin(request, told, on_interim)

    def going_on(self, begun: BegunExchange) -> Source:
        """The source whose first answer is that to `begun`, which has been sent already."""

        async def first(_request: Request, _request_id: str, on_interim: Interim | None) -> Reply:
            return self._reply(begun.request, await self._answer(begun.request, None, on_interim, None, begun))

        return Resumed(self, first)

    async def switch(self, request: Request) -> Answered | Reply:
        """As `fetch`, for a request that asks for an upgrade: a 101 is whole, connection and all. Raises SourceError."""
        answered = await self._answer(request, None, None, None)
        return answered if answered.response.status == 101 else self._reply(request, answered)

    async def _answer(
        self,
        request: Request,
        body: Body | None,
        on_interim: Interim | None,
        trailers: TrailerReader | None,
        begun: BegunExchange | None = None,
    ) -> Answered:
        pool, rule = self._pool, self._pool.rule.retries
        if body is not None and not isinstance(body, ReplayableBody):
            body = ReplayableBody(body, self._client.settings.replay_bytes)
        order = deque((begun.member, *begun.order)) if begun is not None else self._turn(request)
        retries = 0
        while True:
            member = order.popleft()
            try:
                if begun is None:
                    answered = await self._first(member, order, request, body, on_interim=on_interim, trailers=trailers)
                else:
                    answered = await self._ended(begun, on_interim)
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
            begun = None
            order[0].retries += 1

    def _turn(self, request: Request) -> deque[Member]:
        """Whom to ask, one after the other. Raises SourceError."""
        self._pool.budget.asked()
        order = deque(self._pool.turn(request))
        if not order:
            raise self._pool.refusal()
        return order

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
        lease = await leased(member, self._waits.connect)
        member.sent()
        return await self._judged(
            member,
            lease,
            self._client.exchange(member.endpoint, request, body, self._waits, on_interim=on_interim, trailers=trailers),
        )

    async def _ended(self, begun: BegunExchange, on_interim: Interim | None) -> Answered:
        """As `_ask`, for what has been sent."""
        begun.over = True
        exchange = self._client.exchange(
            begun.member.endpoint, begun.request, None, self._waits, on_interim=on_interim, begun=begun.sent
        )
        return await self._judged(begun.member, begun.lease, exchange)

    async def _judged(
        self, member: Member, lease: Lease, exchange: Coroutine[None, None, OriginResponse | WholeResponse]
    ) -> Answered:
        try:
            response = await exchange
        except BaseException as error:
            lease.release()
            if isinstance(error, SourceError) and error.culprit is Culprit.ORIGIN:
                self._pool.failed(member, error.reason)
            else:
                member.undecided()
            raise
        self._pool.judge(member, response.status)
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
