"""An origin of templates and fragments, for tests of pages that are assembled at the edge."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

from edgecache.policy.rule import CacheRule
from tests.integration.proxy_support import Handler

ON = CacheRule(esi=True)
TEMPLATE = {"Content-Type": "text/html", "Cache-Control": "max-age=60", "Surrogate-Control": 'content="ESI/1.0"', "ETag": '"t"'}


def template(text: str, **fields: str) -> web.Response:
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    return web.Response(body=text.encode(), headers={**TEMPLATE, **named})


def fragment(text: str, cache: str = "max-age=60") -> web.Response:
    return web.Response(body=text.encode(), headers={"Cache-Control": cache})


def pages(**by_name: str | Callable[[], web.Response]) -> Handler:
    """An origin of templates (text) and fragments (functions); `{edge}` in a template is the host it was asked of."""

    async def answer(request: web.BaseRequest) -> web.Response:
        found = by_name.get(request.path.strip("/").replace("/", "_"))
        if found is None:
            return web.Response(status=404, body=b"none", headers={"Cache-Control": "max-age=60"})
        return template(found.replace("{edge}", request.host)) if isinstance(found, str) else found()

    return answer


def asked(origin: object) -> list[str]:
    return [request.path for request in origin.seen]  # type: ignore[attr-defined]
