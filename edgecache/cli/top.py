"""`edgecache top`: what the edge does now, asked for again and again. `screen` says what is seen of it."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, Final

import click

from edgecache.cli.client import ControlClient, Json
from edgecache.cli.errors import CommandFailed
from edgecache.cli.options import WholeNumber, with_client
from edgecache.cli.screen import screen

_EVERYTHING: Final = 10_000
_WIDE: Final = 200
"""Columns of a file or a pipe."""


@click.command()
@click.option(
    "--every", type=click.FloatRange(0.2, 60), default=1.0, show_default=True, metavar="SECONDS", help="Between two looks"
)
@click.option("--times", type=WholeNumber(1), help="Print so many looks, one after the other, and stop")
@with_client
def top(client: ControlClient, every: float, times: int | None) -> None:
    """Watch the edge, live: what it answers, and who gets its CPU. Ctrl-C ends.

    PROMISED and RECEIVED are parts of the CPU time given out in the last ten seconds: what weights and caps entitle to, among
    those that competed, and what came of it. CPU is in percent of one core; rates are per second, since the last look.
    """
    from rich.console import Console  # noqa: PLC0415 (slow to import)

    console = Console(highlight=False, file=sys.stdout)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = _WIDE
    try:
        if times is None and console.is_terminal:
            _live(client, console, every)
        else:
            _printed(client, console, every, times)
    except KeyboardInterrupt:
        return


def _printed(client: ControlClient, console: Any, every: float, times: int | None) -> None:
    before: Json | None = None
    looks = 0
    while times is None or looks < times:
        if looks:
            time.sleep(every)
            console.print()
        now = client.get("status")
        console.print(screen(now, before, console.width, _EVERYTHING))
        before, looks = now, looks + 1


def _live(client: ControlClient, console: Any, every: float) -> None:
    """Until Ctrl-C. An edge that stops answering, as in an upgrade, is asked on, and the last screen stays."""
    from rich.console import Group  # noqa: PLC0415 (as above)
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    before: Json | None = None
    now = client.get("status")
    trouble = ""
    with Live(console=console, auto_refresh=False, screen=True) as live:
        while True:
            room = console.height - (1 if trouble else 0)
            drawn = screen(now, before, console.width, room)
            warning = Text(f"{trouble}; asking on", style="bold red", no_wrap=True, overflow="ellipsis")
            live.update(Group(warning, drawn) if trouble else drawn, refresh=True)
            time.sleep(every)
            try:
                found = client.get("status")
            except CommandFailed as error:
                trouble = error.message
                continue
            # An edge that was started anew has counted nothing yet.
            before, now, trouble = (None if found["uptime_seconds"] < now["uptime_seconds"] else now), found, ""
