"""/v1/tokens: the operator makes, lists and revokes tokens."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from msgspec import Struct

from edgecache import units
from edgecache.control.api import shapes
from edgecache.control.api.endpoint import ApiCall, Endpoint, WithToken
from edgecache.control.api.messages import answer, no_content, parameters, read_json
from edgecache.control.problems import Code, Problem, no_site, not_found
from edgecache.control.records import READER, Verb
from edgecache.control.state import Missing, TooMany

_LEAST_NS: Final = 10**9
_MOST_NS: Final = 3_660 * 86_400 * 10**9
_MAX_NOTE: Final = 200


class TokenCreate(Struct, forbid_unknown_fields=True):
    """A new token: the operator's, verbs on one site, or the verb read on all of them."""

    operator: bool = False
    site: str | None = None
    verbs: list[Verb] | None = None
    expires_in: str | None = None
    note: str = ""


async def list_tokens(call: ApiCall) -> web.Response:
    site = parameters(call.request, ("site",)).get("site")
    if site is not None and call.services.publisher.site(site) is None:
        raise no_site(site)
    return answer({"tokens": [shapes.token(token) for token in call.services.tokens.listed(site)]})


async def create_token(call: ApiCall) -> web.Response:
    parameters(call.request, ())
    form = await read_json(call.request, TokenCreate, call.services.settings)
    site, verbs = _scope(call, form)
    if len(form.note) > _MAX_NOTE or not form.note.isprintable():
        raise _wrong("$.note", f"must be at most {_MAX_NOTE} characters, none of them control characters")
    try:
        minted = await call.services.tokens.create(site=site, verbs=verbs, lifetime=_lifetime(form), note=form.note)
    except Missing as error:
        raise no_site(site or "") from error
    except TooMany as error:
        raise Problem(Code.TOO_MANY, str(error), "revoke some first") from error
    return answer({"token": minted.text, **shapes.token(minted.token)}, status=201, location=f"/v1/tokens/{minted.token.id}")


async def revoke_token(call: ApiCall) -> web.Response:
    parameters(call.request, ())
    token_id = call.request.match_info["id"]
    if token_id == call.caller.id:
        detail = "a token cannot revoke itself"
        raise Problem(Code.CONFLICT, detail, "make another operator's token and revoke this one with it")
    try:
        await call.services.tokens.revoke(token_id)
    except Missing as error:
        raise not_found("such token") from error
    return no_content()


def _scope(call: ApiCall, form: TokenCreate) -> tuple[str | None, frozenset[Verb]]:
    if form.operator:
        if form.site is not None or form.verbs is not None:
            raise _wrong("$.operator", "an operator's token may do everything; leave out site and verbs")
        return None, frozenset(Verb)
    if not form.verbs:
        raise _wrong("$.verbs", f"is missing or empty; choose from {', '.join(Verb)}")
    if len(set(form.verbs)) < len(form.verbs):
        raise _wrong("$.verbs", "names a verb twice")
    if form.site is None:
        if frozenset(form.verbs) != READER:
            raise _wrong("$.site", f"is missing: name the site, set operator, or ask for the verb {Verb.READ} alone")
        return None, READER
    if call.services.publisher.site(form.site) is None:
        raise no_site(form.site)
    return form.site, frozenset(form.verbs)


def _lifetime(form: TokenCreate) -> float | None:
    if form.expires_in is None:
        return None
    try:
        lifetime_ns = units.parse_duration(form.expires_in)
    except units.UnitError as error:
        raise _wrong("$.expires_in", str(error)) from error
    if not _LEAST_NS <= lifetime_ns <= _MOST_NS:
        raise _wrong("$.expires_in", "must be from 1s to 3660d")
    return lifetime_ns / 10**9


def _wrong(where: str, message: str) -> Problem:
    return Problem(Code.BAD_REQUEST, f"{where}: {message}", "correct the body; /v1/openapi.json says what is right", where=where)


ENDPOINTS: Final = (
    Endpoint("GET", "/v1/tokens", WithToken.OPERATOR, list_tokens),
    Endpoint("POST", "/v1/tokens", WithToken.OPERATOR, create_token),
    Endpoint("DELETE", "/v1/tokens/{id}", WithToken.OPERATOR, revoke_token),
)
