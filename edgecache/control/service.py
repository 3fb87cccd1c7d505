"""The control API as a running thing: state opened, sites published, listener bound; and all of it closed again.

The one place where the room's parts are wired. `edge` makes a Control, and asks it for what the request path needs of it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Final, NoReturn, Protocol

from aiohttp import web

from edgecache.control.answering import ControlRunner
from edgecache.control.api.routes import build_control
from edgecache.control.api.services import Rooms, Services
from edgecache.control.bundle.bundles import BundleStore
from edgecache.control.clusters import Clusters, ClusterShares
from edgecache.control.database.sqlite_state import DATABASE, SqliteState
from edgecache.control.listening.binding import check_bind
from edgecache.control.listening.idling import IdleWatch
from edgecache.control.listening.tls_listener import TlsListener
from edgecache.control.logs import GuestLogs
from edgecache.control.publishing.deploy import Deployer, Verifier
from edgecache.control.publishing.publisher import Publisher
from edgecache.control.publishing.registry import Registrar, Registry
from edgecache.control.settings import ControlSettings
from edgecache.control.state import Failure, StateError
from edgecache.control.tokens import OPERATOR_FILE, Tokens
from edgecache.control.values import StoredValues
from edgecache.policy.purging import Purge
from edgecache.sites import Cluster, Site, SiteTable

_log: Final = logging.getLogger(__name__)
_SHUTDOWN_SECONDS: Final = 10.0
BUNDLES: Final = "bundles"


class Sandbox(Verifier, Registrar, ClusterShares, Protocol):
    """What is used of `sandbox.Monitor`."""


async def _nothing() -> None:
    return


class Control:
    """The operator's and the owners' way in. All methods on one event loop."""

    def __init__(
        self,
        settings: ControlSettings,
        *,
        table: SiteTable,
        sandbox: Sandbox,
        purge: Callable[[Purge], Awaitable[int]],
        config_sites: Iterable[Site] = (),
        config_clusters: Iterable[Cluster] = (),
        published: Callable[[], Awaitable[None]] = _nothing,
        rooms: Rooms | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Publishes `config_sites` to `table` at once; nothing else happens before `load`.

        `published` is awaited after each change of `table`, before the API answers.
        """
        self._settings = settings
        self._state = SqliteState(settings)
        self._bundles = BundleStore(settings.state_dir / BUNDLES)
        self._registry = Registry(sandbox, self._bundles)
        self._publisher = Publisher(self._state, table, self._registry, config_sites, published)
        self._clusters = Clusters(self._state, sandbox, config_clusters)
        self._tokens = Tokens(self._state, now)
        self._runner: web.AppRunner | None = None
        self._watch: asyncio.Task[NoReturn] | None = None
        self.logs: Final = GuestLogs(settings.logs, now)
        """Where generators' log lines go: `logs.of(site, generator)`."""
        self.values: Final = StoredValues(self._state)
        """Generators' stored values."""
        self._deployer = Deployer(
            state=self._state, bundles=self._bundles, publisher=self._publisher, verifier=sandbox, settings=settings, now=now
        )
        self._services = Services(
            settings=settings,
            state=self._state,
            tokens=self._tokens,
            publisher=self._publisher,
            clusters=self._clusters,
            deployer=self._deployer,
            logs=self.logs,
            purge=purge,
            rooms=rooms or Rooms(),
            now=now,
            started=now(),
        )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on, once started."""
        if self._runner is None or not self._runner.addresses:
            raise RuntimeError("the control API is not listening")
        host, port = self._runner.addresses[0][:2]
        return str(host), int(port)

    async def load(self) -> None:
        """Open state, publish sites. Without usable state it says so, and serves what the configuration declares.

        Raises StateError (another edge runs with this state).
        """
        self._clusters.apply_declared()
        settings = self._settings
        try:
            lost = _was_lost(settings.state_dir)
            await self._state.open()
            self._bundles.prepare()
            await self._tokens.load()
            written = await self._tokens.ensure_operator(settings.state_dir)
            await self._clusters.load()
            await self._publisher.load()
            await self._deployer.collect()
        except (StateError, OSError) as error:
            if isinstance(error, StateError) and error.failure is Failure.IN_USE:
                raise
            _log.error("the control API refuses changes until a restart with usable state (`state:`, --state): %s", error)
            return
        if written is not None and lost:
            _log.error(
                "the state in %s is empty, though this is no first start: what was added through the API is gone, tokens too. "
                "Put a copy of state.sqlite back while the edge is stopped, or go on with the operator's new token in %s",
                settings.state_dir,
                written,
            )
        elif written is not None:
            _log.warning("first start: the operator's token is in %s", written)
        for message in await self._registry.preload(settings.preload):
            _log.error("a generator cannot run: %s", message)

    async def listen(self, socks: Iterable[socket.socket] = ()) -> None:
        """Answer the API's requests, at these listening sockets where there are any, which stay the caller's.

        Raises BindRefused, OSError (the port is taken).
        """
        tls = check_bind(self._settings)
        runner = ControlRunner(
            build_control(self._services),
            access_log=None,
            handle_signals=False,
            keepalive_timeout=self._settings.idle_seconds,
            shutdown_timeout=_SHUTDOWN_SECONDS,
            auto_decompress=False,
        )
        await runner.setup()
        self._runner = runner
        try:
            listeners = [self._listener(runner, tls, sock.dup()) for sock in socks]
            for listener in listeners or [self._listener(runner, tls)]:
                await listener.start()
        except BaseException:
            await self.close()
            raise
        server, settings = runner.server, self._settings
        if server is not None:
            watch = IdleWatch(server, idle_seconds=settings.idle_seconds, most=settings.connections)
            self._watch = asyncio.get_running_loop().create_task(watch.run())

    def _listener(self, runner: web.AppRunner, tls: ssl.SSLContext | None, sock: socket.socket | None = None) -> web.BaseSite:
        """What aiohttp calls a site."""
        settings = self._settings
        if tls is not None:
            return TlsListener(runner, tls, host=settings.host, port=settings.port, sock=sock, most=settings.connections)
        return web.TCPSite(runner, settings.host, settings.port) if sock is None else web.SockSite(runner, sock)

    async def redeclare(self, sites: Iterable[Site], clusters: Iterable[Cluster]) -> None:
        """Take these in place of what the configuration declared before. Raises StateError, and nothing is changed."""
        async with self._clusters.redeclared(clusters):
            await self._publisher.redeclare(sites)

    async def give_away(self) -> None:
        """Finish the requests at hand, answer no more, and let another edge open the state. Raises StateError."""
        await self._end_answering()
        await self._state.give_away()

    async def take_back(self, socks: Iterable[socket.socket]) -> None:
        """After `give_away`: the other edge did not come to be. Raises StateError, OSError."""
        await self._state.take_back()
        await self.listen(socks)

    async def _end_answering(self) -> None:
        if self._watch is not None:
            watch, self._watch = self._watch, None
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()

    async def close(self) -> None:
        """Finish the requests at hand, then close state. Idempotent."""
        await self._end_answering()
        self._registry.close()
        await self._state.close()

    def knows(self, key: str) -> bool:
        """Whether `ensure` has nothing to do."""
        return self._registry.knows(key)

    async def ensure(self, key: str) -> bool:
        """Whether the monitor knows the version `key` now: what state held at start is registered when it is first needed.

        Call it before `Monitor.call`. Quick when it is known. Raises BundleError where the bundle is missing or damaged.
        """
        return await self._registry.ensure(key)


def _was_lost(state_dir: Path) -> bool:
    """Whether the database is absent or empty in a directory that an edge has had its state in. Raises OSError."""
    database = state_dir / DATABASE
    return (state_dir / OPERATOR_FILE).exists() and not (database.exists() and database.stat().st_size)
