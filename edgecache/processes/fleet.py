"""The serving processes of one edge, as their leader has them: started, told everything that changes, counted, replaced.

`edge` makes one where more than one process serves, else a `one_process`. Whatever `publish`, `purge`, `invalidate` and `apply`
return from is in force in every process that accepts connections: one that does not say so in time is killed, and another begins
with nothing stored.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from socket import socket
from typing import Final

from edgecache.config import Config
from edgecache.observe.metrics import Sources
from edgecache.policy.purging import Purge
from edgecache.processes import messages
from edgecache.processes.backoff import backoff
from edgecache.processes.flight_board import MAX_NUMBER
from edgecache.processes.flight_desk import FlightDesk
from edgecache.processes.guests import GuestHost
from edgecache.processes.messages import Report
from edgecache.processes.reports import Reports
from edgecache.processes.serving_process import COUNT_SECONDS, Asks, ServingProcess, ServingState, StartFailed
from edgecache.processes.settings import divided
from edgecache.processes.sockets import divide
from edgecache.serve.purging.purger import not_recorded
from edgecache.sites import Site, SiteTable

_log: Final = logging.getLogger(__name__)
_REPORT_SECONDS: Final = 2.0
"""How long to wait for a report; without one the last one stands."""
_LOOK_SECONDS: Final = 5.0
"""Between two reports that nobody asks for: what a process counted since the last one is lost when it dies."""
_RECORD_SECONDS: Final = 60.0
"""For a purge, where no serving process lives: until another does and has put it on record."""
_DRAIN_EXTRA_SECONDS: Final = 15.0
"""For ending, beyond the time that requests in flight are given."""


@dataclass(frozen=True, slots=True)
class ProcessState:
    """One place among the serving processes, for status and metrics."""

    name: str
    pid: int
    state: ServingState
    started: float
    restarts: int
    cpu_seconds: float
    requests: int
    connections: int
    stored_bytes: int

    @property
    def serving(self) -> bool:
        return self.state is ServingState.SERVING


class Fleet:
    """Implements `edge.Servers`. Make it on the loop that runs it; `start`, `drain`, `close`. The sockets stay the caller's."""

    def __init__(self, config: Config, table: SiteTable, host: GuestHost) -> None:
        count = config.serve.processes
        self._settings = divided(config)
        self._table = table
        self._host = host
        self._plain: tuple[socket, ...] = ()
        self._secure: tuple[socket, ...] = ()
        self._sites: dict[str, Site] = {}
        """As they were sent last."""
        self._serials = itertools.count(1)
        self._numbers = itertools.cycle(range(1, MAX_NUMBER + 1))
        self._members: list[ServingProcess] = []
        self._flights = FlightDesk(self._members)
        self._asks = Asks(purge=self._purge_asked, invalidate=self._invalidate_asked, flight=self._flights.told)
        self._members += [ServingProcess(slot, next(self._numbers), self._asks, host) for slot in range(count)]
        self._accepting: dict[ServingProcess, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self._restarts = [0] * count
        self._sharing = asyncio.Lock()
        self._serves = asyncio.Event()
        """Set whenever there is one more who serves, or will be none."""
        self._ending = False
        self._tasks: list[asyncio.Task[None]] = []
        self._reports = Reports(lambda: _last_reports(self._members))

    async def start(self, plain: Sequence[socket], secure: Sequence[socket]) -> None:
        """Returns when all of them accept connections at these. Raises StartFailed; drain and close it also then."""
        self._plain, self._secure = tuple(plain), tuple(secure)
        self._sites = {site.name: site for site in self._table.snapshot.sites}
        starting = [self._start(member) for member in self._members]
        failures = [result for result in await asyncio.gather(*starting, return_exceptions=True) if result is not None]
        if failures:
            raise failures[0]
        for member in self._members:
            self._serve(member)
        await self._share_out()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._keep(slot)) for slot in range(len(self._members))]
        self._tasks.append(loop.create_task(self._look()))

    async def publish(self) -> None:
        """What changed in the table of sites, to all."""
        sites = {site.name: site for site in self._table.snapshot.sites}
        changed = tuple(site for name, site in sites.items() if self._sites.get(name) is not site)
        gone = tuple(self._sites.keys() - sites.keys())
        self._sites = sites
        await self._everywhere(lambda serial: messages.Publish(serial, changed, gone))

    async def purge(self, purge: Purge) -> int:
        """Returns how many entries it concerns, in all processes. Raises SourceError: it is not on record on disk."""
        self._flights.seal()
        try:
            async with asyncio.timeout(_RECORD_SECONDS):
                counting = await self._purged(purge)
        except TimeoutError as error:
            raise not_recorded(f"no serving process has put it on record within {_RECORD_SECONDS:g} s") from error
        if not counting:
            return 0
        done, late = await asyncio.wait(counting, timeout=COUNT_SECONDS)
        if late:
            _log.warning("%d serving processes have not counted a purge within %g s", len(late), COUNT_SECONDS)
        counts = [count.result() for count in done]
        # All processes share one disk tier, which has what their memories have.
        return sum(counts) if self._settings.cache.disk is None else max(counts)

    async def _purged(self, purge: Purge) -> list[asyncio.Future[int]]:
        """In force in all who serve, and on record; for each, how many entries it concerns. Raises SourceError.

        Who has died meanwhile may not have put it on record, and who serves only since it was begun may have read from the disk
        what was not on record yet. Who is still starting has nothing stored and answers nobody.
        """
        counting: list[asyncio.Future[int]] = []
        told: set[ServingProcess] = set()
        recorded = self._settings.cache.disk is None
        while (untold := [member for member in self._in(ServingState.SERVING) if member not in told]) or not recorded:
            if not untold:
                if self._ending:
                    raise not_recorded("the edge is ending")
                self._serves.clear()
                await self._serves.wait()
                continue
            told.update(untold)
            message = messages.PurgeStored(next(self._serials), purge)
            counting += await asyncio.gather(*(member.purged(message) for member in untold))
            recorded = recorded or not all(member.ended.is_set() for member in untold)
        return counting

    async def apply(self, config: Config) -> tuple[str, ...]:
        """Have all go on with this, and those that are started later begin with it. Returns what failed, each thing once.

        A `publish` must follow: it makes the fast lanes forget their heads, which were answered and logged under the settings
        before.
        """
        self._settings = settings = divided(config)
        return await self._everywhere(lambda serial: messages.Apply(serial, settings))

    async def reopen(self) -> tuple[str, ...]:
        """Have all open their logs and read the certificates again. Returns what could not be read, each thing once."""
        return await self._everywhere(messages.Reopen)

    async def gather(self) -> None:
        """Have all report, so that what is told of the fleet is of now."""
        await asyncio.gather(
            *(
                member.tell(next(self._serials), _REPORT_SECONDS)
                for member in self._in(ServingState.SERVING, ServingState.DRAINING)
            )
        )

    def sources(self) -> Sources:
        """All processes' figures together, as of the last reports."""
        reports, settings = self._reports, self._settings
        return Sources(
            recorder=reports,
            store=reports.store,
            disk=None if settings.cache.disk is None else reports.disk,
            fast_hits=reports.fast_hits,
            clients=reports.clients,
            origins=reports.origins,
            processes=self.states,
            traces=None if settings.observe.traces is None else reports.traces,
        )

    def states(self) -> tuple[ProcessState, ...]:
        """By place, as of the last reports."""
        return tuple(self._state(member) for member in self._members)

    def status_parts(self) -> dict[str, dict[str, object]]:
        states = self.states()
        each = {
            state.name: {
                "pid": state.pid,
                "state": str(state.state),
                "restarts": state.restarts,
                "requests": state.requests,
                "connections": state.connections,
                "stored_bytes": state.stored_bytes,
                "cpu_seconds": round(state.cpu_seconds, 3),
            }
            for state in states
        }
        serving = sum(state.serving for state in states)
        return {"processes": {"serving": serving, "wanted": len(states), "restarts": sum(self._restarts), "each": each}}

    async def fade(self, grace_seconds: float) -> None:
        """Have all stop accepting, as others go on at the same sockets; no request begins in any of them after this."""
        await self._end_keeping()
        await self._everywhere(lambda serial: messages.Fade(serial, grace_seconds))

    async def drain(self) -> None:
        """Have all finish what they do, within their bounds, and end. Idempotent."""
        await self._end_keeping()
        within = self._settings.serve.drain_timeout + _DRAIN_EXTRA_SECONDS
        await asyncio.gather(*(member.drain(within) for member in self._members if member.pid))

    async def close(self) -> None:
        """After `drain`. Idempotent."""
        self._flights.close()

    async def _end_keeping(self) -> None:
        """Start nobody again from here on."""
        self._ending = True
        self._serves.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        starting = self._in(ServingState.STARTING)
        await asyncio.gather(*(member.kill() for member in starting))

    async def _start(self, member: ServingProcess) -> None:
        """Raises StartFailed."""
        try:
            board = self._flights.board()
        except OSError as error:
            raise StartFailed(f"there is no memory for processes to share: {error}") from error
        sockets = [sock.fileno() for sock in (*self._plain, *self._secure)]
        await member.start(lambda: self._begin(member.number, board), sockets if board is None else [*sockets, board])

    def _begin(self, number: int, board: int | None) -> messages.Begin:
        plain, secure = ([sock.fileno() for sock in socks] for socks in (self._plain, self._secure))
        return messages.Begin(self._settings, tuple(self._sites.values()), tuple(plain), tuple(secure), number, board)

    def _in(self, *states: ServingState) -> list[ServingProcess]:
        return [member for member in self._members if member.state in states]

    async def _everywhere(
        self,
        make: Callable[[int], messages.Publish | messages.Invalidate | messages.Apply | messages.Reopen | messages.Fade],
        but: ServingProcess | None = None,
    ) -> tuple[str, ...]:
        """Tell all but one, and wait until all that accept connections have done it. Returns the failures that they report, each
        once."""
        message = make(next(self._serials))
        for member in self._in(ServingState.STARTING):
            # It will have done it before it is told to accept: the channel keeps the order.
            member.send(message)
        waiting = [member.done(message) for member in self._in(ServingState.SERVING) if member is not but]
        return tuple(dict.fromkeys(failure for failure in await asyncio.gather(*waiting) if failure))

    async def _purge_asked(self, asker: ServingProcess, message: messages.AskPurge) -> int:
        del asker
        return await self.purge(message.purge)

    async def _invalidate_asked(self, asker: ServingProcess, message: messages.AskInvalidate) -> int:
        self._flights.seal(message.uris)
        await self._everywhere(lambda serial: messages.Invalidate(serial, message.uris), asker)
        return 0

    async def _share_out(self) -> None:
        """Give every socket to one who serves; who gains one is told before who loses it."""
        async with self._sharing:
            serving = self._in(ServingState.SERVING)
            slots = [member.slot for member in serving]
            plain, secure = divide(len(self._plain), slots), divide(len(self._secure), slots)
            wanted = {member: (plain[member.slot], secure[member.slot]) for member in serving}
            before, self._accepting = self._accepting, wanted
            changed = [member for member in serving if before.get(member) != wanted[member]]
            changed.sort(key=lambda member: member in before and len(before[member][0]) > len(wanted[member][0]))
            for member in changed:
                await member.done(messages.Accept(next(self._serials), *wanted[member]))

    async def _keep(self, slot: int) -> None:
        """Whenever the process in this place ends, let the others have its connections, and start another."""
        wait = 0.0
        while True:
            member = self._members[slot]
            await member.ended.wait()
            lived = time.time() - member.since
            self._flights.lose(member)
            if member.report is not None:
                self._reports.bury(member.report)
            await asyncio.gather(self._share_out(), member.kill())
            wait = backoff(wait, lived)
            self._restarts[slot] += 1
            how = member.how_it_ended
            _log.error("serving process %d (pid %d) has ended (%s); another is started in %g s", slot + 1, member.pid, how, wait)
            await asyncio.sleep(wait)
            member = self._members[slot] = ServingProcess(slot, next(self._numbers), self._asks, self._host)
            try:
                await self._start(member)
            except StartFailed as error:
                _log.error("serving process %d does not start: %s", slot + 1, error)
                continue
            self._serve(member)
            await self._share_out()

    def _serve(self, member: ServingProcess) -> None:
        member.serve()
        self._serves.set()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            await self.gather()

    def _state(self, member: ServingProcess) -> ProcessState:
        report = member.report
        return ProcessState(
            name=str(member.slot + 1),
            pid=member.pid,
            state=member.state,
            started=member.since,
            restarts=self._restarts[member.slot],
            cpu_seconds=report.cpu_seconds if report else 0.0,
            requests=sum(site.requests for site in report.sites.values()) if report else 0,
            connections=report.connections if report else 0,
            stored_bytes=report.store.used_bytes if report else 0,
        )


def _last_reports(members: Sequence[ServingProcess]) -> list[Report]:
    """Of those that live."""
    return [member.report for member in members if member.report is not None and member.state is not ServingState.ENDED]
