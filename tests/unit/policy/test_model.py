"""Admission and lookup against a second reading of RFC 9111, written in its order and from nothing of theirs but the statuses.

The model sees what a message means; the policy sees it as text, with what syntax allows around it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import example, given
from hypothesis import strategies as st

from edgecache.policy.dates import format_date
from edgecache.policy.lookup import Fresh, StaleWhileRevalidate, decide
from edgecache.policy.message import Request, Response, Timed
from edgecache.policy.rule import DEFAULT_RULE
from edgecache.policy.storing import UNDERSTOOD, NoStore, NoStoreReason, Storable, admit
from tests.unit.policy.values import NOW, headers

CACHEABLE_BY_DEFAULT = {200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 451, 501}
"""RFC 9110 section 15.1 (206 aside), RFC 7725 section 3."""


@dataclass(frozen=True)
class Said:
    """What a source says of a response. Times in seconds; dates are offsets from when it came."""

    status: int = 200
    flags: frozenset[str] = frozenset()
    max_age: int | None = None
    s_maxage: int | None = None
    stale_while_revalidate: int | None = None
    expires: int | None = None
    date: int = 0
    age: int | None = None
    modified: int | None = None


@dataclass(frozen=True)
class Asked:
    """What a client asks for."""

    no_cache: bool = False
    max_age: int | None = None
    min_fresh: int | None = None
    max_stale: int | None = None


def answers(said: Said, asked: Asked, authorized: bool, elapsed: int) -> bool:
    """Whether a shared cache may answer `asked` with the response, without validation, `elapsed` seconds after it came.

    `authorized`: it came in answer to a request with Authorization.
    """
    flags = said.flags
    explicit = next((given for given in (said.s_maxage, said.max_age) if given is not None), None)
    if explicit is None and said.expires is not None:
        explicit = max(0, said.expires - said.date)
    # Section 3: storing.
    if "must-understand" in flags and said.status not in UNDERSTOOD:
        return False
    if "no-store" in flags and "must-understand" not in flags:
        return False
    if "private" in flags:
        return False
    if authorized and not ({"must-revalidate", "public"} & flags or said.s_maxage is not None):
        return False
    if explicit is None and "public" not in flags and said.status not in CACHEABLE_BY_DEFAULT:
        return False
    # Section 4.2: freshness.
    if explicit is not None:
        lifetime = float(explicit)
    elif said.modified is not None:
        lifetime = min(86_400.0, max(0.0, (said.date - said.modified) * 0.1))
    else:
        return False
    age = max(-said.date, said.age or 0, 0) + elapsed
    # Sections 5.2.2.4 and 5.2.1.
    if "no-cache" in flags or asked.no_cache:
        return False
    fresh = lifetime > age
    if asked.max_age is not None and (asked.max_age == 0 or age > asked.max_age) and not (fresh and "immutable" in flags):
        return False
    if fresh:
        return asked.min_fresh is None or lifetime - age >= asked.min_fresh
    # Section 4.2.4: stale.
    staleness = age - lifetime
    forbidden = bool({"must-revalidate", "proxy-revalidate"} & flags)
    if forbidden or asked.min_fresh is not None or (asked.max_age is not None and asked.max_stale is None):
        return False
    if said.stale_while_revalidate and staleness <= said.stale_while_revalidate:
        return True
    return bool(asked.max_stale) and said.s_maxage is None and staleness <= (asked.max_stale or 0)


FLAGS = ("no-store", "no-cache", "private", "public", "must-revalidate", "proxy-revalidate", "must-understand", "immutable")
SECONDS = st.none() | st.sampled_from([0, 1, 10, 60, 100, 3600])
SAID = st.builds(
    Said,
    status=st.sampled_from([200, 200, 200, 203, 204, 301, 302, 404, 410, 418, 451, 500, 503, 599]),
    flags=st.frozensets(st.sampled_from(FLAGS), max_size=2),
    max_age=SECONDS,
    s_maxage=st.none() | SECONDS,
    stale_while_revalidate=st.none() | SECONDS,
    expires=st.none() | st.sampled_from([-100, 0, 1, 60, 3600]),
    date=st.sampled_from([0, 0, 0, -5, -100, 50]),
    age=st.none() | SECONDS,
    modified=st.none() | st.sampled_from([-10, -1000, -100_000, -10_000_000, 10]),
)
ASKED = st.just(Asked()) | st.builds(
    Asked, no_cache=st.sampled_from([False, False, True]), max_age=SECONDS, min_fresh=st.none() | SECONDS, max_stale=SECONDS
)


def _control(directives: list[tuple[str, int | None]], chance: random.Random) -> list[tuple[str, str]]:
    """Cache-Control lines that say this, in one of the ways in which it may be said."""
    texts = []
    for name, seconds in directives:
        written = chance.choice([name, name.upper(), name.title()])
        value = "" if seconds is None else "=" + chance.choice([f"{seconds}", f'"{seconds}"', f"00{seconds}"])
        texts.append(written + value)
    texts += chance.choice([[], [""], ["x-other"], ['x-other="no-store, max-age=0"'], ["x=1"]])
    chance.shuffle(texts)
    cut = chance.randint(0, len(texts))
    parts = [texts[:cut], texts[cut:]] if chance.random() < 0.3 else [texts]
    return [("Cache-Control", chance.choice([", ", ",", " ,\t"]).join(part)) for part in parts if part]


def _response(said: Said, chance: random.Random) -> Timed:
    numbers = (
        ("max-age", said.max_age),
        ("s-maxage", said.s_maxage),
        ("stale-while-revalidate", said.stale_while_revalidate),
    )
    directives = [(flag, None) for flag in said.flags] + [(name, seconds) for name, seconds in numbers if seconds is not None]
    pairs = _control(directives, chance) if directives else []
    pairs.append(("Date", format_date(NOW + said.date)))
    if said.age is not None:
        pairs.append(("Age", f"{said.age}"))
    for name, offset in (("Expires", said.expires), ("Last-Modified", said.modified)):
        if offset is not None:
            pairs.append((name, format_date(NOW + offset)))
    chance.shuffle(pairs)
    return Timed(Response(said.status, "", headers(*pairs)), NOW, NOW)


def _request(asked: Asked, chance: random.Random) -> Request:
    numbers = (("max-age", asked.max_age), ("min-fresh", asked.min_fresh), ("max-stale", asked.max_stale))
    directives = [("no-cache", None)] if asked.no_cache else []
    directives += [(name, seconds) for name, seconds in numbers if seconds is not None]
    return Request("GET", "http", "h", "/", headers(*(_control(directives, chance) if directives else ())))


@given(SAID, ASKED, st.booleans(), st.sampled_from([0, 1, 9, 10, 59, 60, 61, 100, 3599, 3601, 100_000]), st.randoms())
@example(Said(max_age=60, stale_while_revalidate=60), Asked(max_age=100), False, 61, random.Random(1))
@example(Said(status=599, flags=frozenset({"public"}), modified=-1000), Asked(), False, 9, random.Random(1))
def test_what_is_answered_is_what_rfc_9111_allows(
    said: Said, asked: Asked, authorized: bool, elapsed: int, chance: random.Random
) -> None:
    first = Request("GET", "http", "h", "/", headers(*((("Authorization", "x"),) if authorized else ())))
    came = _response(said, chance)
    kept = admit(first, came, DEFAULT_RULE)
    if isinstance(kept, NoStore) and kept.reason is NoStoreReason.UNUSABLE:
        # It cannot be validated, and is stale as it comes: not kept, though a client might take it stale.
        assert not answers(said, Asked(), authorized, elapsed + 1)
        return
    found = decide(_request(asked, chance), came, DEFAULT_RULE, NOW + elapsed) if isinstance(kept, Storable) else None
    assert isinstance(found, Fresh | StaleWhileRevalidate) is answers(said, asked, authorized, elapsed)
