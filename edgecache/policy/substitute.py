"""An origin's answer in the place of a generator's that failed: for a short while, however long the origin would have it kept.

Else a failure that somebody has provoked would outlast itself, here and in clients. `serve.misses.asking` calls it.
"""

from __future__ import annotations

from typing import Final

from edgecache.policy.cache_control import TARGETED_FIELDS, ResponseDirectives
from edgecache.policy.esi import CAPABILITY, declared
from edgecache.policy.fields import freeze, names, without
from edgecache.policy.freshness import LifetimeSource, terms
from edgecache.policy.message import Response, Timed
from edgecache.policy.rule import CacheRule

MOST_SECONDS: Final = 10
"""Long enough to keep a crowd from the origin."""
_SAY_HOW_LONG: Final = frozenset({"cache-control", "expires", *map(str.lower, TARGETED_FIELDS)})


def briefly(response: Response, rule: CacheRule, now: float) -> Response:
    """`response`, fresh for no more than a moment; what is not to be shared, or was not meant for it, stays as it is."""
    found = terms(Timed(response, now, now), rule)
    directives = found.directives
    if directives.no_store or directives.private or directives.no_cache or directives.must_understand:
        return response
    if "Set-Cookie" in response.headers and found.lifetime.source is not LifetimeSource.EXPLICIT:
        return response
    if found.lifetime.seconds - found.age(now) <= MOST_SECONDS:
        return response
    said = [f"max-age={int(found.age(now)) + MOST_SECONDS}"]
    if "no-transform" in names(response.headers, "Cache-Control"):
        said.append("no-transform")
    if directives.must_revalidate:
        said.append("must-revalidate")
    if directives.proxy_revalidate:
        said.append("proxy-revalidate")
    said += (f'{word}="{", ".join(sorted(fields))}"' for word, fields in _qualified(directives) if fields)
    kept = without(response.headers, _SAY_HOW_LONG)
    kept.append(("Cache-Control", ", ".join(said)))
    if declared(response):
        kept.append(("Surrogate-Control", f'content="{CAPABILITY}"'))
    return Response(response.status, response.reason, freeze(kept))


def _qualified(directives: ResponseDirectives) -> tuple[tuple[str, frozenset[str]], ...]:
    """Fields that are not to be shared, though the rest may be."""
    return ("no-cache", frozenset(directives.no_cache_fields)), ("private", frozenset(directives.private_fields))
