"""An endpoint: method, path, who may use it, and the handler. Access is decided here, before any handler runs.

What belongs to another site answers like what does not exist. `routes` adds the endpoints of all resources; /metrics alone is
none (`metrics`).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from edgecache.control.api.messages import READMIT
from edgecache.control.api.services import Services
from edgecache.control.bundle.manifest import NAME
from edgecache.control.listening.binding import is_foreign
from edgecache.control.problems import Code, Problem, no_site, not_found
from edgecache.control.records import Token, Verb
from edgecache.control.state import Failure, StateError
from edgecache.sites import Site

SERVICES: Final = web.AppKey("services", Services)
_BEARER: Final = re.compile(r"Bearer +([!-~]{1,200}) *", re.IGNORECASE)
_NAME: Final = re.compile(NAME)


class Open(enum.Enum):
    """Access without a token."""

    OPEN = "open"


class WithToken(enum.Enum):
    """Access with any valid token (the handler confines), or with the operator's alone."""

    ANY = "any"
    OPERATOR = "operator"


Access = Open | WithToken | Verb
"""A Verb: the operator, or a token with that verb on the site in the path."""


@dataclass(frozen=True, slots=True)
class ApiCall:
    """One admitted request."""

    request: web.Request
    services: Services
    token: Token | None
    """None at open endpoints alone."""

    @property
    def caller(self) -> Token:
        if self.token is None:
            raise AssertionError("an open endpoint has no caller")
        return self.token

    @property
    def site(self) -> Site:
        """The site in the path. Raises Problem."""
        name = self.request.match_info["site"]
        site = self.services.publisher.site(name) if _NAME.fullmatch(name) else None
        if site is None:
            raise no_site(name)
        return site

    def readmit(self) -> Site:
        """The site in the path, of a caller who has waited: its token may be revoked meanwhile, or the site gone. Raises
        Problem.
        """
        authenticated(self.request, self.services)
        return self.site

    @property
    def name(self) -> str:
        """The generator's name in the path. Raises Problem."""
        name = self.request.match_info["name"]
        if not _NAME.fullmatch(name):
            raise not_found(f"generator {name[:64]!r}")
        return name

    def may(self, verb: Verb, site: str) -> None:
        """Raises Problem unless the caller may `verb` on `site`: 404 for another's site, 403 for its own."""
        token = self.caller
        if token.site not in (None, site):
            raise no_site(site)
        if not token.allows(verb, site):
            raise forbidden(f"needs the verb {verb}, and this token has {', '.join(sorted(token.verbs)) or 'none'}")


Work = Callable[[ApiCall], Awaitable[web.Response]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One row of the API's table."""

    method: str
    path: str
    access: Access
    work: Work

    async def handle(self, request: web.Request) -> web.Response:
        """Let the request in, or raise Problem."""
        services = request.app[SERVICES]
        token = None if self.access is Open.OPEN else authenticated(request, services)
        call = ApiCall(request, services, token)
        if isinstance(self.access, Verb):
            call.may(self.access, call.request.match_info["site"])
        elif self.access is WithToken.OPERATOR and token is not None and not token.operator:
            site = request.match_info.get("site", token.site)
            if site is not None and token.site not in (None, site):
                raise no_site(site)
            raise forbidden("is for the operator")
        if token is not None:
            request[READMIT] = lambda: authenticated(request, services)
        return await self.work(call)


@web.middleware
async def own_name(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Without a token, nothing is told to a page that a browser was led here for. Raises Problem."""
    if "Authorization" not in request.headers and is_foreign(request.headers.get("Host", ""), request.app[SERVICES].settings):
        detail = f"this edge is not called {request.headers['Host'][:100]!r}"
        raise Problem(Code.FORBIDDEN, detail, "ask for it by its address, or send a token")
    return await handler(request)


def authenticated(request: web.Request, services: Services) -> Token:
    """The token that the request carries. Raises Problem, which never repeats it; StateError before tokens are known."""
    if not services.tokens.loaded:
        raise StateError(Failure.UNAVAILABLE, "tokens could not be read when the edge started")
    given = request.headers.getall("Authorization", [])
    match = _BEARER.fullmatch(given[0]) if len(given) == 1 else None
    token = services.tokens.authenticate(match[1]) if match else None
    if token is None:
        if match:
            detail = "the token is not valid here, has expired or was revoked"
        else:
            detail = "the field Authorization is not `Bearer TOKEN`, once" if given else "the request carries no token"
        advice = "send `Authorization: Bearer TOKEN`; the operator's token is in STATE/operator.token"
        challenge = 'Bearer realm="edgecache"' + (', error="invalid_token"' if match else "")
        raise Problem(Code.UNAUTHENTICATED, detail, advice, headers=(("WWW-Authenticate", challenge),))
    return token


def forbidden(why: str) -> Problem:
    return Problem(Code.FORBIDDEN, f"this {why}", "ask the operator for a token that may")
