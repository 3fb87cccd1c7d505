"""A serving process: does what its leader says over the channel, and serves clients. Holds no state that outlives it.

`python -m edgecache.processes FD` runs it on an inherited Unix stream. When the leader goes, it stops accepting,
finishes and ends: a purge could no longer reach it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import signal
import socket
from collections.abc import Coroutine
from typing import Any, Final

from edgecache.heap import Heap
from edgecache.observe.otlp import PackagesMissing
from edgecache.policy.purging import Purge
from edgecache.processes import messages
from edgecache.processes.channel import Channel
from edgecache.processes.claims import Claims
from edgecache.processes.flight_board import FlightBoard
from edgecache.processes.path import RequestPath
from edgecache.processes.remote_guests import RemoteGuests, leader_gone
from edgecache.processes.sockets import close_all, inherited
from edgecache.serve.accepting.certificates import CertificateError
from edgecache.serve.purging.purger import not_recorded
from edgecache.sites import Site, SiteTable
from edgecache.source import SourceError

_log: Final = logging.getLogger(__name__)
_LEADERS_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2)
"""A terminal and a service manager send them to all processes of an edge: the leader says what is to be done."""

_FAREWELL_SECONDS: Final = 5.0


class Serving:
    """Make it on the loop that runs it; `run` until it is told to drain."""

    def __init__(self) -> None:
        self._table = SiteTable()
        self._sites: dict[str, Site] = {}
        self._path: RequestPath | None = None
        self._sockets: tuple[dict[int, socket.socket], dict[int, socket.socket]] = ({}, {})
        self._draining = asyncio.Event()
        self._refused = False
        self._serials = itertools.count(1)
        self._asked: dict[int, asyncio.Future[int]] = {}
        self._channel = Channel(messages.TO_SERVING, messages.TO_SERVING_BYTES, self._receive, self._lost)
        self._guests = RemoteGuests(self._channel.send)
        self._claims = Claims(self._channel.send)
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.Lock()

    async def run(self, channel: socket.socket) -> int:
        """Serve until drained; the exit code."""
        for number in _LEADERS_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        self._start(Heap().keep())
        await self._channel.connected(channel)
        await self._draining.wait()
        path = self._path
        if path is not None:
            async with self._accepting:
                await path.accept_at({}, {})
            for places in self._sockets:
                close_all(places.values())
            await path.drain()
            await path.close()
            self._channel.send(messages.Told(0, path.report()))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._guests.close()
        self._channel.close()
        await self._channel.ended(_FAREWELL_SECONDS)
        return 1 if self._refused else 0

    # Implements serve.forgetting.Siblings.

    async def purge(self, purge: Purge) -> int:
        """Put it in force in all processes, through the leader. Raises SourceError."""
        serial = next(self._serials)
        return await self._ask(serial, messages.AskPurge(serial, purge))

    async def invalidate(self, uris: tuple[str, ...]) -> None:
        self._claims.seal(uris)
        serial = next(self._serials)
        try:
            await self._ask(serial, messages.AskInvalidate(serial, uris))
        except SourceError as error:
            _log.info("other processes were not told: %s", error)

    async def _ask(self, serial: int, message: messages.AskPurge | messages.AskInvalidate) -> int:
        if self._channel.lost:
            raise leader_gone()
        waiting = self._asked[serial] = asyncio.get_running_loop().create_future()
        self._channel.send(message)
        try:
            count: int = await waiting
        finally:
            self._asked.pop(serial, None)
        return count

    def _lost(self) -> None:
        self._guests.lose()
        self._claims.lose()
        for waiting in self._asked.values():
            if not waiting.done():
                waiting.set_exception(leader_gone())
        self._draining.set()

    def _receive(self, message: Any) -> None:
        """What is done at once, and then told, is `_do`'s."""
        match message:
            case messages.Output() | messages.Ended() | messages.Fetch():
                self._guests.receive(message)
            case messages.Claimed() | messages.Awaited() | messages.Whose():
                self._claims.receive(message)
            case messages.PurgeStored():
                self._claims.seal()
                self._start(self._purge(message))
            case messages.Accept():
                self._start(self._accept(message))
            case messages.Tell():
                self._channel.send(messages.Told(message.serial, self._built.report()))
            case messages.Forgotten():
                self._forgotten(message)
            case messages.Begin():
                self._begin(message)
            case messages.Fade():
                self._start(self._fade(message))
            case messages.Drain():
                self._draining.set()
            case _:
                self._done(message.serial, self._do(message))

    def _forgotten(self, message: messages.Forgotten) -> None:
        waiting = self._asked.get(message.serial)
        if waiting is None or waiting.done():
            return
        if message.failure:
            waiting.set_exception(not_recorded(message.failure))
        else:
            waiting.set_result(message.count)

    def _do(self, message: Any) -> str:
        """Do what can be done at once. Returns why it could not be, or an empty text."""
        match message:
            case messages.Publish():
                self._publish(message)
            case messages.Invalidate():
                self._claims.seal(message.uris)
                for uri in message.uris:
                    self._built.pipeline.invalidate(uri)
            case messages.Reopen():
                return self._reopened()
            case messages.Apply():
                return self._applied(message)
            case _:
                raise TypeError(f"unknown message {message!r}")
        return ""

    @property
    def _built(self) -> RequestPath:
        if self._path is None:
            raise RuntimeError("the leader's first message must be Begin")
        return self._path

    def _done(self, serial: int, failure: str = "") -> None:
        self._channel.send(messages.Done(serial, failure))

    def _begin(self, message: messages.Begin) -> None:
        self._sites = {site.name: site for site in message.sites}
        self._table.replace(self._sites.values())
        self._sockets = (dict(enumerate(inherited(message.plain))), dict(enumerate(inherited(message.secure))))
        try:
            if message.board is not None:
                self._claims.board = FlightBoard(message.number, message.board)
                os.close(message.board)
            self._path = RequestPath(message.settings, self._table, self._guests, self, self._claims)
            self._path.read_keys()
        except (OSError, CertificateError, PackagesMissing) as error:
            self._refuse(str(error))
            return
        self._start(self._prepare(self._path))

    async def _prepare(self, path: RequestPath) -> None:
        try:
            await path.start()
        except OSError as error:
            self._refuse(str(error))
            return
        self._channel.send(messages.Prepared())

    def _refuse(self, detail: str) -> None:
        self._refused = True
        self._channel.send(messages.Refused(detail))
        self._draining.set()

    async def _accept(self, message: messages.Accept) -> None:
        plain, secure = self._sockets
        async with self._accepting:
            if self._draining.is_set():
                return
            try:
                await self._built.accept_at(
                    {place: plain[place] for place in message.plain}, {place: secure[place] for place in message.secure}
                )
            except OSError as error:
                self._refuse(str(error))
                return
        self._done(message.serial)

    async def _fade(self, message: messages.Fade) -> None:
        async with self._accepting:
            await self._built.fade(message.grace_seconds)
        self._done(message.serial)

    def _publish(self, message: messages.Publish) -> None:
        for name in message.gone:
            self._sites.pop(name, None)
        self._sites.update({site.name: site for site in message.changed})
        self._table.replace(self._sites.values())

    async def _purge(self, message: messages.PurgeStored) -> None:
        try:
            count = await self._built.pipeline.purge(message.purge, lambda: self._done(message.serial))
        except SourceError as error:
            self._done(message.serial, error.detail or str(error))
            count = 0
        self._channel.send(messages.Counted(message.serial, count))

    def _reopened(self) -> str:
        try:
            self._built.reopen()
        except CertificateError as error:
            return str(error)
        return ""

    def _applied(self, message: messages.Apply) -> str:
        try:
            self._built.change(message.settings)
        except (CertificateError, OSError) as error:
            return str(error)
        return ""

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
