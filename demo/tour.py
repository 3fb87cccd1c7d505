"""The tour: what the demo shows, as a table of stops, and for each what must be true when it is walked unattended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from demo.visit import Visit, get, parameters
from origin_sim.proof import mismatch

STALE_AFTER_S = 1.3
"""The moody page is fresh for a second."""


class Untrue(Exception):
    """A stop did not show what it promises."""


@dataclass(frozen=True)
class Walk:
    """Where the tour is walked, and how it purges."""

    edge: str
    purge_tag: Callable[[str], int]

    def get(self, target: str, headers: Mapping[str, str] | None = None) -> Visit:
        found = get(self.edge, target, headers)
        expect(found.status == 200, f"GET {target} is answered 200, not {found.status}: {found.text[:300]}")
        expect(bool(found.cache), f"GET {target} is answered with Cache-Status")
        return found


@dataclass(frozen=True)
class Stop:
    """One thing to see. `check` returns a line that says what was seen, or raises Untrue."""

    title: str
    target: str
    why: str
    check: Callable[[Walk], str]


def expect(true: bool, promise: str) -> None:
    """Raises Untrue with the promise that was not kept."""
    if not true:
        raise Untrue(promise)


def _seen(visit: Visit, what: str) -> str:
    return f"{visit.target}: {what}; Cache-Status is {visit.cache!r}"


def _from_origin(visit: Visit) -> None:
    wrong = mismatch(visit.target, visit.headers, visit.body)  # type: ignore[arg-type] # finds names in any case, as it asks
    expect(wrong is None, f"the origin's body comes unchanged: {wrong}")


def _miss_then_hit(walk: Walk, target: str, headers: Mapping[str, str] | None = None) -> tuple[Visit, Visit]:
    first = walk.get(target, headers)
    expect(not first.hit, _seen(first, "the first visit is a miss"))
    second = walk.get(target, headers)
    expect(second.hit, _seen(second, "the second visit is a hit"))
    expect(second.body == first.body, f"{target}: the cache answers with the bytes that it was given")
    expect(second.age >= 0, f"{target}: an answer from the cache has an Age (RFC 9111 section 5.1)")
    return first, second


def _ms(visit: Visit) -> str:
    return f"{visit.seconds * 1000:.1f} ms"


def _static(walk: Walk) -> str:
    first, second = _miss_then_hit(walk, "/products/fjord-kettle")
    _from_origin(second)
    return f"miss in {_ms(first)}, then hit in {_ms(second)}, Age {second.age}"


def _vary(walk: Walk) -> str:
    target = "/api/products?limit=3"
    bodies = {}
    for language in ("en", "de"):
        _, second = _miss_then_hit(walk, target, {"Accept-Language": language})
        _from_origin(second)
        expect(second.headers.get("Content-Language") == language, f"{target}: who asks for {language} gets {language}")
        bodies[language] = second.body
    expect(bodies["en"] != bodies["de"], f"{target}: each language is a variant of its own")
    return "en: miss, hit; de: miss, hit; the two differ"


def _resident(walk: Walk) -> str:
    first, second = _miss_then_hit(walk, "/hello/Ada", {"Accept-Language": "fr-CH, fr;q=0.9"})
    expect("Bonjour, Ada!" in first.text, f"/hello/Ada greets in French: {first.text[:300]}")
    other = walk.get("/hello/Ada", {"Accept-Language": "de"})
    expect("Hallo, Ada!" in other.text, "/hello/Ada greets in German who asks for German")
    return f"made in {_ms(first)} by {parameters(first.cache).get('detail', 'the generator')}, then hit in {_ms(second)}"


def _cgi(walk: Walk) -> str:
    first, _ = _miss_then_hit(walk, "/guestinfo?name=%3Cscript%3E")
    for word in ("REQUEST_METHOD", "GATEWAY_INTERFACE", "hello from generator.yaml", "x86_64"):
        expect(word in first.text, f"/guestinfo shows {word}")
    expect("<script>" not in first.text, "/guestinfo escapes what it shows")
    return f"made in {_ms(first)}, then hit"


def _to_origin(walk: Walk) -> str:
    short = walk.get("/clock?ms=2")
    expect("Spun for 2 ms" in short.text, f"/clock?ms=2 comes from the generator: {short.text[:300]}")
    long = walk.get("/clock?ms=60000")
    _from_origin(long)
    expect("cpu-limit" in long.cache, _seen(long, "the answer says that the generator met its CPU limit"))
    return f"stopped at its limit, and answered by the origin, in {_ms(long)}"


def _to_stale(walk: Walk) -> str:
    first = walk.get("/spinner/moody")
    expect("Spun for 1 ms" in first.text, f"/spinner/moody answers the first time: {first.text[:300]}")
    time.sleep(STALE_AFTER_S)
    again = walk.get("/spinner/moody")
    expect(again.body == first.body, "/spinner/moody answers with its stored copy when the generator fails")
    expect(again.age >= 1, f"/spinner/moody: a stale copy has its true Age, not {again.age}")
    expect("cpu-limit" in again.cache, _seen(again, "the answer says that the generator met its CPU limit"))
    return f"stopped at its limit, and answered with a copy of Age {again.age}, in {_ms(again)}"


def _purge(walk: Walk) -> str:
    purged = walk.purge_tag("hello")
    expect(purged >= 1, f"purging the tag hello removes what carries it, not {purged} entries")
    again = walk.get("/hello/Ada", {"Accept-Language": "fr-CH, fr;q=0.9"})
    expect(not again.hit, _seen(again, "after the purge the page is made anew"))
    return f"{purged} entries removed by tag, and the page is made anew"


STOPS = (
    Stop("A page of the origin, cached", "/products/fjord-kettle", "Reload: Age grows, and the origin is not asked.", _static),
    Stop("JSON that varies by language", "/api/products?limit=3", "Each Accept-Language is stored apart.", _vary),
    Stop("A page made by C code in a VM (resident)", "/hello/Ada", "Put another name in the path.", _resident),
    Stop("A page made by a plain CGI program in a VM", "/guestinfo", "What the guest sees of its request and machine.", _cgi),
    Stop("Over its CPU limit: the origin answers", "/clock?ms=60000", "With ?ms=2 the generator itself does.", _to_origin),
    Stop("Over its CPU limit: a stale copy answers", "/spinner/moody", "Reload after a second: the copy grows old.", _to_stale),
)
AFTERWARDS = (Stop("Purge by tag, with the site's token", "", "", _purge),)
"""Walked only: there is no page to look at."""
