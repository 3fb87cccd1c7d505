"""An edge's one process as the one that serves: monitor, control API and the path of a request side by side.

`edge` makes one where no other process is to serve, else a `fleet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from socket import socket
from typing import Final

from edgecache.config import Config
from edgecache.observe.metrics import Sources
from edgecache.policy.purging import Purge
from edgecache.processes.guests import GuestHost, LocalGuests
from edgecache.processes.path import RequestPath
from edgecache.processes.settings import undivided
from edgecache.serve.accepting.certificates import CertificateError
from edgecache.sites import SiteTable


class OneProcess:
    """Implements `edge.Servers`. Make it on the loop that runs it; `start`, `drain`, `close`."""

    def __init__(self, config: Config, table: SiteTable, host: GuestHost) -> None:
        """Raises OSError: the access log cannot be opened; PackagesMissing: traces cannot be sent."""
        self.path: Final = RequestPath(undivided(config), table, LocalGuests(host))

    async def start(self, plain: Sequence[socket], secure: Sequence[socket]) -> None:
        """Raises OSError, CertificateError."""
        await self.path.start()
        await self.path.accept_at(dict(enumerate(plain)), dict(enumerate(secure)))

    async def publish(self) -> None:
        """Requests are routed by the table itself."""

    async def purge(self, purge: Purge) -> int:
        return await self.path.pipeline.purge(purge)

    async def apply(self, config: Config) -> tuple[str, ...]:
        try:
            self.path.change(undivided(config))
        except (CertificateError, OSError) as error:
            return (str(error),)
        return ()

    async def reopen(self) -> tuple[str, ...]:
        try:
            self.path.reopen()
        except CertificateError as error:
            return (str(error),)
        return ()

    async def gather(self) -> None:
        """What is counted here is of now."""

    def sources(self) -> Sources:
        path = self.path
        return Sources(
            recorder=path.recorder,
            store=path.memory.stats,
            disk=None if path.disk is None else path.disk.stats,
            fast_hits=lambda: path.pipeline.fast_hits,
            clients=path.clients,
            origins=path.upstreams.figures,
            traces=path.exporter,
        )

    def status_parts(self) -> dict[str, dict[str, object]]:
        return {}

    async def fade(self, grace_seconds: float) -> None:
        await self.path.fade(grace_seconds)

    async def drain(self) -> None:
        await self.path.drain()

    async def close(self) -> None:
        await self.path.close()
