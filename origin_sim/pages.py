"""What the shop answers: each function makes one page from values. Pure; `server` routes, adds validators and obeys the knobs."""

from __future__ import annotations

import html
import json
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote

from origin_sim import catalogue
from origin_sim.catalogue import Product

LAST_MODIFIED: Final = "Wed, 01 Jan 2025 00:00:00 GMT"

STYLE: Final = """\
:root{color-scheme:light dark;--ink:#23303d;--soft:#5d6b78;--line:#e3e7ea;--accent:#1d6f62;
--page:#fafbfb;--top:#fff;--code:#eef2f2}
@media(prefers-color-scheme:dark){:root{
--ink:#e4e9ee;--soft:#9aa6b2;--line:#33404d;--accent:#6cc7b6;--page:#14191f;--top:#1b222a;--code:#26303a}}
*{box-sizing:border-box}body{margin:0;font:16px/1.55 system-ui,sans-serif;color:var(--ink);background:var(--page)}
header{background:var(--top);border-bottom:1px solid var(--line)}header div,main,footer{max-width:62rem;margin:0 auto}
header div,main,footer{padding:1rem 1.25rem}
header div{display:flex;flex-wrap:wrap;gap:1.25rem;align-items:center}header b{font-size:1.2rem}a{color:var(--accent)}
header a{text-decoration:none}header form{margin-left:auto}
input{font:inherit;padding:.35rem .6rem;border:1px solid var(--line);border-radius:6px}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(11rem,1fr));gap:1rem;padding:0;list-style:none}
.card{background:var(--top);border:1px solid var(--line);border-radius:10px;overflow:hidden}
.card img{display:block;width:100%;height:auto}
.card p{margin:.5rem .75rem}.price{font-weight:600}.soft,footer{color:var(--soft);font-size:.9rem}
.two{display:grid;grid-template-columns:repeat(auto-fit,minmax(17rem,1fr));gap:2rem}.two img{width:100%;border-radius:10px}
code{background:var(--code);border-radius:4px;padding:.1rem .3rem;font-size:.9em}
td,th{text-align:left;padding:.35rem 1rem .35rem 0;vertical-align:top}
"""

_TRY: Final = (
    ("/products", "all products: an HTML page, fresh for a minute"),
    ("/products/fjord-kettle", "one product"),
    ("/api/products?limit=5", "JSON that varies by Accept-Language (en, de, fr)"),
    ("/images/1.svg", "a drawing; also /images/1.png: fresh for a day, immutable"),
    ("/search?q=lamp", "search"),
    ("/today", "a template with fragments, for a cache that assembles pages (ESI)"),
    ("/clock", "the time: never to be stored"),
    ("/cart", "private: sets a cookie"),
    ("/account", "needs an Authorization field"),
    ("/echo", "the request as it arrived here"),
    ("/redirect", "a redirection"),
    ("/products?_delay=800ms", "slow"),
    ("/products?_status=503", "an error"),
    ("/products?_error_rate=0.5", "an error every other time"),
    ("/file?_size=10MiB&_drip=50ms&_drip_bytes=256KiB", "10 MiB, a piece at a time"),
    ("/file?_size=1MiB&_reset_at=500KiB", "a connection reset half-way"),
    ("/products?_cl_lie=%2B10", "a Content-Length ten bytes too long"),
    ("/products?_broken=bare-lf", "broken HTTP; other breakages: garbage, two-lengths, bad-chunk, …"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A response before validators and faults."""

    body: bytes
    content_type: str = "text/html; charset=utf-8"
    status: int = 200
    cache_control: str = "public, max-age=60"
    vary: str = ""
    tags: tuple[str, ...] = ()
    fields: tuple[tuple[str, str], ...] = ()
    validators: bool = True


def home(target: str) -> Page:
    """Links to everything there is to try."""
    featured = _grid(catalogue.products()[:10])
    rows = "".join(
        f'<tr><td><a href="{html.escape(t)}"><code>{html.escape(t)}</code></a></td><td>{html.escape(w)}</td></tr>'
        for t, w in _TRY
    )
    inner = (
        "<h1>A small shop, for trying caches on</h1>"
        "<p>Its goods are the same on every machine. "
        "Any page takes knobs in its query string that make it slow, wrong or broken.</p>"
        f"{featured}<h2>Try</h2><table>{rows}</table>"
    )
    return Page(body=_document(target, "Shop", inner), tags=("shop",))


def listing(target: str) -> Page:
    inner = f"<h1>Products</h1>{_grid(catalogue.products())}"
    return Page(body=_document(target, "Products", inner), tags=("shop", "products"))


def product(target: str, slug: str, reviews: int) -> Page:
    """One product's page, or 404."""
    if (found := catalogue.by_slug(slug)) is None:
        return missing(target)
    name = html.escape(found.name("en"))
    inner = (
        f'<div class="two"><img src="/images/{found.number}.svg" alt="{name}"><div><h1>{name}</h1>'
        f"<p>{html.escape(found.description('en'))}</p><p class=price>€ {found.price}</p>"
        f'<p class="soft">{found.stock} in stock · {reviews} reviews</p>'
        f'<p><a href="/api/products/{found.number}">as JSON</a></p></div></div>'
    )
    return Page(body=_document(target, found.name("en"), inner), tags=("shop", f"product-{found.number}"))


def search(target: str, query: str) -> Page:
    found = catalogue.search(query, "en")
    shown = _grid(found) if found else "<p>Nothing has all of these words.</p>"
    inner = f"<h1>Search</h1><p>{len(found)} for “{html.escape(query[:200])}”</p>{shown}"
    return Page(body=_document(target, "Search", inner), cache_control="public, max-age=10", tags=("shop", "search"))


def cart(target: str, session: str) -> Page:
    inner = f"<h1>Your cart</h1><p>It is empty, and belongs to session <code>{html.escape(session)}</code> alone.</p>"
    cookie = ("Set-Cookie", f"session={quote(session)}; Path=/; HttpOnly; SameSite=Lax")
    return Page(body=_document(target, "Cart", inner), cache_control="private, no-store", fields=(cookie,), validators=False)


def account(target: str, authorization: str | None) -> Page:
    """401 without credentials; with any, a page for their bearer alone."""
    if not authorization:
        inner = "<h1>Who are you?</h1><p>This page needs an Authorization field. Any will do.</p>"
        challenge = ("WWW-Authenticate", 'Basic realm="shop"')
        body = _document(target, "Account", inner)
        return Page(body=body, status=401, cache_control="no-store", fields=(challenge,), validators=False)
    scheme = html.escape(authorization.partition(" ")[0][:20])
    inner = f"<h1>Welcome</h1><p>You came with {scheme} credentials.</p>"
    return Page(body=_document(target, "Account", inner), cache_control="max-age=60")


def clock(target: str, now: float) -> Page:
    inner = f"<h1>{now:.3f}</h1><p>Seconds since 1970. A cache that shows the same number twice has a bug.</p>"
    return Page(body=_document(target, "Clock", inner), cache_control="no-store", validators=False)


def front(target: str) -> Page:
    """A template for a cache that assembles pages: one fragment of a generator, one of its own lifetime, one never stored."""
    inner = (
        '<h1>Today</h1><esi:include src="/g/greeting" alt="/fragments/greeting" onerror="continue"/>'
        '<!--esi <h2>Offers</h2><esi:include src="/fragments/offers"/><esi:include src="/fragments/now"/> -->'
        '<esi:remove><p>This cache does not assemble pages: <a href="/products">all products</a>.</p></esi:remove>'
    )
    declared = ("Surrogate-Control", 'content="ESI/1.0"')
    return Page(body=_document(target, "Today", inner), fields=(declared,), tags=("shop",))


def fragment(target: str, name: str, now: float) -> Page:
    """A piece of HTML to stand in another page."""
    match name:
        case "greeting":
            return Page(body=b"<p>Good day!</p>")
        case "offers":
            return Page(body=_grid(catalogue.products()[3:6]).encode(), cache_control="public, max-age=10", tags=("offers",))
        case "now":
            return Page(body=f"<p>It is {now:.3f}.</p>".encode(), cache_control="no-store", validators=False)
        case _:
            return missing(target)


def missing(target: str) -> Page:
    inner = '<h1>Not here</h1><p>The shop has no such page. <a href="/">What it has.</a></p>'
    return Page(body=_document(target, "Not here", inner), status=404, cache_control="public, max-age=10", validators=False)


def redirect() -> Page:
    return Page(body=b"", status=302, cache_control="public, max-age=60", fields=(("Location", "/"),), validators=False)


def file(target: str) -> Page:
    """A line of text; with the knob for size, as large as asked."""
    return Page(body=(target + "\n").encode(), content_type="application/octet-stream", cache_control="public, max-age=600")


def options() -> Page:
    allow = ("Allow", "GET, HEAD, OPTIONS")
    return Page(body=b"", status=204, cache_control="no-store", fields=(allow,), validators=False)


def style() -> Page:
    return Page(body=STYLE.encode(), content_type="text/css; charset=utf-8", cache_control="public, max-age=86400, immutable")


def image(target: str, name: str) -> Page:
    """`NUMBER.svg` or `NUMBER.png`."""
    number, _, kind = name.partition(".")
    found = catalogue.by_number(int(number)) if number.isascii() and number.isdigit() and len(number) < 6 else None
    if found is None or kind not in {"svg", "png"}:
        return missing(target)
    body, content_type = (catalogue.svg(found), "image/svg+xml") if kind == "svg" else (catalogue.png(found), "image/png")
    cache_control = "public, max-age=86400, immutable"
    return Page(body=body, content_type=content_type, cache_control=cache_control, tags=("images", f"product-{found.number}"))


def api_listing(target: str, language: str, offset: int, limit: int) -> Page:
    goods = catalogue.products()
    shown = [_as_json(found, language) for found in goods[offset : offset + limit]]
    return _api({"target": target, "language": language, "total": len(goods), "products": shown}, language, ("products",))


def api_product(target: str, number: int, language: str, reviews: int) -> Page:
    if (found := catalogue.by_number(number)) is None:
        return api_error(404, f"there is no product {number}")
    data = {"target": target, "language": language, "reviews": reviews, **_as_json(found, language)}
    return _api(data, language, (f"product-{number}",))


def api_search(target: str, query: str, language: str) -> Page:
    found = [_as_json(product_found, language) for product_found in catalogue.search(query, language)]
    return _api({"target": target, "language": language, "query": query[:200], "products": found}, language, ("search",))


def api_created(location: str, data: dict[str, Any]) -> Page:
    fields = (("Location", location),)
    return Page(
        body=_json(data), content_type="application/json", status=201, cache_control="no-store", fields=fields, validators=False
    )


def api_answer(data: dict[str, Any]) -> Page:
    """JSON that describes one request or the simulator itself: never to be stored."""
    return Page(body=_json(data), content_type="application/json", cache_control="no-store", validators=False)


def api_error(status: int, detail: str) -> Page:
    """A problem document (RFC 9457)."""
    body = _json({"title": "The shop cannot answer this", "status": status, "detail": detail})
    return Page(body=body, content_type="application/problem+json", status=status, cache_control="no-store", validators=False)


def _api(data: dict[str, Any], language: str, tags: tuple[str, ...]) -> Page:
    return Page(
        body=_json(data),
        content_type="application/json",
        cache_control="public, max-age=30, stale-while-revalidate=30, stale-if-error=300",
        vary="Accept-Language",
        tags=("api", *tags),
        fields=(("Content-Language", language),),
    )


def _as_json(found: Product, language: str) -> dict[str, Any]:
    return {
        "number": found.number,
        "name": found.name(language),
        "description": found.description(language),
        "price_cents": found.price_cents,
        "stock": found.stock,
        "page": f"/products/{found.slug}",
        "image": f"/images/{found.number}.svg",
    }


def _json(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, ensure_ascii=False, indent=1) + "\n").encode()


def _grid(goods: tuple[Product, ...]) -> str:
    return f'<ul class="grid">{"".join(map(_card, goods))}</ul>'


def _card(found: Product) -> str:
    name = html.escape(found.name("en"))
    return (
        f'<li class="card"><a href="/products/{found.slug}">'
        f'<img src="/images/{found.number}.svg" alt="" width="240" height="180"></a>'
        f'<p><a href="/products/{found.slug}">{name}</a></p><p class="price">€ {found.price}</p></li>'
    )


def _document(target: str, title: str, inner: str) -> bytes:
    shown = html.escape(target, quote=True)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><meta name="origin-target" content="{shown}">'
        '<link rel="icon" href="/images/1.svg"><link rel="stylesheet" href="/style.css"></head><body>'
        '<header><div><b><a href="/">Shop</a></b>'
        '<a href="/products">Products</a><a href="/cart">Cart</a><a href="/clock">Clock</a>'
        '<form action="/search"><input name="q" placeholder="Search" aria-label="Search"></form></div></header>'
        f"<main>{inner}</main><footer>Made by the origin for <code>{shown}</code></footer></body></html>\n"
    ).encode()
