"""The `sites` section of a configuration file, read into `sites.Site` values, and what must hold between them.

Pure: no file and no network is touched. Called by `config`; the checks of single values are `siteform`'s.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

from edgecache.control import upstreamwords, words
from edgecache.control.bundle.manifest import NAME, NAME_WORDS
from edgecache.policy.access import MAX_NETWORKS, MAX_RATE, OPEN, AccessRule
from edgecache.policy.coding import Coding
from edgecache.policy.prefetch import DEFAULT_SHARE, MAX_SHARE
from edgecache.policy.rule import DEFAULT_RULE, CacheRule
from edgecache.policy.upgrading import Upgradable
from edgecache.policy.upstream import DEFAULT_UPSTREAM, Origin, UpstreamRule
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
from edgecache.sites import DEFAULT_MAX_GENERATORS, Cluster, Site
from edgecache.yamlform import FormError, Node, Problem, Problems
from sandbox import DEFAULT_CLUSTER, DEFAULT_LIMITS, Limits

MAX_SITES: Final = 10_000
MAX_CLUSTERS: Final = 1_000

_OPERATORS_CACHE_WORDS: Final = (
    "prefetch",
    "store_set_cookie",
    "honour_client_reload",
    "forward_ranges",
    "esi",
    "esi_undeclared",
    "compress",
)
_SHARE_KEYS: Final = ("weight", "cluster", "cap", "limits", "max_generators")
_KEYS: Final = ("name", "hosts", "origins", "upstream", "cache", "access", "upgrade", *_SHARE_KEYS)
_ACCESS_KEYS: Final = ("deny", "allow", "purge", "client_rate", "client_burst")
_NOTHING_ELSE: Final[tuple[Upgradable, ...]] = ()
_NOTHING: Final[tuple[Node, ...]] = ()
_REQUIRED: Final = ("name", "hosts", "origins")


def read_sites(node: Node, problems: Problems, directory: Path = Path()) -> tuple[Site, ...]:
    """The sites of the section; paths start at `directory`. What is wrong goes to `problems`, with a site left out or in part."""
    nodes = problems.attempt(partial(node.sequence, 0, MAX_SITES), _NOTHING)
    pairs = [(site_node, _read_site(site_node, problems, directory)) for site_node in nodes]
    _check_unique([(n, site) for n, site in pairs if site is not None], problems)
    return tuple(site for _, site in pairs if site is not None)


def read_clusters(node: Node, problems: Problems) -> tuple[Cluster, ...]:
    """The clusters of the section."""
    found: dict[str, Cluster] = {}
    for item in problems.attempt(partial(node.sequence, 0, MAX_CLUSTERS), _NOTHING):
        try:
            form = item.mapping(("name", "weight", "cap"), ("name",))
            name = form["name"].text(pattern=NAME, allowed=NAME_WORDS)
            if name in found:
                raise form["name"].error(f"{name!r} is declared twice")
        except FormError as error:
            problems.add(error)
            continue
        weight = problems.attempt(partial(form["weight"].integer, 1, MAX_WEIGHT), 1) if "weight" in form else 1
        cap = problems.attempt(partial(form["cap"].integer, 1, MAX_CAP), 1) if "cap" in form else None
        found[name] = Cluster(name, weight, cap, from_config=True)
    return tuple(found.values())


def _named(node: Node, site: Site) -> Node:
    """Where `site` names its cluster."""
    for item in node.value if isinstance(node.value, tuple) else ():
        form = item.value if isinstance(item.value, Mapping) else {}
        if "name" in form and "cluster" in form and form["name"].value == site.name:
            return form["cluster"]
    return node


def check_clusters(node: Node, sites: tuple[Site, ...], clusters: tuple[Cluster, ...], problems: Problems) -> None:
    """Every site's cluster must be declared beside it: one that only the API knows may not be there at the next start."""
    known = {DEFAULT_CLUSTER, *(cluster.name for cluster in clusters)}
    for site in sites:
        if site.cluster not in known:
            message = f"the site {site.name!r} is in the cluster {site.cluster!r}, which `clusters` does not declare"
            problems.add(_named(node, site).error(f"{message}; declare it there, or name one of {', '.join(sorted(known))}"))


def _read_site(node: Node, problems: Problems, directory: Path) -> Site | None:
    try:
        form = node.mapping(_KEYS, _REQUIRED)
    except FormError as error:
        problems.add(error)
        return None
    ceiling = problems.attempt(lambda: _ceiling(form), DEFAULT_LIMITS)
    origins = _origins(form["origins"], problems)
    return Site(
        name=problems.attempt(lambda: form["name"].text(pattern=NAME, allowed=NAME_WORDS), ""),
        hosts=_hosts(form["hosts"], problems),
        origins=tuple(origin.url for origin in origins),
        upstream=dataclasses.replace(
            problems.attempt(lambda: _upstream(form.get("upstream"), directory), DEFAULT_UPSTREAM),
            origins=tuple(origin for origin in origins if not upstreamwords.plain(origin)),
        ),
        weight=problems.attempt(lambda: form["weight"].integer(1, MAX_WEIGHT), 1) if "weight" in form else 1,
        cluster=problems.attempt(form["cluster"].text, DEFAULT_CLUSTER) if "cluster" in form else DEFAULT_CLUSTER,
        cap=problems.attempt(lambda: form["cap"].integer(1, MAX_CAP), None) if "cap" in form else None,
        rule=problems.attempt(lambda: _rule(form.get("cache")), DEFAULT_RULE),
        access=problems.attempt(lambda: _access(form.get("access")), OPEN),
        upgrade=problems.attempt(lambda: _upgrade(form["upgrade"]), _NOTHING_ELSE) if "upgrade" in form else (),
        ceiling=ceiling,
        max_generators=_max_generators(form, problems),
        from_config=True,
    )


def _max_generators(form: Mapping[str, Node], problems: Problems) -> int:
    node = form.get("max_generators")
    if node is None:
        return DEFAULT_MAX_GENERATORS
    return problems.attempt(partial(node.integer, 0, MOST_GENERATORS), DEFAULT_MAX_GENERATORS)


def read_hosts(node: Node) -> tuple[str, ...]:
    """One host or more, as a site has them. Raises FormError with every mistake."""
    problems = Problems()
    hosts = _hosts(node, problems)
    problems.raise_any()
    return hosts


def _hosts(node: Node, problems: Problems) -> tuple[str, ...]:
    def read(item: Node) -> str:
        text = lowered(item.text(limit=1024))
        if (problem := host_problem(text)) is not None:
            raise item.error(problem)
        return text

    items = problems.attempt(partial(node.sequence, 1, MAX_HOSTS), _NOTHING)
    return tuple(problems.attempt(partial(read, item), "") for item in items)


def _origins(node: Node, problems: Problems) -> tuple[Origin, ...]:
    found: dict[str, Origin] = {}
    for item in problems.attempt(partial(node.sequence, 1, MAX_ORIGINS), _NOTHING):
        origin = problems.attempt(partial(upstreamwords.read_origin, item), Origin(""))
        if origin.url and origin.url in found:
            problems.add(item.error(f"{origin.url} is named twice; give it a weight instead"))
        found.setdefault(origin.url, origin)
    return tuple(found.values())


def _upstream(node: Node | None, directory: Path) -> UpstreamRule:
    return DEFAULT_UPSTREAM if node is None or node.null else upstreamwords.read_upstream(node, directory)


def _access(node: Node | None) -> AccessRule:
    if node is None:
        return OPEN
    form = node.mapping(_ACCESS_KEYS)
    problems = Problems()

    def networks(key: str) -> tuple[str, ...]:
        items = problems.attempt(partial(form[key].sequence, 0, MAX_NETWORKS), _NOTHING) if key in form else ()
        return tuple(problems.attempt(partial(_network, item), "") for item in items)

    def count(key: str) -> int:
        return problems.attempt(partial(form[key].integer, 0, MAX_RATE), 0) if key in form else 0

    rule = AccessRule(
        deny=networks("deny"),
        allow=networks("allow"),
        purge=networks("purge"),
        client_rate=count("client_rate"),
        client_burst=count("client_burst"),
    )
    problems.raise_any()
    return rule


def _upgrade(node: Node) -> tuple[Upgradable, ...]:
    return tuple(dict.fromkeys(item.enum(Upgradable) for item in node.sequence(0, len(Upgradable))))


def read_networks(node: Node) -> tuple[str, ...]:
    """One network or more, as text that `policy.access` takes. Raises FormError with every mistake."""
    problems = Problems()
    networks = tuple(problems.attempt(partial(_network, item), "") for item in node.sequence(1, MAX_NETWORKS))
    problems.raise_any()
    return networks


def _network(node: Node) -> str:
    text = node.text(limit=64)
    if problem := network_problem(text):
        raise node.error(problem)
    return text


def _rule(node: Node | None) -> CacheRule:
    """A manifest's cache words, and those that only an operator has."""
    if node is None:
        return DEFAULT_RULE
    entries = node.entries()
    own = {key: value for key, value in entries.items() if key in _OPERATORS_CACHE_WORDS}
    problems = Problems()
    rule = problems.attempt(lambda: words.read_rule(node, DEFAULT_RULE, _OPERATORS_CACHE_WORDS), DEFAULT_RULE)
    codings = own.pop("compress", None)
    compress = rule.compress if codings is None else problems.attempt(partial(_codings, codings), rule.compress)
    share = own.pop("prefetch", None)
    prefetch = rule.prefetch if share is None else problems.attempt(partial(_prefetch, share), rule.prefetch)
    said = {key: problems.attempt(value.boolean, False) for key, value in own.items()}
    if said.get("esi_undeclared") and not said.get("esi"):
        problems.add(own["esi_undeclared"].error("means nothing without `esi: true` beside it"))
    problems.raise_any()
    return dataclasses.replace(
        rule,
        prefetch=prefetch,
        store_set_cookie=said.get("store_set_cookie", rule.store_set_cookie),
        honour_client_reload=said.get("honour_client_reload", rule.honour_client_reload),
        forward_ranges=said.get("forward_ranges", rule.forward_ranges),
        esi=said.get("esi", rule.esi),
        esi_undeclared=said.get("esi_undeclared", rule.esi_undeclared),
        compress=compress,
    )


def _prefetch(node: Node) -> float:
    """`true`, `false`, or a part of the lifetime."""
    return DEFAULT_SHARE * node.boolean() if node.value in {"true", "false"} else node.number(0, MAX_SHARE)


def _codings(node: Node) -> tuple[Coding, ...]:
    found: list[Coding] = []
    for item in node.sequence(0, len(Coding)):
        coding = item.enum(Coding)
        if coding in found:
            raise item.error(f"{coding} is named twice")
        found.append(coding)
    return tuple(found)


def _ceiling(form: Mapping[str, Node]) -> Limits:
    node = form.get("limits")
    if node is None:
        return DEFAULT_LIMITS
    ceiling = words.read_limits(node, DEFAULT_LIMITS)
    if ceiling.wall_ns < ceiling.cpu_ns:
        raise node.error("wall is below cpu: no request could ever use its CPU time; raise wall or lower cpu")
    if ceiling.edge_calls < ceiling.sub_requests:
        raise node.error(
            "edge_calls is below sub_requests: each sub-request is an edge call; raise edge_calls or lower sub_requests"
        )
    return ceiling


def _check_unique(pairs: list[tuple[Node, Site]], problems: Problems) -> None:
    names: dict[str, int] = {}
    hosts: dict[str, str] = {}
    for node, site in pairs:
        entries = node.entries()
        if site.name and site.name in names:
            problems.add(entries["name"].error(f"{site.name!r} is already the name of the site in line {names[site.name]}"))
        names.setdefault(site.name, node.line)
        for item, host in zip(entries["hosts"].value, site.hosts, strict=True) if site.hosts else ():
            if host and host in hosts and isinstance(item, Node):
                place = Problem(
                    item.source, item.line, item.column, item.key, f"{host} is already a host of site {hosts[host]!r}"
                )
                problems.add(FormError([place]))
            hosts.setdefault(host, site.name)
