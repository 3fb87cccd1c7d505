"""/v1/healthz, /v1/status, /v1/openapi.json: what the edge says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import Any, Final

import msgspec
import yaml
from aiohttp import web

from edgecache.control.api import shapes
from edgecache.control.api.endpoint import ApiCall, Endpoint, Open, WithToken, forbidden
from edgecache.control.api.messages import answer, parameters
from edgecache.control.records import Verb
from edgecache.control.state import StateError
from edgecache.sites import Site

_PER_SITE: Final = "sites"
_PER_VERSION: Final = "generators"


async def healthz(call: ApiCall) -> web.Response:
    health = await _health(call)
    return answer(health, status=200 if health["status"] == "ok" else 503)


async def openapi(call: ApiCall) -> web.Response:
    del call
    return web.Response(
        body=_document(), content_type="application/json", headers={"Server": "edgecache", "Cache-Control": "no-cache"}
    )


async def status(call: ApiCall) -> web.Response:
    parameters(call.request, ())
    token = call.caller
    if not token.operator and Verb.READ not in token.verbs:
        raise forbidden(f"needs the verb {Verb.READ}")
    everything = token.allows_everywhere(Verb.READ)
    services = call.services
    now = services.now()
    seen = [site for site in services.publisher.sites() if token.allows(Verb.READ, site.name)]
    if everything:
        await services.rooms.gather()
        parts = services.rooms.parts()
    else:
        parts = await services.recent.parts(services.rooms)
    return answer(
        {
            "version": edgecache_version(),
            "started": shapes.time(services.started),
            "uptime_seconds": max(0.0, now - services.started),
            "state": await _health(call),
            "sites": [_site(site) for site in seen],
            "parts": parts if everything else {room: confined(part, token.site or "") for room, part in parts.items()},
        }
    )


def confined(part: Mapping[str, object], site: str) -> dict[str, object]:
    """What a site's owner may know of a room: its own members, and nothing of the whole."""
    shown: dict[str, object] = {}
    sites, generators = part.get(_PER_SITE), part.get(_PER_VERSION)
    if isinstance(sites, Mapping):
        shown[_PER_SITE] = {name: value for name, value in sites.items() if name == site}
    if isinstance(generators, Mapping):
        shown[_PER_VERSION] = {key: value for key, value in generators.items() if str(key).startswith(f"{site}/")}
    return shown


def edgecache_version() -> str:
    try:
        return version("edgecache")
    except PackageNotFoundError:
        return "unknown"


@cache
def document() -> dict[str, Any]:
    """openapi.yaml, read."""
    text = files("edgecache.control").joinpath("openapi.yaml").read_text("utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


@cache
def _document() -> bytes:
    return msgspec.json.encode(document()) + b"\n"


async def _health(call: ApiCall) -> dict[str, object]:
    try:
        await call.services.state.check()
    except StateError as error:
        return {"status": "degraded", "detail": f"state: {error.failure}; the edge serves, and changes are refused"}
    return {"status": "ok"}


def _site(site: Site) -> dict[str, object]:
    return {
        "name": site.name,
        "hosts": list(site.hosts),
        "weight": site.weight,
        "from_config": site.from_config,
        "generators": [
            {
                "name": generator.name,
                "routes": list(generator.routes),
                "active": [{"version": active.version, "percent": active.percent} for active in generator.active],
            }
            for generator in site.generators
        ],
    }


ENDPOINTS: Final = (
    Endpoint("GET", "/v1/healthz", Open.OPEN, healthz),
    Endpoint("GET", "/v1/openapi.json", Open.OPEN, openapi),
    Endpoint("GET", "/v1/status", WithToken.ANY, status),
)
