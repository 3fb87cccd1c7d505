"""/metrics: who may scrape it. What it answers is `observe`'s, handed in by `edge`.

On loopback it is open, as nginx's and Envoy's are; elsewhere it asks for a token, which Prometheus sends from a file.
"""

from __future__ import annotations

from aiohttp import web

from edgecache.control.api.endpoint import SERVICES, authenticated, forbidden
from edgecache.control.listening.binding import is_loopback
from edgecache.control.records import Verb


async def metrics(request: web.Request) -> web.StreamResponse:
    """Raises Problem."""
    services = request.app[SERVICES]
    if services.rooms.metrics is None:
        raise web.HTTPNotFound
    settings = services.settings
    if not (settings.metrics_public or is_loopback(settings.host)):
        token = authenticated(request, services)
        if not token.allows_everywhere(Verb.READ):
            raise forbidden(f"is about all sites: it needs the operator's token, or one with the verb {Verb.READ} and no site")
    return await services.rooms.metrics(request)
