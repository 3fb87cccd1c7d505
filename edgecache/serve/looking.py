"""What the cache has to say to a request without waiting for anybody: its route, and a hit or a plain miss.

`pipeline` has one, and does all that takes longer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from edgecache.policy.esi import is_template
from edgecache.policy.lookup import Fresh, Miss, decide
from edgecache.policy.message import Request
from edgecache.policy.upgrading import asked
from edgecache.sites import Route, SiteSnapshot, SiteTable
from edgecache.store import Entry, Store

_ROUTES: Final = 1024
"""Authorities whose routes are remembered."""


class Hit(NamedTuple):
    """A stored response about to answer; seconds."""

    entry: Entry
    age: float
    lifetime_left: float
    now: float
    route: Route


class Missed(NamedTuple):
    """Nothing is stored for the request."""

    decision: Miss
    route: Route


class Looker:
    """Looks requests up in one store."""

    def __init__(
        self,
        *,
        sites: SiteTable,
        store: Store,
        clock: Callable[[], float],
        prefetch: Callable[[Request, Route, Entry, float], None],
    ) -> None:
        """`prefetch` is told of hits on routes that want it."""
        self._sites = sites
        self._store = store
        self._clock = clock
        self._prefetch = prefetch
        self._snapshot: SiteSnapshot | None = None
        self._routes: dict[str, Route] = {}
        """By authority, of sites without generators, where they do not depend on the path; true to `_snapshot`."""

    def route(self, request: Request) -> Route | None:
        """Where the request belongs. None: no site has its host."""
        snapshot = self._sites.snapshot
        authority = request.authority
        if snapshot is not self._snapshot:
            self._snapshot = snapshot
            self._routes.clear()
        known = self._routes.get(authority)
        if known is not None:
            return known
        route = snapshot.route(authority, request.target.partition("?")[0])
        if route is not None and not route.site.generators:
            if len(self._routes) >= _ROUTES:
                self._routes.clear()
            self._routes[authority] = route
        return route

    def stored(self, route: Route, request: Request) -> Entry | None:
        """What is stored, unless it belongs to a site that had this host before."""
        entry = self._store.get(request.uri, request, route.rule)
        return entry if entry is not None and entry.site == route.site.name else None

    def hit(self, request: Request) -> Hit | None:
        """The fresh stored response that answers `request`, if there is one."""
        found = self.look(request)
        return found if isinstance(found, Hit) else None

    def look(self, request: Request) -> Hit | Missed | None:
        """What the store says, where that is plain. None: the request takes the usual way."""
        route = self.route(request)
        if route is None or not route.site.access.open or (route.site.upgrade and asked(request, route.site.upgrade)):
            return None
        entry = self.stored(route, request)
        now = self._clock()
        if entry is None:
            missed = decide(request, None, route.rule, now)
            return Missed(missed, route) if isinstance(missed, Miss) else None
        if route.rule.esi and is_template(entry.timed.response, route.rule):
            return None
        decision = decide(request, entry.timed, route.rule, now, known=entry.terms, marked_stale=entry.marked_stale)
        if not isinstance(decision, Fresh):
            return None
        if route.rule.prefetch:
            self._prefetch(request, route, entry, decision.lifetime_left)
        return Hit(entry, decision.age, decision.lifetime_left, now, route)
