"""What the operator of a site adds to the origin's own words about caching."""

from __future__ import annotations

from dataclasses import dataclass

from edgecache.policy.coding import Coding


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheRule:
    """Rules for one site or one generator's route. Times in seconds, sizes in bytes."""

    default_ttl: float | None = None
    """Freshness lifetime where the response gives none; None: only heuristics that RFC 9111 section 4.2.2 allows."""
    heuristic: bool = True
    """Whether a lifetime may be guessed from Last-Modified (10 %, RFC 9111 section 4.2.2)."""
    stale_while_revalidate: float = 0.0
    """Used where the response has no such directive (RFC 5861 section 3)."""
    stale_if_error: float = 0.0
    """Used where the response has no such directive (RFC 5861 section 4)."""
    stale_if_unreachable: float = 86_400.0
    """How long past its lifetime a response may answer while its source cannot be reached (RFC 9111 section 4.2.4).

    Used where the response has no stale-if-error, and nothing forbids stale use.
    """
    prefetch: float = 0.0
    """The last part of a lifetime, from 0 to 0.5, in which a response that is asked for often is fetched anew; 0: never."""
    vary: tuple[str, ...] = ()
    """Request fields that the variant key always holds, besides those of the response's Vary."""
    tags: tuple[str, ...] = ()
    """Tags added to every stored response."""
    max_object_bytes: int = 64 << 20
    """Larger bodies pass through unstored."""
    store_set_cookie: bool = True
    """Whether an explicit lifetime is enough to store a response that sets a cookie (RFC 9111 section 7.3).

    False for origins that put a lifetime and a visitor's own cookie on one response.
    """
    honour_client_reload: bool = True
    """Whether a client's no-cache, no-store, max-age, min-fresh or Pragma can bring a request to the source.

    The directives are advisory (RFC 9111 section 5.2.1): False answers from the cache all the same, so that clients cannot load
    the source at will.
    """
    forward_ranges: bool = False
    """Whether a Range goes to the source where nothing is stored, and parts are stored; False: the whole is asked for and stored.

    What is larger than `max_object_bytes` is asked for and stored in parts in any case.
    """

    esi: bool = False
    """Whether templates are assembled here (Edge Side Includes): responses that say so in Surrogate-Control."""
    esi_undeclared: bool = False
    """Whether all HTML and XML is taken for templates, where `esi` is on."""

    behind: bool = False
    """Whether a generator that answers these URLs asks what its origin has under them: that is stored apart from its answers."""

    compress: tuple[Coding, ...] = ()
    """Codings that this edge applies to what comes uncoded, the one it likes best first; none: bytes pass as they come."""


DEFAULT_RULE = CacheRule()
