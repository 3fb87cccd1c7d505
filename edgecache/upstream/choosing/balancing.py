"""Which origin is asked first, and in which order the others follow. Pure: what is known of the origins in, their places out.

`pool` calls it for each request that goes upstream.
"""

from __future__ import annotations

import enum
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import assert_never

from edgecache.policy.upstream import Balance


class Condition(enum.StrEnum):
    """What an origin is now; the same words in status and metrics."""

    HEALTHY = "healthy"
    EJECTED = "ejected"
    """Its last requests failed: asked when no other is left."""
    OPEN = "open"
    """Its circuit breaker is open: not asked."""
    DOWN = "down"
    """Its health checks fail: not asked."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One origin as the choice sees it. `full`: a request would have to wait for one of its connections."""

    name: str
    weight: int = 1
    backup: bool = False
    condition: Condition = Condition.HEALTHY
    full: bool = False


def turn(
    candidates: Sequence[Candidate], balance: Balance, key: bytes, credit: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Indexes of those that may be asked, in order, and the `credit` to give next time (one a candidate, 0 at first).

    Healthy ones come before backups, backups before ejected ones; among equals those that are full come last, then `balance`
    decides. `key` says what is asked for, for `hash`.
    """
    credits_left = tuple(credit)
    classes: dict[tuple[bool, bool, bool], list[int]] = {}
    for index, candidate in enumerate(candidates):
        if candidate.condition in {Condition.HEALTHY, Condition.EJECTED}:
            rank = (candidate.condition is Condition.EJECTED, candidate.backup, candidate.full)
            classes.setdefault(rank, []).append(index)
    found: list[int] = []
    for rank in sorted(classes):
        places = classes[rank]
        match balance:
            case Balance.ORDER:
                pass
            case Balance.HASH:
                places = sorted(places, key=lambda at: -_affinity(candidates[at], key))
            case Balance.WEIGHT if found:
                places = sorted(places, key=lambda at: -credits_left[at])
            case Balance.WEIGHT:
                places, credits_left = _smooth(candidates, places, credits_left)
            case _:
                assert_never(balance)
        found.extend(places)
    return tuple(found), credits_left


def _smooth(
    candidates: Sequence[Candidate], places: Sequence[int], credits_left: tuple[int, ...]
) -> tuple[list[int], tuple[int, ...]]:
    """Smooth weighted round robin: each gains its weight, and the richest, whose turn it is, pays the sum of all: turns are
    spread evenly, not in runs. The others follow as rich as they are."""
    after = list(credits_left)
    for at in places:
        after[at] += candidates[at].weight
    order = sorted(places, key=lambda at: -after[at])
    after[order[0]] -= sum(candidates[at].weight for at in places)
    return order, tuple(after)


def _affinity(candidate: Candidate, key: bytes) -> float:
    """Weighted rendezvous hashing: an origin that comes or goes moves only its own part of the keys."""
    name = hashlib.blake2b(candidate.name.encode(), digest_size=32).digest()
    digest = hashlib.blake2b(key, digest_size=8, key=name).digest()
    part = ((int.from_bytes(digest, "big") >> 12) + 0.5) / 2**52
    return -candidate.weight / math.log(part)
