"""A site as the API takes it: JSON members into a `Site`, each checked. Pure; a configuration file's form is in `siteform`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Final, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from edgecache import units
from edgecache.control import words
from edgecache.control.manifest import NAME, NAME_WORDS
from edgecache.control.problems import Code, Problem
from edgecache.policy.access import MAX_NETWORKS, MAX_RATE, AccessRule
from edgecache.policy.coding import Coding
from edgecache.policy.rule import CacheRule
from edgecache.policy.upgrading import Upgradable
from edgecache.siteform import MAX_CAP, MAX_HOSTS, MAX_ORIGINS, MAX_WEIGHT, host_problem, network_problem, origin_problem
from edgecache.sites import Site
from sandbox.limits import Limits

Given = str | UnsetType
T = TypeVar("T", bound=str)
_YEAR_NS: Final = 366 * 86_400 * 10**9


class CacheForm(Struct, forbid_unknown_fields=True):
    """`cache` of a site."""

    default_ttl: str | UnsetType | None = UNSET
    heuristic: bool | UnsetType = UNSET
    stale_while_revalidate: Given = UNSET
    stale_if_error: Given = UNSET
    stale_if_unreachable: Given = UNSET
    vary: list[str] | UnsetType = UNSET
    tags: list[str] | UnsetType = UNSET
    max_object: Given = UNSET
    store_set_cookie: bool | UnsetType = UNSET
    honour_client_reload: bool | UnsetType = UNSET
    compress: list[Coding] | UnsetType = UNSET


class LimitsForm(Struct, forbid_unknown_fields=True):
    """`ceiling` of a site."""

    cpu: Given = UNSET
    wall: Given = UNSET
    memory: Given = UNSET
    output: Given = UNSET
    log: Given = UNSET
    edge_calls: int | UnsetType = UNSET
    sub_requests: int | UnsetType = UNSET
    system_calls: int | UnsetType = UNSET
    boot_cpu: Given = UNSET
    vms: int | UnsetType = UNSET
    queue: int | UnsetType = UNSET


class AccessForm(Struct, forbid_unknown_fields=True):
    """`access` of a site."""

    deny: list[str] | UnsetType = UNSET
    allow: list[str] | UnsetType = UNSET
    purge: list[str] | UnsetType = UNSET
    client_rate: int | UnsetType = UNSET
    client_burst: int | UnsetType = UNSET


class SiteChange(Struct, forbid_unknown_fields=True):
    """What of a site is to be different; that its cluster exists is the caller's to check."""

    hosts: list[str] | UnsetType = UNSET
    origins: list[str] | UnsetType = UNSET
    weight: int | UnsetType = UNSET
    cluster: Given = UNSET
    cap: int | UnsetType | None = UNSET
    cache: CacheForm | UnsetType = UNSET
    access: AccessForm | UnsetType = UNSET
    upgrade: list[Upgradable] | UnsetType = UNSET
    ceiling: LimitsForm | UnsetType = UNSET


class SiteCreate(SiteChange, forbid_unknown_fields=True, kw_only=True):
    """A new site."""

    name: str
    hosts: list[str]
    origins: list[str]


def new_site(form: SiteCreate) -> Site:
    """Raises Problem."""
    if not re.fullmatch(NAME, form.name):
        raise _wrong("$.name", f"must be {NAME_WORDS}, not {form.name[:70]!r}")
    return changed_site(Site(name=form.name, hosts=(), origins=()), form)


def changed_site(site: Site, form: SiteChange) -> Site:
    """`site` with what the form names. Raises Problem."""
    if all(value is UNSET for value in msgspec.structs.asdict(form).values()):
        raise _wrong("$", "names nothing to change")
    if form.hosts is not UNSET:
        hosts = [host.lower() for host in form.hosts]
        site = replace(site, hosts=_listed("$.hosts", hosts, (1, MAX_HOSTS), host_problem))
    if form.origins is not UNSET:
        origins = [origin.removesuffix("/") for origin in form.origins]
        site = replace(site, origins=_listed("$.origins", origins, (0, MAX_ORIGINS), origin_problem))
    if form.weight is not UNSET:
        site = replace(site, weight=checked_weight(form.weight))
    if form.cluster is not UNSET:
        site = replace(site, cluster=form.cluster)
    if form.cap is not UNSET:
        site = replace(site, cap=checked_cap(form.cap))
    if form.cache is not UNSET:
        site = replace(site, rule=_rule(form.cache, site.rule))
    if form.access is not UNSET:
        site = replace(site, access=_access(form.access, site.access))
    if form.upgrade is not UNSET:
        site = replace(site, upgrade=_listed("$.upgrade", form.upgrade, (0, len(Upgradable)), _no_problem))
    if form.ceiling is not UNSET:
        site = replace(site, ceiling=_ceiling(form.ceiling, site.ceiling))
    return site


def checked_weight(weight: int) -> int:
    """Raises Problem."""
    if not 1 <= weight <= MAX_WEIGHT:
        raise _wrong("$.weight", f"must be from 1 to {MAX_WEIGHT}, not {weight}")
    return weight


def checked_cap(cap: int | None) -> int | None:
    """Raises Problem."""
    if cap is not None and not 1 <= cap <= MAX_CAP:
        raise _wrong("$.cap", f"must be from 1 to {MAX_CAP} percent of one CPU, or null, not {cap}")
    return cap


def _rule(form: CacheForm, base: CacheRule) -> CacheRule:
    rule = base
    if form.default_ttl is not UNSET:
        ttl = None if form.default_ttl is None else _seconds("$.cache.default_ttl", form.default_ttl)
        rule = replace(rule, default_ttl=ttl)
    if form.heuristic is not UNSET:
        rule = replace(rule, heuristic=form.heuristic)
    if form.stale_while_revalidate is not UNSET:
        rule = replace(rule, stale_while_revalidate=_seconds("$.cache.stale_while_revalidate", form.stale_while_revalidate))
    if form.stale_if_error is not UNSET:
        rule = replace(rule, stale_if_error=_seconds("$.cache.stale_if_error", form.stale_if_error))
    if form.stale_if_unreachable is not UNSET:
        rule = replace(rule, stale_if_unreachable=_seconds("$.cache.stale_if_unreachable", form.stale_if_unreachable))
    if form.vary is not UNSET:
        rule = replace(rule, vary=_listed("$.cache.vary", form.vary, (0, words.MAX_LIST), _field_problem))
    if form.tags is not UNSET:
        rule = replace(rule, tags=_listed("$.cache.tags", form.tags, (0, words.MAX_LIST), _tag_problem))
    if form.max_object is not UNSET:
        rule = replace(rule, max_object_bytes=_measured("$.cache.max_object", form.max_object, units.parse_size))
    if form.store_set_cookie is not UNSET:
        rule = replace(rule, store_set_cookie=form.store_set_cookie)
    if form.honour_client_reload is not UNSET:
        rule = replace(rule, honour_client_reload=form.honour_client_reload)
    if form.compress is not UNSET:
        rule = replace(rule, compress=_listed("$.cache.compress", form.compress, (0, len(Coding)), _no_problem))
    return rule


def _access(form: AccessForm, base: AccessRule) -> AccessRule:
    rule = base
    if form.deny is not UNSET:
        rule = replace(rule, deny=_listed("$.access.deny", form.deny, (0, MAX_NETWORKS), network_problem))
    if form.allow is not UNSET:
        rule = replace(rule, allow=_listed("$.access.allow", form.allow, (0, MAX_NETWORKS), network_problem))
    if form.purge is not UNSET:
        rule = replace(rule, purge=_listed("$.access.purge", form.purge, (0, MAX_NETWORKS), network_problem))
    if form.client_rate is not UNSET:
        rule = replace(rule, client_rate=_rate("$.access.client_rate", form.client_rate))
    if form.client_burst is not UNSET:
        rule = replace(rule, client_burst=_rate("$.access.client_burst", form.client_burst))
    return rule


def _rate(where: str, value: int) -> int:
    if not 0 <= value <= MAX_RATE:
        raise _wrong(where, f"must be from 0 to {MAX_RATE}, not {value}")
    return value


def _ceiling(form: LimitsForm, base: Limits) -> Limits:
    given = {word: value for word, value in msgspec.structs.asdict(form).items() if value is not UNSET}
    try:
        ceiling = words.take_limits(given, base, "$.ceiling")
    except ValueError as error:
        where, _, message = str(error).partition(": ")
        raise _wrong(where, message) from error
    if ceiling.wall_ns < ceiling.cpu_ns:
        raise _wrong("$.ceiling.wall", "is below cpu: no request could ever use its CPU time")
    if ceiling.edge_calls < ceiling.sub_requests:
        raise _wrong("$.ceiling.edge_calls", "is below sub_requests: each sub-request is an edge call")
    return ceiling


def _listed(where: str, items: list[T], size: tuple[int, int], problem: Callable[[T], str | None]) -> tuple[T, ...]:
    low, high = size
    if not low <= len(items) <= high:
        raise _wrong(where, f"must hold {low} to {high} values, not {len(items)}")
    for index, item in enumerate(items):
        said = problem(item) if len(item) <= 1024 else "is longer than 1024 characters"
        if said is not None:
            raise _wrong(f"{where}[{index}]", said)
    if len(set(items)) < len(items):
        raise _wrong(where, "names a value twice")
    return tuple(items)


def _no_problem(_word: Coding | Upgradable) -> None:
    """The decoder has looked: the shape names the words."""


def _field_problem(text: str) -> str | None:
    return None if re.fullmatch(words.FIELD_NAME, text) else f"{text[:60]!r} is not a header field's name"


def _tag_problem(text: str) -> str | None:
    return None if re.fullmatch(words.TAG, text) else f"{text[:60]!r} must be 1 to 200 of visible ASCII without a comma"


def _seconds(where: str, text: str) -> float:
    value = _measured(where, text, units.parse_duration)
    if value > _YEAR_NS:
        raise _wrong(where, "must be at most 366d")
    return value / 10**9


def _measured(where: str, text: str, parse: Callable[[str], int]) -> int:
    try:
        return parse(text)
    except units.UnitError as error:
        raise _wrong(where, str(error)) from error


def _wrong(where: str, message: str) -> Problem:
    return Problem(Code.BAD_REQUEST, f"{where}: {message}", "correct the body; /v1/openapi.json says what is right", where=where)
