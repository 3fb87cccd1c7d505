"""/v1/sites: the operator adds, changes and removes sites; a site's token sees its own."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import Final

from aiohttp import web

from edgecache.control.api import shapes
from edgecache.control.api.endpoint import ApiCall, Endpoint, WithToken, forbidden
from edgecache.control.api.json_site import SiteChange, SiteCreate, changed_site, new_site
from edgecache.control.api.messages import answer, no_content, parameters, read_json
from edgecache.control.problems import Code, Problem, no_site
from edgecache.control.records import Verb
from edgecache.control.state import Exists, Missing, TooMany
from edgecache.policy.purging import Purge
from edgecache.sites import Site
from edgecache.source import SourceError
from edgecache.upstream.http1 import trust

_log: Final = logging.getLogger(__name__)


async def list_sites(call: ApiCall) -> web.Response:
    parameters(call.request, ())
    token = call.caller
    if not token.operator and Verb.READ not in token.verbs:
        raise forbidden(f"needs the verb {Verb.READ}")
    seen = [site for site in call.services.publisher.sites() if token.allows(Verb.READ, site.name)]
    return answer({"sites": [await _shown(call, site) for site in seen]})


async def create_site(call: ApiCall) -> web.Response:
    parameters(call.request, ())
    site = new_site(await read_json(call.request, SiteCreate, call.services.settings))
    async with call.services.publisher.editing:
        if call.services.publisher.site(site.name) is not None:
            raise _exists(site)
        _check_hosts(call, site)
        _check_cluster(call, site)
        await _check_trust(site)
        try:
            await call.services.state.put_site(site, new=True)
        except Exists as error:
            raise _exists(site) from error
        except TooMany as error:
            raise Problem(Code.TOO_MANY, str(error), "remove some first") from error
        await call.services.publisher.put(site)
    return answer(await _shown(call, site), status=201, location=f"/v1/sites/{site.name}")


async def get_site(call: ApiCall) -> web.Response:
    parameters(call.request, ())
    return answer(await _shown(call, call.site))


async def change_site(call: ApiCall) -> web.Response:
    parameters(call.request, ())
    _changeable(call)
    form = await read_json(call.request, SiteChange, call.services.settings)
    async with call.services.publisher.editing:
        site = changed_site(_changeable(call), form)
        _check_hosts(call, site)
        _check_cluster(call, site)
        await _check_trust(site)
        try:
            await call.services.state.put_site(site, new=False)
        except Missing as error:
            raise no_site(site.name) from error
        published = await call.services.publisher.put(site)
    return answer(await _shown(call, published))


async def remove_site(call: ApiCall) -> web.Response:
    parameters(call.request, ())
    async with call.services.publisher.editing:
        site = _changeable(call)
        try:
            await call.services.state.remove_site(site.name)
        except Missing as error:
            raise no_site(site.name) from error
        await call.services.publisher.drop(site.name)
        call.services.tokens.forget_site(site.name)
        # Whoever gets the name and the hosts next must not answer with what this one had stored.
        try:
            await call.services.purge(Purge(site=site.name))
        except SourceError as error:
            _log.error("what the site %s had stored on disk may answer again after a restart: %s", site.name, error.detail)
    call.services.logs.remove(site.name)
    await call.services.deployer.collect()
    return no_content()


def _changeable(call: ApiCall) -> Site:
    """The site in the path, unless a file declares it. Raises Problem."""
    site = call.site
    if site.from_config:
        file = call.services.settings.config_file
        if file is None:
            detail = f"the site {site.name} is what --origin made when the edge was started"
            advice = "start the edge with a configuration file, or without --origin and add sites through the API"
            raise Problem(Code.SITE_FROM_CONFIG, detail, advice, where="--origin")
        detail = f"the site {site.name} is declared in {file}"
        raise Problem(Code.SITE_FROM_CONFIG, detail, f"edit {file} and reload the edge (SIGHUP)", where=str(file))
    return replace(site, generators=())


def _check_hosts(call: ApiCall, site: Site) -> None:
    taken = call.services.publisher.owner_of(site.hosts, but=site.name)
    if taken is not None:
        host, owner = taken
        where = f"$.hosts[{site.hosts.index(host)}]"
        raise Problem(Code.HOST_TAKEN, f"{host} is a host of the site {owner}", "take it from there first", where=where)


def _check_cluster(call: ApiCall, site: Site) -> None:
    if call.services.clusters.get(site.cluster) is None:
        detail = f"$.cluster: there is no cluster {site.cluster[:70]!r}"
        raise Problem(Code.BAD_REQUEST, detail, "add it with PUT /v1/clusters/NAME first", where="$.cluster")


async def _check_trust(site: Site) -> None:
    try:
        await asyncio.to_thread(trust.context, site.upstream.tls)
    except trust.TrustError as error:
        where = f"$.upstream.tls.{error.field}"
        raise Problem(Code.BAD_REQUEST, f"{where}: {error}", "name files that this edge can read", where=where) from error


def _exists(site: Site) -> Problem:
    detail = f"there is a site {site.name} already"
    return Problem(Code.EXISTS, detail, f"choose another name, or change it with PATCH /v1/sites/{site.name}", where="$.name")


async def _shown(call: ApiCall, site: Site) -> dict[str, object]:
    return shapes.site(site, await call.services.state.generators(site.name))


ENDPOINTS: Final = (
    Endpoint("GET", "/v1/sites", WithToken.ANY, list_sites),
    Endpoint("POST", "/v1/sites", WithToken.OPERATOR, create_site),
    Endpoint("GET", "/v1/sites/{site}", Verb.READ, get_site),
    Endpoint("PATCH", "/v1/sites/{site}", WithToken.OPERATOR, change_site),
    Endpoint("DELETE", "/v1/sites/{site}", WithToken.OPERATOR, remove_site),
)
