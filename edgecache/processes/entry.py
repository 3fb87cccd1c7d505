"""How a process of the edge begins, whichever it is: its log, its loop. Called by `cli.serve` and by `__main__`."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Coroutine
from typing import Any, Final

_SWITCH_SECONDS: Final = 0.0005
"""How long the access log's thread may keep the event loop from running; Python's default of 5 ms shows in p99 of hits."""


def prepare() -> None:
    """Where warnings go, and how threads take turns."""
    level = logging.DEBUG if os.environ.get("EDGECACHE_DEBUG") else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    sys.setswitchinterval(_SWITCH_SECONDS)


def run_loop(work: Coroutine[Any, Any, int]) -> int:
    """Run `work` on uvloop where there is one; its exit code."""
    try:
        import uvloop  # noqa: PLC0415 (not on every platform)
    except ImportError:
        return asyncio.run(work)
    return int(uvloop.run(work))
