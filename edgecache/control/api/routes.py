"""All endpoints in one table, and the application that they make."""

from __future__ import annotations

from typing import Final

from aiohttp import web

from edgecache.control.api import clusters, generators, purge, sites, status, tokens
from edgecache.control.api.endpoint import SERVICES, Endpoint, own_name
from edgecache.control.api.messages import errors
from edgecache.control.api.metrics import metrics
from edgecache.control.api.services import Services

ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    *status.ENDPOINTS,
    *clusters.ENDPOINTS,
    *sites.ENDPOINTS,
    *generators.ENDPOINTS,
    *tokens.ENDPOINTS,
    *purge.ENDPOINTS,
)


def build_control(services: Services) -> web.Application:
    """The control API as an application. It starts and stops nothing: `service.Control` does."""
    # Bodies are bounded where they are read, each by its own limit.
    app = web.Application(middlewares=[errors, own_name], client_max_size=2**60)
    app[SERVICES] = services
    for endpoint in ENDPOINTS:
        app.router.add_route(endpoint.method, endpoint.path, endpoint.handle)
        if endpoint.method == "GET":
            app.router.add_route("HEAD", endpoint.path, endpoint.handle)
    if services.rooms.metrics is not None:
        app.router.add_get("/metrics", metrics)
    return app
