"""When a stored response that is asked for often is fetched anew before its lifetime ends. Pure."""

from __future__ import annotations

from typing import Final

from edgecache.policy.freshness import Terms

DEFAULT_SHARE: Final = 0.1
"""What `prefetch: true` means."""
MAX_SHARE: Final = 0.5
OFTEN: Final = 3
"""Hits in the last part of its lifetime that make a response worth fetching before anybody misses it."""


def reserve(terms: Terms, arrived: float, share: float) -> float:
    """Seconds at the end of its lifetime in which hits are counted: a part of what was left of it when it `arrived`.

    Not of the whole: behind another cache much of it may be over by then, and each answer would be fetched anew at once.
    """
    return max(0.0, (terms.lifetime.seconds - terms.age(arrived)) * share)
