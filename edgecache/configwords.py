"""The keys of a configuration file's sections: which field each fills, how it is read, and what it may hold.

Tables and the one function that obeys them; the fields and their defaults are the rooms' own. Called by `config`.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final, TypeVar

from edgecache.configpage import read_error_page
from edgecache.store import AdmissionPolicy
from edgecache.store.disk.settings import MIN_BYTES
from edgecache.yamlform import FormError, Node, Problems
from sandbox import Isolation, Layer

S = TypeVar("S")
Reader = Callable[[Node], Any]
Table = Mapping[str, tuple[str, Reader]]
"""Key of the file to field of the settings, and the reader that raises FormError."""

ENGINES: Final = ("auto", "unicorn", "kvm")


def fill(node: Node | None, base: S, table: Table, problems: Problems) -> S:
    """`base` with what the section names; unknown keys and wrong values go to `problems`."""
    if node is None or node.null:
        return base
    problems.check(lambda: node.mapping(table))
    return fill_part(node, base, table, problems)


def fill_part(node: Node, base: S, table: Table, problems: Problems) -> S:
    """Like `fill`, for one of several values that a section fills: keys that are not in `table` are left to the caller."""
    entries: Mapping[str, Node] = node.value if isinstance(node.value, Mapping) else {}
    changes: dict[str, Any] = {}
    for key, value in entries.items():
        if key in table:
            name, reader = table[key]
            changes[name] = problems.attempt(partial(reader, value), getattr(base, name))
    return dataclasses.replace(base, **changes)  # type: ignore[type-var]


def _layers(node: Node) -> frozenset[Layer]:
    return frozenset(item.enum(Layer) for item in node.sequence(0, len(Layer)))


def _count(low: int, high: int) -> Reader:
    return lambda node: node.integer(low, high)


def _size(low: int, high: int) -> Reader:
    return lambda node: node.size(low, high)


def _time(low: float, high: float) -> Reader:
    return lambda node: node.seconds(low, high)


def _share(low: float, high: float) -> Reader:
    return lambda node: node.number(low, high)


def _shares_by_name(node: Node) -> Mapping[str, float]:
    return {name: share.number(0.0, 1.0) for name, share in node.entries().items()}


def _duration(low_ns: int, high_ns: int) -> Reader:
    return lambda node: node.duration(low_ns, high_ns)


def _edge_id(node: Node) -> str:
    return node.text(pattern=r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,62}", allowed="a name of up to 63 letters, digits, -, _ and .")


MAX_PROCESSES: Final = 256


def read_processes(node: Node) -> int:
    """`auto` is one process a core that this one may use. Raises FormError."""
    if node.value == "auto":
        return min(MAX_PROCESSES, len(os.sched_getaffinity(0)))
    try:
        return node.integer(1, MAX_PROCESSES)
    except FormError as error:
        raise node.error(f"must be auto or a whole number from 1 to {MAX_PROCESSES}") from error


_KIB: Final = 1 << 10
_MIB: Final = 1 << 20
_GIB: Final = 1 << 30
_TIB: Final = 1 << 40
_DAY: Final = 86_400.0

CACHE: Final[Table] = {
    "memory": ("memory_bytes", _size(_MIB, 16 * _TIB)),
    "max_variants": ("max_variants", _count(1, 10_000)),
    "admission": ("admission", lambda node: node.enum(AdmissionPolicy)),
    "max_entry_share": ("max_entry_share", _share(0.001, 1.0)),
}
DISK: Final[Table] = {
    "bytes": ("capacity_bytes", _size(MIN_BYTES, 1024 * _TIB)),
    "large": ("large_bytes", _size(64 * _KIB, _GIB)),
    "queue": ("queue_bytes", _size(_MIB, 16 * _GIB)),
}
MONITOR: Final[Table] = {
    "engine": ("engine", lambda node: node.choice(ENGINES)),
    "isolation": ("isolation", lambda node: node.enum(Isolation)),
    "verifications": ("verifications", _count(1, 64)),
}
JAIL: Final[Table] = {"require_jail": ("required", _layers), "worker_nice": ("nice", _count(0, 19))}
DISPATCH: Final[Table] = {
    "workers": ("slots", _count(1, 1024)),
    "slice": ("slice_ns", _duration(100_000, 10**9)),
    "least_slice": ("least_slice_ns", _duration(100_000, 10**9)),
    "round": ("round_ns", _duration(10**6, 10 * 10**9)),
    "express": ("express", _count(0, 1024)),
    "credit": ("credit_ns", _duration(0, 10**9)),
    "least_charge": ("least_charge_ns", _duration(0, 10**7)),
    "undelivered": ("undelivered_bytes", _size(4 * _KIB, 64 * _MIB)),
    "reader_timeout": ("reader_s", _time(1, 3600)),
    "edge_call_timeout": ("edge_call_s", _time(0.1, 600)),
    "hang_cpu": ("hang_cpu_ns", _duration(10**6, 60 * 10**9)),
    "hang_wall": ("hang_wall_s", _time(1, 600)),
}
POOL: Final[Table] = {
    "max_workers": ("max_workers", _count(1, 100_000)),
    "hot_memory": ("hot_bytes", _size(64 * _MIB, 16 * _TIB)),
    "site_hot_memory": ("site_hot_bytes", _size(64 * _MIB, 16 * _TIB)),
    "worker_idle": ("idle_s", _time(1, _DAY)),
}
QUARANTINE: Final[Table] = {
    "threshold": ("threshold", _count(1, 1_000_000)),
    "first": ("first_s", _time(0.1, _DAY)),
    "longest": ("longest_s", _time(0.1, _DAY)),
    "forget": ("forget_s", _time(1, 30 * _DAY)),
}
SERVE: Final[Table] = {
    "max_target": ("max_target_bytes", _size(256, _MIB)),
    "max_head": ("max_head_bytes", _size(_KIB, 16 * _MIB)),
    "max_fields": ("max_fields", _count(8, 10_000)),
    "max_body": ("max_body_bytes", _size(0, 16 * _TIB)),
    "head_timeout": ("head_timeout", _time(0.1, 3600)),
    "body_timeout": ("body_timeout", _time(0.1, 3600)),
    "body_rate": ("body_rate", _size(1, _GIB)),
    "keepalive_timeout": ("keepalive_timeout", _time(0.1, 3600)),
    "write_timeout": ("write_timeout", _time(0.1, 3600)),
    "write_rate": ("write_rate", _size(1, _GIB)),
    "drain_timeout": ("drain_timeout", _time(0, 3600)),
    "linger_timeout": ("linger_timeout", _time(0, 60)),
    "max_connections": ("max_connections", _count(1, 10_000_000)),
    "backlog": ("backlog", _count(1, 65_535)),
    "read_buffer": ("read_buffer_bytes", _size(4 * _KIB, 64 * _MIB)),
    "h2c": ("h2c", lambda node: node.boolean()),
    "http2_streams": ("http2_streams", _count(1, 10_000)),
    "http2_window": ("http2_window_bytes", _size(64 * _KIB, _GIB)),
    "tunnels_per_site": ("tunnels_per_site", _count(0, 1_000_000)),
    "tunnel_idle_timeout": ("tunnel_idle_timeout", _time(0.1, _DAY)),
    "edge_id": ("edge_id", _edge_id),
    "max_loops": ("max_loops", _count(0, 100)),
    "max_ranges": ("max_ranges", _count(1, 1000)),
    "error_page": ("error_page", read_error_page),
    "fast_lane_heads": ("fast_lane_heads", _count(0, 10_000_000)),
    "fast_lane_memory": ("fast_lane_bytes", _size(0, 16 * _TIB)),
    "processes": ("processes", read_processes),
}
UPSTREAM: Final[Table] = {
    "connect_timeout": ("connect_timeout", _time(0.01, 600)),
    "first_byte_timeout": ("first_byte_timeout", _time(0.01, 3600)),
    "between_bytes_timeout": ("between_bytes_timeout", _time(0.01, 3600)),
    "max_connections": ("max_connections", _count(1, 1_000_000)),
    "max_connections_per_origin": ("max_connections_per_origin", _count(1, 100_000)),
    "keepalive_timeout": ("keepalive_timeout", _time(0.1, 3600)),
    "dns_ttl": ("dns_ttl", _time(0, _DAY)),
    "dns_keep": ("dns_keep", _time(0, 30 * _DAY)),
    "ejection_failures": ("ejection_failures", _count(1, 1000)),
    "ejection_time": ("ejection_time", _time(0.01, 3600)),
    "health_checks": ("health_checks", _count(0, 1_000_000)),
    "max_head_line": ("max_head_line_bytes", _size(_KIB, 16 * _MIB)),
    "max_head_fields": ("max_head_fields", _count(8, 10_000)),
    "read_buffer": ("read_buffer_bytes", _size(4 * _KIB, 64 * _MIB)),
    "replay": ("replay_bytes", _size(0, 64 * _MIB)),
    "flight_buffer": ("flight_buffer_bytes", _size(_MIB, 16 * _TIB)),
    "flight_window": ("flight_window_bytes", _size(64 * _KIB, _GIB)),
    "finish_without_clients_share": ("finish_without_clients_share", _share(0.0, 1.0)),
    "predictor_capacity": ("predictor_capacity", _count(1, 10_000_000)),
    "predictor_ttl": ("predictor_ttl", _time(0, _DAY)),
    "background_limit": ("background_limit", _count(1, 100_000)),
}
LOG: Final[Table] = {
    "format": ("format", lambda node: node.choice(("json",))),
    "queue": ("queue", _count(100, 10_000_000)),
    "query": ("query", lambda node: node.boolean()),
    "uri_chars": ("uri_chars", _count(64, 65_536)),
    "sample": ("sample", _share(0.0, 1.0)),
    "sample_sites": ("sample_sites", _shares_by_name),
    "slow": ("slow_seconds", _time(0.001, 3600)),
}
TRACES: Final[Table] = {
    "sample": ("sample", _share(0.0, 1.0)),
    "follow_clients": ("follow_clients", lambda node: node.boolean()),
    "hits_per_second": ("hits_per_second", _count(0, 100_000)),
    "service": ("service", _edge_id),
    "queue": ("queue", _count(100, 1_000_000)),
    "timeout": ("timeout_seconds", _time(0.1, 60)),
}
METRICS: Final[Table] = {"public": ("metrics_public", lambda node: node.boolean())}
CONTROL: Final[Table] = {
    "body": ("body_bytes", _size(_KIB, 16 * _MIB)),
    "body_timeout": ("body_seconds", _time(1, 3600)),
    "state_timeout": ("state_seconds", _time(0.1, 600)),
    "verify_timeout": ("verify_seconds", _time(1, 3600)),
    "pushes_at_once": ("pushes_at_once", _count(1, 64)),
    "versions_kept": ("versions_kept", _count(1, 10_000)),
    "rollback_depth": ("rollback_depth", _count(0, 1_000)),
    "generators_per_site": ("generators_per_site", _count(0, 100_000)),
    "sites": ("sites", _count(1, 1_000_000)),
    "clusters": ("clusters", _count(1, 100_000)),
    "tokens": ("tokens", _count(1, 1_000_000)),
    "preload": ("preload", _count(0, 100_000)),
}
BUNDLES: Final[Table] = {
    "upload": ("upload_bytes", _size(_KIB, _GIB)),
    "uncompressed": ("uncompressed_bytes", _size(_KIB, 4 * _GIB)),
    "files": ("files", _count(2, 100_000)),
    "path": ("path_bytes", _count(16, 4095)),
    "depth": ("depth", _count(1, 64)),
    "site": ("site_bytes", _size(_MIB, 1024 * _GIB)),
}
LOGS: Final[Table] = {
    "lines": ("lines", _count(10, 1_000_000)),
    "memory": ("bytes", _size(4 * _KIB, _GIB)),
    "line": ("line_bytes", _size(80, _MIB)),
    "generators": ("generators", _count(1, 1_000_000)),
}
VALUES: Final[Table] = {
    "key": ("key_bytes", _size(1, 64 * _KIB)),
    "value": ("value_bytes", _size(1, 64 * _MIB)),
    "total": ("total_bytes", _size(_KIB, _TIB)),
    "entries": ("entries", _count(1, 100_000_000)),
}
