"""A site as the API takes it: JSON members into a `Site`, each checked. Pure.

A configuration file's form is read by `configsites`; the checks of single values that both share are `siteform`'s.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final, TypeVar

import msgspec
from msgspec import UNSET, Struct, UnsetType

from edgecache import units
from edgecache.control import upstreamwords, words
from edgecache.control.bundle.manifest import NAME, NAME_WORDS
from edgecache.control.problems import Code, Problem
from edgecache.policy.access import MAX_NETWORKS, MAX_RATE, AccessRule
from edgecache.policy.coding import Coding
from edgecache.policy.prefetch import DEFAULT_SHARE, MAX_SHARE
from edgecache.policy.rule import CacheRule
from edgecache.policy.upgrading import Upgradable
from edgecache.siteform import (
    MAX_CAP,
    MAX_HOSTS,
    MAX_ORIGINS,
    MAX_WEIGHT,
    MOST_GENERATORS,
    host_problem,
    lowered,
    network_problem,
)
from edgecache.sites import Site
from sandbox import Limits

Given = str | UnsetType
T = TypeVar("T", bound=str)
V = TypeVar("V")
_YEAR_NS: Final = 366 * 86_400 * 10**9


class CacheForm(Struct, forbid_unknown_fields=True):
    """`cache` of a site."""

    default_ttl: str | UnsetType | None = UNSET
    heuristic: bool | UnsetType = UNSET
    stale_while_revalidate: Given = UNSET
    stale_if_error: Given = UNSET
    stale_if_unreachable: Given = UNSET
    prefetch: bool | float | UnsetType = UNSET
    vary: list[str] | UnsetType = UNSET
    tags: list[str] | UnsetType = UNSET
    max_object: Given = UNSET
    store_set_cookie: bool | UnsetType = UNSET
    honour_client_reload: bool | UnsetType = UNSET
    forward_ranges: bool | UnsetType = UNSET
    esi: bool | UnsetType = UNSET
    esi_undeclared: bool | UnsetType = UNSET
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
    output_rate: Given = UNSET
    log_rate: Given = UNSET
    edge_call_rate: int | UnsetType = UNSET
    sub_request_rate: int | UnsetType = UNSET
    rate_burst: Given = UNSET
    cpu_share: int | UnsetType = UNSET


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
    origins: list[str | dict[str, Any]] | UnsetType = UNSET
    weight: int | UnsetType = UNSET
    cluster: Given = UNSET
    cap: int | UnsetType | None = UNSET
    upstream: dict[str, Any] | UnsetType = UNSET
    cache: CacheForm | UnsetType = UNSET
    access: AccessForm | UnsetType = UNSET
    upgrade: list[Upgradable] | UnsetType = UNSET
    ceiling: LimitsForm | UnsetType = UNSET
    max_generators: int | UnsetType = UNSET


class SiteCreate(SiteChange, forbid_unknown_fields=True, kw_only=True):
    """A new site."""

    name: str
    hosts: list[str]
    origins: list[str | dict[str, Any]]


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
        hosts = [lowered(host) for host in form.hosts]
        site = replace(site, hosts=_listed("$.hosts", hosts, (1, MAX_HOSTS), host_problem))
    if form.origins is not UNSET:
        site = _with_origins(site, form.origins)
    if form.upstream is not UNSET:
        site = replace(site, upstream=_said(upstreamwords.take_upstream, form.upstream, site.upstream, "$.upstream"))
    if form.cache is not UNSET:
        site = replace(site, rule=_rule(form.cache, site.rule))
    if form.access is not UNSET:
        site = replace(site, access=_access(form.access, site.access))
    if form.upgrade is not UNSET:
        site = replace(site, upgrade=_listed("$.upgrade", form.upgrade, (0, len(Upgradable)), _no_problem))
    return _granted(site, form)


def _granted(site: Site, form: SiteChange) -> Site:
    """`site` with what the form says of the machine's part that its generators get. Raises Problem."""
    if form.weight is not UNSET:
        site = replace(site, weight=checked_weight(form.weight))
    if form.cluster is not UNSET:
        site = replace(site, cluster=form.cluster)
    if form.cap is not UNSET:
        site = replace(site, cap=checked_cap(form.cap))
    if form.ceiling is not UNSET:
        site = replace(site, ceiling=_ceiling(form.ceiling, site.ceiling))
    if form.max_generators is not UNSET:
        if not 0 <= form.max_generators <= MOST_GENERATORS:
            raise _wrong("$.max_generators", f"must be from 0 to {MOST_GENERATORS}, not {form.max_generators}")
        site = replace(site, max_generators=form.max_generators)
    return site


def _with_origins(site: Site, given: list[str | dict[str, Any]]) -> Site:
    found = [_said(upstreamwords.take_origin, origin, f"$.origins[{index}]") for index, origin in enumerate(given)]
    urls = _listed("$.origins", [origin.url for origin in found], (0, MAX_ORIGINS), lambda _url: None)
    special = tuple(origin for origin in found if not upstreamwords.plain(origin))
    return replace(site, origins=urls, upstream=replace(site.upstream, origins=special))


def _said(take: Callable[..., V], *arguments: object) -> V:
    """What `take` makes of JSON. Raises Problem in place of its ValueError, which begins with the member's place."""
    try:
        return take(*arguments)
    except ValueError as error:
        where, _, message = str(error).partition(": ")
        raise _wrong(where, message) from error


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


_PERIODS: Final = ("stale_while_revalidate", "stale_if_error", "stale_if_unreachable")
_YES_OR_NO: Final = ("heuristic", "store_set_cookie", "honour_client_reload", "forward_ranges", "esi", "esi_undeclared")


def _rule(form: CacheForm, base: CacheRule) -> CacheRule:
    given: dict[str, Any] = {word: said for word in _YES_OR_NO if (said := getattr(form, word)) is not UNSET}
    if form.default_ttl is not UNSET:
        given["default_ttl"] = None if form.default_ttl is None else _seconds("$.cache.default_ttl", form.default_ttl)
    for name in _PERIODS:
        if (period := getattr(form, name)) is not UNSET:
            given[name] = _seconds(f"$.cache.{name}", period)
    if form.prefetch is not UNSET:
        given["prefetch"] = _prefetch(form.prefetch)
    if form.vary is not UNSET:
        given["vary"] = _listed("$.cache.vary", form.vary, (0, words.MAX_LIST), _field_problem)
    if form.tags is not UNSET:
        given["tags"] = _listed("$.cache.tags", form.tags, (0, words.MAX_LIST), _tag_problem)
    if form.max_object is not UNSET:
        given["max_object_bytes"] = _measured("$.cache.max_object", form.max_object, units.parse_size)
    if form.compress is not UNSET:
        given["compress"] = _listed("$.cache.compress", form.compress, (0, len(Coding)), _no_problem)
    return replace(base, **given)


def _prefetch(value: bool | float) -> float:
    share = DEFAULT_SHARE * value if isinstance(value, bool) else value
    if not 0 <= share <= MAX_SHARE:
        raise _wrong("$.cache.prefetch", f"must be true, false, or a number from 0 to {MAX_SHARE:g}, not {value}")
    return share


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
    ceiling = _said(words.take_limits, given, base, "$.ceiling")
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
