"""How sites, generators, versions and tokens look in JSON. Pure; openapi.yaml describes the same shapes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from edgecache.control import upstreamwords, words
from edgecache.control.logs import LogPage
from edgecache.control.records import Generator, Split, Token, Verb, Version
from edgecache.sites import Cluster, Site


def time(seconds: float) -> str:
    """RFC 3339 in UTC, to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def site(value: Site, generators: Iterable[Generator]) -> dict[str, object]:
    return {
        "name": value.name,
        "hosts": list(value.hosts),
        "origins": [upstreamwords.show_origin(origin) for origin in value.upstream.members(value.origins)],
        "weight": value.weight,
        "cluster": value.cluster,
        "cap": value.cap,
        "upstream": upstreamwords.show_upstream(value.upstream),
        "cache": words.show_rule(value.rule),
        "access": {
            "deny": list(value.access.deny),
            "allow": list(value.access.allow),
            "purge": list(value.access.purge),
            "client_rate": value.access.client_rate,
            "client_burst": value.access.client_burst,
        },
        "upgrade": list(value.upgrade),
        "ceiling": words.show_limits(value.ceiling),
        "max_generators": value.max_generators,
        "from_config": value.from_config,
        "generators": [generator.name for generator in generators],
    }


def cluster(value: Cluster, sites: Iterable[str]) -> dict[str, object]:
    return {
        "name": value.name,
        "weight": value.weight,
        "cap": value.cap,
        "from_config": value.from_config,
        "sites": list(sites),
    }


def split(value: Split) -> list[dict[str, int]]:
    return [{"version": portion.version, "percent": portion.percent} for portion in value]


def generator(value: Generator, versions: tuple[Version, ...]) -> dict[str, object]:
    active = {portion.version: portion.percent for portion in value.active}
    serving = [version for version in versions if version.version in active]
    main = max(serving, key=lambda version: (active[version.version], version.version), default=None)
    return {
        "site": value.site,
        "name": value.name,
        "routes": list(main.manifest.routes) if main else [],
        "active": split(value.active),
        "versions": [version.version for version in versions],
        "latest": versions[0].version if versions else None,
    }


def version(value: Version, active: Split) -> dict[str, object]:
    percent = next((portion.percent for portion in active if portion.version == value.version), 0)
    return {
        "site": value.site,
        "generator": value.generator,
        "version": value.version,
        "digest": value.digest,
        "size_bytes": value.size_bytes,
        "status": "active" if percent else "verified" if value.verified else "pushed",
        "percent": percent,
        "created": time(value.created),
        "manifest": value.manifest.shown(),
        "verification": {"cpu_ns": value.verified.cpu_ns, "detail": value.verified.detail} if value.verified else None,
    }


def token(value: Token) -> dict[str, object]:
    """Without anything of the secret."""
    return {
        "id": value.id,
        "operator": value.operator,
        "site": value.site,
        "verbs": [str(verb) for verb in Verb if verb in value.verbs],
        "created": time(value.created),
        "expires": None if value.expires is None else time(value.expires),
        "note": value.note,
    }


def logs(page: LogPage) -> dict[str, object]:
    return {
        "lines": [
            {"seq": line.seq, "time": time(line.time), "version": line.version, "request_id": line.request_id, "text": line.text}
            for line in page.lines
        ],
        "dropped": page.dropped,
        "next": page.next,
    }
