"""What lies between a miss and the store, put together: asking, judging, keeping, and the flights that share it among requests.

`pipeline` makes one and chooses among its ways. Decides nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from edgecache.observe.record import Record
from edgecache.serve.call import Call
from edgecache.serve.elsewhere import Elsewhere
from edgecache.serve.misses.asking import Asker
from edgecache.serve.misses.errand import Errands
from edgecache.serve.misses.fetching import Fetcher
from edgecache.serve.misses.flying import Flyer
from edgecache.serve.misses.keeping import Keeper
from edgecache.serve.misses.long_bodies import LongBodies
from edgecache.serve.respond import Responder
from edgecache.serve.settings import ServeSettings
from edgecache.sites import Site
from edgecache.source import Source
from edgecache.store import Store
from edgecache.upstream.flights.collapse import Flights
from edgecache.upstream.flights.predictor import Predictor
from edgecache.upstream.settings import UpstreamSettings


class Sourcing:
    """The parts of one process: `asker` asks, `keeper` stores, `flyer` and `errands` are a miss's two ways."""

    def __init__(
        self,
        *,
        store: Store,
        origins: Callable[[Site], Source],
        generators: Callable[[Call], Source],
        clock: Callable[[], float],
        settings: ServeSettings,
        upstream: UpstreamSettings,
        respond: Responder,
        report: Callable[[Record], None],
        elsewhere: Elsewhere | None,
    ) -> None:
        predictor = Predictor(upstream.predictor_capacity, upstream.predictor_ttl)
        self.flights = Flights(upstream)
        self.asker = Asker(
            origins=origins, generators=generators, clock=clock, settings=settings, replay_bytes=upstream.replay_bytes
        )
        self.keeper = Keeper(store, settings, clock)
        self.long_bodies = LongBodies(store, self.keeper)
        self.fetcher = Fetcher(
            store=store,
            asker=self.asker,
            keeper=self.keeper,
            long_bodies=self.long_bodies,
            clock=clock,
            predictor=predictor,
            elsewhere=elsewhere,
        )
        self.flyer = Flyer(
            flights=self.flights,
            fetcher=self.fetcher,
            asker=self.asker,
            store=store,
            predictor=predictor,
            clock=clock,
            respond=respond,
        )
        self.errands = Errands(
            origins=origins,
            generators=generators,
            flights=self.flights,
            fetcher=self.fetcher,
            keeper=self.keeper,
            long_bodies=self.long_bodies,
            store=store,
            predictor=predictor,
            report=report,
            clock=clock,
            settings=settings,
            respond=respond,
            elsewhere=elsewhere,
        )

    def change(self, settings: ServeSettings, upstream: UpstreamSettings, respond: Responder) -> None:
        """Go on with these; a request under way may see both."""
        self.flyer.respond = self.errands.respond = respond
        self.asker.settings = self.keeper.settings = self.errands.settings = settings
        self.asker.replay_bytes = upstream.replay_bytes
        self.flights.change(upstream)
