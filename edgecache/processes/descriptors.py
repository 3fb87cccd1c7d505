"""How many files this process may have open: what its connections need, as far as it may allow itself. `lifetime` asks once,
before anything is opened; serving processes inherit the limit.
"""

from __future__ import annotations

import logging
import resource
from typing import Final

from edgecache.processes.settings import PathSettings

_log: Final = logging.getLogger(__name__)
_OF_THE_EDGE: Final = 512
"""Segments of the disk tier, listeners, the database, workers of the sandbox, the event loop."""


def wanted(settings: PathSettings) -> int:
    """What one serving process with these settings may have open: a WebSocket's two ends are counted among the connections."""
    return settings.serve.max_connections + settings.upstream.max_connections + settings.serve.tunnels_per_site + _OF_THE_EDGE


def allow(count: int) -> None:
    """Raise the soft limit to the hard one, as getrlimit(2) lets everybody do; a warning where that is less than `count`.

    The soft limit is 1024 in most environments, for the sake of select(2), which nothing here uses. Beyond the limit the event
    loop closes what connects, without a word.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in (soft, resource.RLIM_INFINITY):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    if soft != resource.RLIM_INFINITY and soft < count:
        _log.warning(
            "%d files may be open, and serve.max_connections, serve.tunnels_per_site and upstream.max_connections need %d: "
            "connections beyond them are closed. Raise the limit (LimitNOFILE= of systemd, ulimit -n), or lower those",
            soft,
            count,
        )
