"""Histories of two URLs that several clients ask for, drawn at random and played over real sockets: purges of every kind, unsafe
methods that name the other URL, origins that change their mind about directives, Vary and status, that fail, that answer late.

Whatever the edge makes of them, each answer is one that RFC 9111 allows at that moment (`allowed`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgecache.policy.rule import CacheRule
from tests.conformance.book import Edition
from tests.conformance.history import PATHS, Ask, Change, Failures, History, Purges, Release, Step, Unsafe, Wait, play

_CONTROLS = [
    *["max-age=60", "max-age=5", "max-age=2"] * 2,
    *["max-age=0", "unheard-of", "no-store", "no-cache", "private, max-age=60"],
    *['private="x-secret", max-age=60', 'no-cache="x-secret", max-age=60'],
    *["public, max-age=60", "public, max-age=2", "s-maxage=5, max-age=60", "max-age=2, must-revalidate"],
    *["max-age=2, proxy-revalidate", "max-age=60, must-revalidate"],
    *["max-age=2, stale-while-revalidate=3", "max-age=60, stale-while-revalidate=3"],
    *["max-age=2, stale-if-error=4", "max-age=60, stale-if-error=4"],
    "max-age=2, must-revalidate, stale-if-error=4, stale-while-revalidate=4",
]
_WISHES = [
    *["", "", "", "", "no-cache", "no-store", "only-if-cached", "max-age=0", "max-age=1", "min-fresh=3", "max-stale=2"],
    *["max-stale", "stale-if-error=3", "max-age=1, max-stale=5"],
]
_HOWS = ["plain", "plain", "plain", "range", "tail", "ranges", "if-range", "if-none-match", "if-modified-since"]
_FAILURES = [Failures((how,) * times) for how in ("500", "503", "reset", "mid") for times in (1, 1, 2, 3)]


@st.composite
def histories(draw: st.DrawFn) -> History:
    """Each is about a few things only, drawn first: of everything at once, little would meet."""

    def few(options: Sequence[Any]) -> st.SearchStrategy[Any]:
        return st.sampled_from(draw(st.lists(st.sampled_from(options), min_size=1, max_size=2)))

    editions = st.builds(
        Edition,
        control=few(_CONTROLS),
        validator=few(["strong", "strong", "weak", "date", ""]),
        vary=few([(), (), ("X-Kind",), ("X-Kind",), ("Cookie",), ("X-Kind", "Cookie"), ("*",)]),
        tag=few(["red", "blue"]),
        status=few([*[200] * 9, 204, 301, 302, 404, 410]),
        age=few([0, 0, 0, 1, 4]),
        bare=few([False, True]),
        ranges=few([False, True]),
        sized=few([False, True]),
    )
    paths = few(["/a", "/a", "/b"])
    asks = {
        "path": paths,
        "how": few(_HOWS),
        "kind": few([False, True]),
        "cookie": few([False, False, True]),
        "authorized": few([False, False, False, True]),
        "control": few(_WISHES),
        "back": few([0, 1]),
        "method": few(["GET", "GET", "GET", "HEAD"]),
    }
    unsafe = st.builds(
        Unsafe,
        path=paths,
        method=few(["PUT", "POST", "DELETE"]),
        status=few([200, 204, 303, 404, 500]),
        field=few(["", "Location", "Content-Location"]),
    )
    stores = st.builds(Unsafe, path=paths, method=st.just("POST"), status=st.just(200), stores=st.just(True))
    what, mode = few(["url", "prefix", "tag", "host", "site"]), few(["", "", "soft", "refresh"])
    purges = st.builds(Purges, what=what, path=paths, tag=few(["red", "blue"]), mode=mode)
    changes = st.builds(Change, paths, editions, st.booleans()) | st.builds(Change, paths, st.none(), st.just(True))
    waits = st.builds(Wait, few([1, 2, 3, 6]))
    rare = [changes, unsafe, stores, purges, waits, st.sampled_from(_FAILURES)]
    kinds = draw(st.lists(st.sampled_from(rare), min_size=1, max_size=3, unique_by=id))
    held = (
        [st.builds(Ask, hold=st.sampled_from(["before", "after", "body"]), **asks), st.just(Release())]
        if draw(st.booleans())
        else []
    )
    # Of a strategy that is named twice, `one_of` takes one.
    often = [st.builds(Ask, **asks) for _ in range(len(kinds) + 1)]
    steps = draw(st.lists(st.one_of(*often, *held, *kinds), min_size=6, max_size=24))
    targeted = draw(few([False, False, True]))
    soundly = [
        replace(step, edition=_soundly(step.edition, targeted=targeted))
        if isinstance(step, Change) and step.edition is not None
        else step
        for step in steps
    ]
    return History(
        {path: _soundly(draw(editions), targeted=targeted) for path in PATHS},
        draw(few([CacheRule(), CacheRule(), CacheRule(forward_ranges=True), CacheRule(max_object_bytes=85)])),
        soundly,
        draw(st.sampled_from([0, 500])),
    )


def _soundly(edition: Edition, *, targeted: bool) -> Edition:
    """What leaves nothing open: where an origin says less than before, caches that freshen what they hold keep the old words."""
    if edition.validator == "":
        # A HEAD would not tell its versions apart.
        edition = replace(edition, sized=True)
    return replace(edition, targeted=edition.control, control="max-age=60") if targeted else edition


def _of(first: Edition, *steps: Step) -> History:
    return History({"/a": first, "/b": Edition()}, CacheRule(), list(steps), 500)


_BRIEF = Edition("max-age=2")
_BARE = Edition("max-age=2", validator="")
_VARYING = ("X-Kind",)
FOUND = {
    "a 304 brings another Vary": _of(
        _BRIEF,
        *[Ask(), Wait(3), Change("/a", replace(_BRIEF, vary=_VARYING), content=False)],
        *[Ask(hold="after"), Ask(kind=True), Release()],
    ),
    "a HEAD brings another Vary": _of(
        _BARE,
        *[Ask(), Wait(3), Change("/a", Edition(validator="", vary=_VARYING), content=False)],
        *[Ask(method="HEAD"), Ask(kind=True)],
    ),
    "a 304 brings other tags, and comes after a purge by the old one": _of(
        _BRIEF,
        *[Ask(), Wait(3), Change("/a", Edition(tag="blue"), content=False)],
        *[Ask(hold="after"), Purges("tag", "/a", "red"), Ask(), Release()],
    ),
    "a HEAD brings other tags, and comes after a purge by the new one": _of(
        _BARE,
        *[Ask(), Wait(3), Change("/a", Edition(validator="", tag="blue"), content=False)],
        *[Ask(method="HEAD", hold="after"), Purges("tag", "/a", "blue"), Release(), Ask()],
    ),
    "a body takes longer than its lifetime": _of(_BRIEF, Ask(hold="body"), Wait(3), Ask(), Release()),
    "a body is on its way when a client asks for validation": _of(
        Edition(), Ask(hold="body"), Change("/a", None), Ask(control="no-cache"), Release()
    ),
    "a body takes so long that a newer one is stored before": _of(
        Edition(), Ask(hold="body"), Change("/a", None), Wait(1), Ask(control="no-cache"), Release(), Ask()
    ),
    "parts are stale, and the client wants nothing else": History(
        {"/a": Edition("max-age=2, stale-while-revalidate=60"), "/b": Edition()},
        CacheRule(forward_ranges=True),
        [Ask(how="range"), Wait(3), Ask(how="range", control="only-if-cached")],
        500,
    ),
    "a 304 is not stored": _of(_BRIEF, Ask(), Purges("url", "/a", "red", "soft"), Ask(control="no-store")),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found(name: str) -> None:
    asyncio.run(play(FOUND[name]))


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=60)
@given(histories())
def test_each_answer_is_one_that_a_shared_cache_may_give(history: History) -> None:
    asyncio.run(play(history))
