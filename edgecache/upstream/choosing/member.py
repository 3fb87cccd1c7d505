"""One origin as one site knows it: what is counted of it, its circuit breaker, its passive health, its places for requests.

`pool` holds one for each origin of a site, `leasing` waits for its places; times are the pool's clock. No HTTP and no sockets.
"""

from __future__ import annotations

from asyncio import Future, get_running_loop
from collections import deque
from typing import Final

from edgecache.policy.upstream import Origin, UpstreamRule
from edgecache.source import Culprit, SourceError
from edgecache.upstream.choosing import breaker, ejection
from edgecache.upstream.choosing.balancing import Candidate
from edgecache.upstream.choosing.breaker import CLOSED, Breaker
from edgecache.upstream.choosing.ejection import Health
from edgecache.upstream.endpoint import Endpoint

_WELL: Final = Health()


class Member:
    """`origin` and `rule` may be replaced while it is in use."""

    def __init__(self, endpoint: Endpoint, origin: Origin, rule: UpstreamRule) -> None:
        self.endpoint = endpoint
        self.origin = origin
        self.rule = rule
        self.requests = self.failures = self.retries = self.hedges = 0
        self.active = 0
        """Requests under way, each on a connection of its own."""
        self.breaker: Breaker = CLOSED
        self.errors: Health = _WELL
        self._waiting: deque[Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def full(self) -> bool:
        limit = self.rule.breaker.max_connections
        return limit is not None and self.active >= limit

    def candidate(self) -> Candidate:
        """This origin as `balancing` sees it; the pool adds its condition."""
        return Candidate(self.origin.url, self.origin.weight or 1, self.origin.backup, full=self.full)

    def open(self, now: float) -> bool:
        return self.breaker.open(now)

    def ejected(self, now: float) -> bool:
        return self.errors.until > now

    def sent(self) -> None:
        """A request is on its way."""
        self.requests += 1
        self.breaker = breaker.asked(self.breaker)

    def succeeded(self) -> None:
        """It has answered, and with no error."""
        self.breaker, self.errors = CLOSED, _WELL

    def failed(self, now: float, *, may_eject: bool) -> None:
        """It has not answered, or with an error. `may_eject`: enough of the site's origins would be left."""
        self.failures += 1
        rule = self.rule
        if rule.breaker.max_failures is not None:
            self.breaker = breaker.failed(self.breaker, now, rule.breaker.max_failures, rule.breaker.pause)
        if rule.ejection is not None:
            after = ejection.failed(self.errors, now, rule.ejection.errors, rule.ejection.time)
            self.errors = after if may_eject or after.until <= now else self.errors

    def undecided(self) -> None:
        """The request that was on its way has ended without a verdict."""
        self.breaker = breaker.undecided(self.breaker)

    def lease_at_once(self) -> Lease | None:
        """A place for one request, if one is free."""
        limit = self.rule.breaker.max_connections
        if limit is None or (self.active < limit and not self._waiting):
            self.active += 1
            return Lease(self)
        return None

    def line_up(self) -> Future[None]:
        """Stand in line for a place; it is taken when the future is done. Raises SourceError where the line is too long."""
        rule = self.rule.breaker
        if len(self._waiting) >= rule.max_pending:
            raise overloaded(f"{rule.max_connections} requests are under way, and {len(self._waiting)} wait")
        turn: Future[None] = get_running_loop().create_future()
        self._waiting.append(turn)
        return turn

    def step_out(self, turn: Future[None]) -> None:
        """Nobody waits for `turn` any more; a place that it has brought is free again."""
        if turn.done() and not turn.cancelled():
            self.release()
        elif turn in self._waiting:
            # Where a place became free meanwhile, it has been passed over.
            self._waiting.remove(turn)

    def release(self) -> None:
        """One request has ended: its place is the next one's who waits, if there is one and the rule still has room."""
        limit = self.rule.breaker.max_connections
        if limit is None or self.active <= limit:
            while self._waiting:
                turn = self._waiting.popleft()
                if not turn.done():
                    turn.set_result(None)
                    return
        self.active -= 1


class Lease:
    """One place at an origin. `release` gives it back; so does the end of a lease that nobody holds any more."""

    __slots__ = ("_member",)

    def __init__(self, member: Member) -> None:
        self._member: Member | None = member

    def release(self) -> None:
        member, self._member = self._member, None
        if member is not None:
            member.release()

    def __del__(self) -> None:
        self.release()


def overloaded(detail: str) -> SourceError:
    return SourceError(Culprit.ORIGIN, "overloaded", detail, status=503, retry=True)
