"""/v1/clusters: the operator's groups of sites and their shares of the machine."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Final

from aiohttp import web
from msgspec import UNSET, Struct, UnsetType

from edgecache.control.api import shapes
from edgecache.control.api.endpoint import ApiCall, Endpoint, WithToken
from edgecache.control.api.json_site import checked_cap, checked_weight
from edgecache.control.api.messages import answer, no_content, parameters, read_json
from edgecache.control.bundle.manifest import NAME
from edgecache.control.problems import Code, Problem, not_found
from edgecache.control.state import Missing, TooMany
from edgecache.sites import Cluster
from sandbox import DEFAULT_CLUSTER


class ClusterChange(Struct, forbid_unknown_fields=True):
    """What of a cluster is to be different; a cap of null takes the cap away."""

    weight: int | UnsetType = UNSET
    cap: int | UnsetType | None = UNSET


async def list_clusters(call: ApiCall) -> web.Response:
    parameters(call.request, ())
    return answer({"clusters": [_shown(call, cluster) for cluster in call.services.clusters.all()]})


async def get_cluster(call: ApiCall) -> web.Response:
    parameters(call.request, ())
    return answer(_shown(call, _known(call)))


async def put_cluster(call: ApiCall) -> web.Response:
    """Add it, or replace its share: what is not named is the default."""
    parameters(call.request, ())
    name = call.request.match_info["name"]
    if not re.fullmatch(NAME, name):
        raise not_found(f"cluster {name[:64]!r}, nor can there be")
    form = await read_json(call.request, ClusterChange, call.services.settings)
    async with call.services.publisher.editing:
        known = call.services.clusters.get(name)
        cluster = await _put(call, known, _changed(Cluster(name), form))
    new = known is None
    return answer(_shown(call, cluster), status=201 if new else 200, location=f"/v1/clusters/{name}" if new else None)


async def change_cluster(call: ApiCall) -> web.Response:
    """Change what is named, keep the rest."""
    parameters(call.request, ())
    form = await read_json(call.request, ClusterChange, call.services.settings)
    async with call.services.publisher.editing:
        known = _known(call)
        cluster = await _put(call, known, _changed(known, form))
    return answer(_shown(call, cluster))


async def remove_cluster(call: ApiCall) -> web.Response:
    parameters(call.request, ())
    async with call.services.publisher.editing:
        cluster = _known(call)
        _changeable(call, cluster)
        sites = _sites(call, cluster.name)
        if sites and cluster.name != DEFAULT_CLUSTER:
            detail = f"the cluster {cluster.name} has sites: {', '.join(sites[:5])}{', …' if len(sites) > 5 else ''}"
            raise Problem(Code.CONFLICT, detail, "give them another cluster first")
        try:
            await call.services.clusters.remove(cluster.name)
        except Missing as error:
            if cluster.name != DEFAULT_CLUSTER:
                raise not_found(f"cluster {cluster.name!r}") from error
    return no_content()


async def _put(call: ApiCall, known: Cluster | None, cluster: Cluster) -> Cluster:
    if known is not None:
        _changeable(call, known)
    try:
        await call.services.clusters.put(cluster)
    except TooMany as error:
        raise Problem(Code.TOO_MANY, str(error), "remove some first") from error
    return cluster


def _changed(cluster: Cluster, form: ClusterChange) -> Cluster:
    if form.weight is not UNSET:
        cluster = replace(cluster, weight=checked_weight(form.weight))
    if form.cap is not UNSET:
        cluster = replace(cluster, cap=checked_cap(form.cap))
    return cluster


def _known(call: ApiCall) -> Cluster:
    name = call.request.match_info["name"]
    cluster = call.services.clusters.get(name)
    if cluster is None:
        raise not_found(f"cluster {name[:64]!r}")
    return cluster


def _changeable(call: ApiCall, cluster: Cluster) -> None:
    if cluster.from_config:
        file = call.services.settings.config_file
        raise Problem(
            Code.CONFLICT, f"the cluster {cluster.name} is declared in {file}", f"edit {file} and reload the edge (SIGHUP)"
        )


def _sites(call: ApiCall, name: str) -> list[str]:
    return [site.name for site in call.services.publisher.sites() if site.cluster == name]


def _shown(call: ApiCall, cluster: Cluster) -> dict[str, object]:
    return shapes.cluster(cluster, _sites(call, cluster.name))


ENDPOINTS: Final = (
    Endpoint("GET", "/v1/clusters", WithToken.OPERATOR, list_clusters),
    Endpoint("GET", "/v1/clusters/{name}", WithToken.OPERATOR, get_cluster),
    Endpoint("PUT", "/v1/clusters/{name}", WithToken.OPERATOR, put_cluster),
    Endpoint("PATCH", "/v1/clusters/{name}", WithToken.OPERATOR, change_cluster),
    Endpoint("DELETE", "/v1/clusters/{name}", WithToken.OPERATOR, remove_cluster),
)
