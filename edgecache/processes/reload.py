"""What of a configuration that was read again can be put in force while the edge runs, and what cannot. Pure; `edge` does it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Final

from edgecache.config import Config

FIXED: Final[dict[str, Callable[[Config], Any]]] = {
    "listen": lambda c: (c.listen, c.proxies),
    "tls.listen": lambda c: None if c.tls is None else (c.tls.listen, c.tls.proxies),
    "tls.http2": lambda c: c.tls is not None and c.tls.http2,
    "state": lambda c: c.state_dir,
    "control": lambda c: dataclasses.replace(c.control, config_file=None),
    "cache.admission": lambda c: c.cache.admission,
    "cache.disk": lambda c: c.cache.disk,
    "observe": lambda c: c.observe,
    "sandbox": lambda c: c.sandbox,
    "serve.processes": lambda c: c.serve.processes,
    "serve.backlog": lambda c: c.serve.backlog,
    "serve.edge_id": lambda c: c.serve.edge_id,
    "serve.fast_lane_heads": lambda c: c.serve.fast_lane_heads,
    "serve.fast_lane_memory": lambda c: c.serve.fast_lane_bytes,
    "upstream.predictor_capacity": lambda c: c.upstream.predictor_capacity,
    "upstream.predictor_ttl": lambda c: c.upstream.predictor_ttl,
}
"""By key of the file: what is made once, when a process starts."""

Named = tuple[str, ...]


def reloaded(running: Config, read: Config) -> tuple[Config, Named]:
    """`read`, with what cannot be changed as it is in `running`, and the keys for which that makes a difference."""
    kept = tuple(key for key, value in FIXED.items() if value(running) != value(read))
    before, serve, upstream = running.serve, read.serve, read.upstream
    tls = running.tls
    if tls is not None and read.tls is not None:
        tls = dataclasses.replace(tls, certificates=read.tls.certificates)
    return (
        dataclasses.replace(
            read,
            listen=running.listen,
            proxies=running.proxies,
            tls=tls,
            state_dir=running.state_dir,
            cache=dataclasses.replace(read.cache, admission=running.cache.admission, disk=running.cache.disk),
            control=running.control,
            sandbox=running.sandbox,
            observe=running.observe,
            serve=dataclasses.replace(
                serve,
                processes=before.processes,
                backlog=before.backlog,
                edge_id=before.edge_id,
                fast_lane_heads=before.fast_lane_heads,
                fast_lane_bytes=before.fast_lane_bytes,
            ),
            upstream=dataclasses.replace(
                upstream,
                predictor_capacity=running.upstream.predictor_capacity,
                predictor_ttl=running.upstream.predictor_ttl,
            ),
        ),
        kept,
    )
