"""Requests begun on kept connections, in one compiled call: whose turn it is, its place, its connection, the bytes.

`origins` has one for its site; what has been begun is `begun`'s.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgecache.policy.message import Request
from edgecache.source import Interim, Source
from edgecache.upstream.choosing.member import Member
from edgecache.upstream.choosing.pool import Pool
from edgecache.upstream.deadlines import Deadlines
from edgecache.upstream.endpoint import Endpoint
from edgecache.upstream.http1.begun import BegunExchange, SentRequest
from edgecache.upstream.http1.kept import KeptConnections
from edgecache.upstream.http1.request_head import encode_request, is_bodiless

if TYPE_CHECKING:
    from edgecache.upstream.http1.way import Way


class Kit:
    """What it takes to begin a request: the kept connections, and what aiohttp's parser and the deadlines need to await an
    answer."""

    __slots__ = ("deadlines", "expecting", "kept", "way")

    def __init__(
        self, kept: KeptConnections, deadlines: Deadlines, expecting: dict[str, Any], way: Callable[[Endpoint], Way]
    ) -> None:
        """`way`: how an endpoint without TLS rules of its own is reached."""
        self.kept = kept
        self.deadlines = deadlines
        self.expecting = expecting
        self.way = way


class Beginner:
    """Begins requests to the origins of one site."""

    def __init__(self, kit: Kit, pool: Pool, first_byte: float, go_on: Callable[[BegunExchange], Source]) -> None:
        """`first_byte`: seconds that a response may take to begin; `go_on`: see `BegunExchange`."""
        self._kit = kit
        self._pool = pool
        self._first_byte = first_byte
        self._go_on = go_on
        self._ways: dict[Member, Way] = {}

    def begin(self, request: Request, told: Callable[[], None], on_interim: Interim) -> BegunExchange | None:
        """As `Source.begin`: on a kept connection, to the origin whose turn it is."""
        pool = self._pool
        if pool.rule.hedge is not None:
            return None
        order = pool.turn(request, self._at_once)
        if not order:
            return None
        member = order[0]
        lease = member.lease_at_once()
        if lease is None:
            return None
        sent = self._send(member, request, told, on_interim)
        if sent is None:
            lease.release()
            return None
        pool.budget.asked()
        member.sent()
        return BegunExchange(self._go_on, request, sent, pool=pool, member=member, order=order[1:], lease=lease)

    def _at_once(self, member: Member) -> bool:
        """Whether it would be asked without waiting, most likely."""
        return not member.full and member.waiting == 0 and self._kit.kept.any(self._way(member).connection_key)

    def _way(self, member: Member) -> Way:
        way = self._ways.get(member)
        if way is None:
            way = self._ways[member] = self._kit.way(member.endpoint)
        return way

    def _send(self, member: Member, request: Request, told: Callable[[], None], on_interim: Interim) -> SentRequest | None:
        """Send a GET without a body, where there is a kept connection."""
        endpoint = member.endpoint
        if endpoint.own_tls or endpoint.proxy_protocol or not is_bodiless(request):
            return None
        kit, way = self._kit, self._way(member)
        key = way.connection_key
        if not kit.kept.any(key):
            return None
        try:
            head = encode_request(request, way.host)
        except ValueError:
            return None
        protocol = kit.kept.take(key)
        transport = None if protocol is None else protocol.transport
        if protocol is None or transport is None:
            return None
        protocol.on_interim, protocol.trailers = on_interim, None
        protocol.expect(kit.expecting)
        sent = SentRequest(kit.kept, key, protocol, kit.deadlines.begin(self._first_byte, protocol.give_up), told)
        transport.write(head)
        return sent
