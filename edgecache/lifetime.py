"""From start to end of the process that leads an edge: signals, reloading, and handing everything over to a newer program.

`cli.serve` calls `run`; what an edge is made of is `edge`'s. SIGTERM and SIGINT end it, SIGHUP has it read its configuration
again, SIGUSR2 starts the program anew and lets that take over.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from edgecache.config import Config
from edgecache.control.state import StateError
from edgecache.edge import Edge
from edgecache.heap import Heap
from edgecache.processes import announce, descriptors
from edgecache.processes.entry import prepare
from edgecache.processes.settings import divided
from edgecache.processes.takeover import UPGRADE_SECONDS, Able, Accepting, Faded, Successor, TakeoverFailed, Yours, predecessor

_log: Final = logging.getLogger(__name__)
_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
Read = Callable[[], Config]
"""Gives the configuration as it is now; raises FormError."""


async def run(config: Config, read: Read | None = None, pidfile: Path | None = None) -> int:
    """Serve until SIGTERM or SIGINT, or until a successor does; the exit code.

    A second signal does not wait for requests in flight. Raises what `Edge.start` raises.
    """
    prepare()
    descriptors.allow(descriptors.wanted(divided(config)))
    loop = asyncio.get_running_loop()
    stop, reload, upgrade = asyncio.Event(), asyncio.Event(), asyncio.Event()
    for number in _STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    loop.add_signal_handler(signal.SIGHUP, reload.set)
    loop.add_signal_handler(signal.SIGUSR2, upgrade.set)
    before = await predecessor()
    edge = Edge(config)
    leads = True
    try:
        starting = asyncio.ensure_future(edge.start(before))
        waiting = asyncio.ensure_future(stop.wait())
        await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            served, control = starting.result()
            announce.ready(pidfile)
            scheme = "http" if config.control.tls_certificate is None else "https"
            also = f" and https://{edge.secure}" if edge.secure else ""
            print(f"edgecache: serving on http://{served}{also}, control on {scheme}://{control}", flush=True)
            if not edge.has_sites:
                _log.warning("nothing is served until a site is declared under `sites`, or added with `edgecache site add`")
            keeping = loop.create_task(Heap().keep())
            changing = loop.create_task(_change(edge, read, reload, upgrade))
            await asyncio.wait((waiting, changing), return_when=asyncio.FIRST_COMPLETED)
            changing.cancel()
            keeping.cancel()
            leads = True not in await asyncio.gather(changing, return_exceptions=True)
        starting.cancel()
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await starting
    finally:
        for number in _STOP_SIGNALS:
            loop.remove_signal_handler(number)
        if leads:
            announce.ended(pidfile)
        if before is not None:
            before.close()
        await edge.close()
    return 0


async def _change(edge: Edge, read: Read | None, reload: asyncio.Event, upgrade: asyncio.Event) -> bool:
    """Reloads and upgrades, one after another; True when a successor serves."""
    asked = {reload: asyncio.ensure_future(reload.wait()), upgrade: asyncio.ensure_future(upgrade.wait())}
    try:
        while True:
            await asyncio.wait(asked.values(), return_when=asyncio.FIRST_COMPLETED)
            event = upgrade if upgrade.is_set() else reload
            event.clear()
            asked[event] = asyncio.ensure_future(event.wait())
            try:
                if event is reload:
                    await edge.reload(read)
                elif await _upgrade(edge):
                    return True
            except Exception:
                _log.exception("this edge goes on as it was")
    finally:
        for waiting in asked.values():
            waiting.cancel()


async def _upgrade(edge: Edge) -> bool:
    """Whether a successor has taken over. Where it has not, all is as it was."""
    successor = Successor()
    given = False
    try:
        async with asyncio.timeout(UPGRADE_SECONDS):
            await successor.start(edge.inherit())
            await successor.stream.hear(Able)
            given = True
            await edge.give_away()
            successor.stream.say(Yours())
            await successor.stream.hear(Accepting)
    except (TakeoverFailed, TimeoutError, OSError, StateError) as error:
        reason = str(error) or f"it did not serve within {UPGRADE_SECONDS:g} s"
        _log.error("the new process did not take over, this one goes on: %s", reason)
        await successor.kill()
        if given:
            await edge.take_back()
        return False
    except BaseException:
        await successor.kill()
        raise
    await edge.fade()
    successor.stream.say(Faded())
    return True
