"""A request that is on its way to an origin, on a kept connection, while no task waits for it: its response, if it comes whole,
is given to whoever began it. Where it comes otherwise, `origins` goes on with it as with any other.

`beginning` makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from edgecache.policy.message import Request, Response
from edgecache.source import Source, Whole
from edgecache.upstream.choosing.member import Lease, Member
from edgecache.upstream.choosing.pool import Pool
from edgecache.upstream.choosing.retrying import retriable_status
from edgecache.upstream.deadlines import Deadline
from edgecache.upstream.http1.kept import KeptConnections
from edgecache.upstream.http1.whole import WholeResponse

if TYPE_CHECKING:
    from aiohttp.client_reqrep import ConnectionKey

    from edgecache.upstream.http1.origin_protocol import OriginProtocol

REQUEST_TIMEOUT: Final = 408


class SentRequest:
    """A request written to a kept connection, which nobody else has until `taken` or `dropped`."""

    __slots__ = ("_deadline", "_kept", "_key", "_protocol", "_told", "whole")

    def __init__(
        self,
        kept: KeptConnections,
        key: ConnectionKey,
        protocol: OriginProtocol,
        deadline: Deadline,
        told: Callable[[], None],
    ) -> None:
        """`told` is called once: all of the response is there as `whole`, or what there is must be waited for in a task."""
        self._kept = kept
        self._key = key
        self._protocol: OriginProtocol | None = protocol
        self._deadline = deadline
        self._told: Callable[[], None] | None = told
        self.whole: WholeResponse | None = None
        protocol.intake.heard = self._hear

    def _hear(self, whole: WholeResponse | None) -> None:
        told, self._told = self._told, None
        protocol = self._protocol
        if whole is not None and protocol is not None:
            self.whole = whole
            self._protocol = None
            self._deadline.cancel()
            protocol.on_interim = None
            self._kept.give_back(self._key, protocol)
        if told is not None:
            told()

    def taken(self) -> tuple[OriginProtocol, Deadline] | None:
        """Hand the connection and the deadline of the wait on it over to the caller; None: it is over."""
        protocol, self._protocol = self._protocol, None
        if protocol is None:
            return None
        protocol.intake.heard = None
        return protocol, self._deadline

    def dropped(self) -> None:
        """Nobody wants the response. Idempotent."""
        self._told = None
        taken = self.taken()
        if taken is not None:
            protocol, deadline = taken
            deadline.cancel()
            protocol.on_interim = None
            self._kept.give_back(self._key, protocol, close=True)


class BegunExchange:
    """One request to one of a site's origins, counted as under way. A `source.Begun`."""

    __slots__ = ("_go_on", "lease", "member", "order", "over", "pool", "request", "sent")

    def __init__(
        self,
        go_on: Callable[[BegunExchange], Source],
        request: Request,
        sent: SentRequest,
        *,
        pool: Pool,
        member: Member,
        order: Sequence[Member],
        lease: Lease,
    ) -> None:
        """`go_on` gives its `rest`; `order`: the origins that may be asked after `member`."""
        self._go_on = go_on
        self.request = request
        self.pool = pool
        self.member = member
        self.order = order
        self.lease = lease
        self.sent = sent
        self.over = False
        """Made use of, by `settle` or a fetch, or dropped."""

    def whole(self) -> Whole | None:
        """As `Begun.whole`; None also where another origin may be asked instead, or the same one once more."""
        whole = self.sent.whole
        if (
            whole is None
            or whole.status == REQUEST_TIMEOUT
            or (self.order and retriable_status(self.pool.rule.retries, self.request.method, whole.status, 0))
        ):
            return None
        return Whole(Response(whole.status, whole.reason, whole.headers), whole.body)

    def settle(self) -> None:
        whole = self.sent.whole
        if whole is not None and not self.over:
            self.over = True
            self.pool.judge(self.member, whole.status)
            self.lease.release()

    def drop(self) -> None:
        if not self.over:
            self.over = True
            self.sent.dropped()
            self.member.undecided()
            self.lease.release()

    def rest(self) -> Source:
        return self._go_on(self)
