"""/v1/purge: what is cached goes, or is marked stale. A site's token reaches its own site's entries alone."""

from __future__ import annotations

import re
from typing import Final

from aiohttp import web
from msgspec import Struct

from edgecache.control.api.endpoint import ApiCall, Endpoint, WithToken, forbidden
from edgecache.control.api.messages import answer, parameters, read_json
from edgecache.control.problems import Code, Problem, no_site
from edgecache.control.records import Verb
from edgecache.control.words import TAG
from edgecache.policy.purging import Purge
from edgecache.source import SourceError

_MAX_URLS: Final = 1_000
_MAX_TEXT: Final = 8_192
_URL: Final = re.compile(r"\s*https?://[^\s/?#]+", re.IGNORECASE)
_HOST: Final = re.compile(r"[^\s/?#@,]+")


class PurgeRequest(Struct, forbid_unknown_fields=True):
    """One selector, which `site` may narrow."""

    urls: list[str] | None = None
    tag: str | None = None
    prefix: str | None = None
    host: str | None = None
    site: str | None = None
    everything: bool = False
    soft: bool = False
    refresh: bool = False


async def purge(call: ApiCall) -> web.Response:
    parameters(call.request, ())
    form = await read_json(call.request, PurgeRequest, call.services.settings)
    site = _site(call, form)
    _check(form)
    try:
        wanted = Purge(
            urls=tuple(form.urls or ()),
            tag=form.tag,
            prefix=form.prefix,
            site=site,
            host=form.host,
            everything=form.everything,
            soft=form.soft,
            refresh=form.refresh,
        )
    except ValueError as error:
        raise Problem(Code.BAD_REQUEST, str(error), "correct the body; /v1/openapi.json says what is right") from error
    try:
        purged = await call.services.purge(wanted)
    except SourceError as error:
        detail = f"the purge is in force, but the disk did not take its record, and a restart would undo it: {error.detail}"
        raise Problem(Code.INTERNAL, detail, "make room on the disk of `cache.disk`, or repair it, then purge again") from error
    return answer({"purged": purged, "soft": form.soft, "refresh": form.refresh})


def _site(call: ApiCall, form: PurgeRequest) -> str | None:
    """The site that confines the purge: a token's own, always. Raises Problem."""
    token = call.caller
    site = form.site if form.site is not None else token.site
    if site is None:
        if not token.operator:
            raise forbidden("is for the operator where it names no site")
        return None
    call.may(Verb.PURGE, site)
    if call.services.publisher.site(site) is None:
        raise no_site(site)
    return site


def _check(form: PurgeRequest) -> None:
    """Exactly one selector, `site` aside; each within its bounds. Raises Problem."""
    given = {"urls": form.urls, "tag": form.tag, "prefix": form.prefix, "host": form.host, "everything": form.everything or None}
    named = [name for name, value in given.items() if value is not None]
    if len(named) > 1 or not (named or form.site):
        said = " and ".join(named) if named else "nothing"
        detail = f"the body selects by {said}"
        raise Problem(Code.BAD_REQUEST, detail, "give one of urls, tag, prefix, host, site, everything", where="$")
    if form.urls is not None and not 1 <= len(form.urls) <= _MAX_URLS:
        detail = f"$.urls: must hold 1 to {_MAX_URLS} URLs, not {len(form.urls)}"
        raise Problem(Code.BAD_REQUEST, detail, "send several requests", where="$.urls")
    for name, text in (
        ("tag", form.tag),
        ("prefix", form.prefix),
        ("host", form.host),
        *(("urls", url) for url in form.urls or ()),
    ):
        if text is not None and not 1 <= len(text) <= _MAX_TEXT:
            detail = f"$.{name}: must be of 1 to {_MAX_TEXT} characters"
            raise Problem(Code.BAD_REQUEST, detail, "correct the body", where=f"$.{name}")
    for number, url in enumerate(form.urls or ()):
        _check_url(url, f"$.urls[{number}]", "http://HOST/PATH?QUERY")
    if form.prefix is not None:
        _check_url(form.prefix, "$.prefix", "http://HOST/PATH")
    if form.tag is not None and not re.fullmatch(TAG, form.tag):
        detail = f"$.tag: must be visible ASCII without a comma, not {form.tag[:100]!r}"
        raise Problem(Code.BAD_REQUEST, detail, "write it as Cache-Tag has it", where="$.tag")
    if form.host is not None and not _HOST.fullmatch(form.host):
        detail = f"$.host: must be a host name, with its port where requests name one, not {form.host[:100]!r}"
        raise Problem(Code.BAD_REQUEST, detail, "write it as in Host, such as shop.example", where="$.host")


def _check_url(text: str, where: str, right: str) -> None:
    if not _URL.match(text):
        detail = f"{where}: must be an absolute http or https URL, not {text[:200]!r}"
        raise Problem(Code.BAD_REQUEST, detail, f"write it as clients ask for it: {right}", where=where)


ENDPOINTS: Final = (Endpoint("POST", "/v1/purge", WithToken.ANY, purge),)
