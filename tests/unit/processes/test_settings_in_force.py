"""No setting is forgotten at a reload: each is in force afterwards wherever it is held, or named as one that stays."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from edgecache.config import Address, CacheSettings, Config, TlsSettings
from edgecache.observe.settings import LogSettings, ObserveSettings, TraceSettings
from edgecache.processes.path import RequestPath
from edgecache.processes.reload import reloaded
from edgecache.processes.remote_guests import RemoteGuests
from edgecache.processes.settings import undivided
from edgecache.serve.accepting.certificates import CertificateFiles
from edgecache.sites import SiteTable
from edgecache.store.disk import DiskSettings

CERTIFICATE = CertificateFiles((), Path("a.pem"), Path("a.key"))
RUNNING = Config(
    tls=TlsSettings(listen=Address("127.0.0.1", 8443), certificates=(CERTIFICATE,)),
    cache=CacheSettings(disk=DiskSettings(path=Path("cache"), capacity_bytes=1 << 30)),
    log=LogSettings(access=Path("access.log")),
    observe=ObserveSettings(traces=TraceSettings(endpoint="http://collector.test")),
)
"""Nothing in it is None that can be something."""
DECLARED = {"source", "sites", "clusters", "control.config_file"}
"""Where the file is, and what `control` takes from it."""
OTHERS: Mapping[str, object] = {
    "proxies": ("10.0.0.0/8",),
    "tls.proxies": ("10.0.0.0/8",),
    "tls.certificates": (CERTIFICATE, CertificateFiles((), Path("b.pem"), Path("b.key"))),
    "control.tls_certificate": Path("c.pem"),
    "control.tls_key": Path("c.key"),
    "sandbox.jail.required": frozenset(),
    "log.format": "text",
    "log.sample_sites": {"shop": 0.5},
}
"""Other values of settings that `other` cannot make any of."""


def other(name: str, value: object) -> Any:
    """Another value of the setting `name`."""
    if name in OTHERS:
        return OTHERS[name]
    match value:
        case bool():
            return not value
        case enum.Enum():
            return next(member for member in type(value) if member is not value)
        case int():
            return value + 1
        case float():
            return value / 2 + 0.01
        case str():
            return value + "x"
        case Path():
            return value.with_name(value.name + "2")
    raise AssertionError(f"{name} is {value!r}: add another value of it to OTHERS")


def settings(value: Any, prefix: str = "") -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """The name of each setting in `value`, and what gives `value` another of it."""
    for field in fields(value):
        name = prefix + field.name
        held = getattr(value, field.name)
        if name in DECLARED:
            continue
        if is_dataclass(held):
            for below, change in settings(held, name + "."):
                yield below, lambda given, key=field.name, change=change: replace(given, **{key: change(getattr(given, key))})
        else:
            yield name, lambda given, key=field.name, name=name: replace(given, **{key: other(name, getattr(given, key))})


CHANGES = dict(settings(RUNNING))


@pytest.mark.parametrize("name", CHANGES)
def test_a_setting_that_is_not_taken_is_named(name: str) -> None:
    read = CHANGES[name](RUNNING)
    assert read != RUNNING
    config, kept = reloaded(RUNNING, read)
    assert (config == RUNNING) if kept else (config == read)


def held(value: object, name: str, found: dict[str, object], seen: set[int]) -> None:
    """Into `found`: every plain value that can be reached from `value` through the edge's own objects, by the way there."""
    if value is None or isinstance(value, bool | int | float | str | bytes | Path | enum.Enum):
        found[name] = value
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, tuple | list):
        for place, item in enumerate(value):
            held(item, f"{name}[{place}]", found, seen)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            held(item, f"{name}[{key!r}]", found, seen)
    elif (owner := getattr(value, "__self__", None)) is not None:
        held(owner, f"{name}()", found, seen)
    elif type(value).__module__.startswith("edgecache."):
        for attribute in attributes(value):
            held(getattr(value, attribute, None), f"{name}.{attribute}", found, seen)


def attributes(value: object) -> list[str]:
    names = dict.fromkeys(getattr(value, "__dict__", ()))
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        names |= dict.fromkeys((slots,) if isinstance(slots, str) else slots)
        names |= dict.fromkeys(kind.__dict__.get("__mypyc_attrs__", ()))
    return [name for name in names if not name.startswith("__")]


async def reached(first: Config, then: Config | None = None) -> dict[str, object]:
    """What a path holds that was made with `first`, and changed to `then`."""
    path = RequestPath(undivided(first), SiteTable(), RemoteGuests(lambda message: None))
    try:
        if then is not None:
            path.change(undivided(then))
        found: dict[str, object] = {}
        held(path, "path", found, set())
        return found
    finally:
        await path.drain()
        await path.close()


async def test_a_path_that_was_changed_holds_what_one_does_that_was_made_so(tmp_path: Path) -> None:
    running = replace(RUNNING, log=replace(RUNNING.log, access=tmp_path / "access.log"), tls=None)
    running = replace(running, cache=replace(running.cache, disk=None), observe=ObserveSettings())
    read = running
    for name, change in CHANGES.items():
        if not name.startswith(("tls.", "cache.disk.", "observe.")):
            read = change(read)
    read, _ = reloaded(running, read)
    made, again, changed = await reached(read), await reached(read), await reached(running, read)
    assert len(made) > 200
    of_the_moment = {name for name in made if made[name] != again.get(name)}
    wrong = {name: value for name, value in changed.items() if made.get(name) != value and name not in of_the_moment}
    assert wrong == {}
