"""Which page answers a request. Reads requests and the count of reviews, sends nothing; `server` calls it."""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from typing import Any, Final

from aiohttp import web

from origin_sim import catalogue, pages
from origin_sim.pages import Page

PIECE_BYTES: Final = 64 << 10


def read(request: web.Request, reviews: Counter[int], now: float) -> Page:
    """The page for a GET or HEAD; `now` in seconds since the epoch."""
    target, parts = request.raw_path, request.path.strip("/").split("/")
    if parts[0] == "api":
        return _read_api(request, parts[1:], reviews)
    match parts:
        case [""]:
            return pages.home(target)
        case ["products"]:
            return pages.listing(target)
        case ["products", slug]:
            found = catalogue.by_slug(slug)
            return pages.product(target, slug, reviews[found.number] if found else 0)
        case ["search"]:
            return pages.search(target, request.query.get("q", ""))
        case ["images", name]:
            return pages.image(target, name)
        case ["style.css"]:
            return pages.style()
        case ["file"]:
            return pages.file(target)
        case _:
            return _read_uncacheable(request, parts, now)


def _read_uncacheable(request: web.Request, parts: list[str], now: float) -> Page:
    target = request.raw_path
    match parts:
        case ["cart"]:
            return pages.cart(target, request.cookies.get("session", uuid.uuid4().hex)[:64])
        case ["account"]:
            return pages.account(target, request.headers.get("Authorization"))
        case ["clock"]:
            return pages.clock(target, now)
        case ["redirect"]:
            return pages.redirect()
        case ["today"]:
            return pages.front(target)
        case ["fragments", name]:
            return pages.fragment(target, name, now)
        case ["echo"]:
            return pages.api_answer(_echo(request))
        case _:
            return pages.missing(target)


def _read_api(request: web.Request, parts: list[str], reviews: Counter[int]) -> Page:
    target, query = request.raw_path, request.query
    language = catalogue.language_of(request.headers.get("Accept-Language", ""))
    match parts:
        case ["products"]:
            offset, limit = number(query.get("offset"), 0), min(100, number(query.get("limit"), 20))
            return pages.api_listing(target, language, offset, limit)
        case ["products", text]:
            return pages.api_product(target, number(text, 0), language, reviews[number(text, 0)])
        case ["search"]:
            return pages.api_search(target, query.get("q", ""), language)
        case _:
            return pages.api_error(404, "there are /api/products, /api/products/NUMBER and /api/search?q=WORDS")


async def change(request: web.Request, reviews: Counter[int]) -> Page:
    """The answer to every other method: a review, or an upload that is hashed as it comes."""
    running, size = hashlib.sha256(), 0
    async for data in request.content.iter_chunked(PIECE_BYTES):
        running.update(data)
        size += len(data)
    match (request.method, request.path.strip("/").split("/")):
        case ("POST", ["api", "products", text, "reviews"]) if catalogue.by_number(found := number(text, 0)):
            reviews[found] += 1
            return pages.api_created(f"/api/products/{found}", {"product": found, "reviews": reviews[found]})
        case ("POST" | "PUT", ["upload"]):
            return pages.api_answer({"bytes": size, "sha256": running.hexdigest(), "method": request.method})
        case (_, ["echo"]):
            return pages.api_answer({**_echo(request), "bytes": size})
        case ("OPTIONS", _):
            return pages.options()
        case _:
            return pages.api_error(405, f"{request.method[:20]} is not taken here")


def _echo(request: web.Request) -> dict[str, Any]:
    return {"method": request.method, "target": request.raw_path, "headers": [list(pair) for pair in request.headers.items()]}


def number(text: str | None, otherwise: int) -> int:
    """A decimal number of at most eight digits, or `otherwise`."""
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 9 else otherwise
