"""What purges leave of a stored response, from its label and its marks. Pure. Lookups, writes and sweeps ask it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from edgecache.policy.purging import Purge, Purgeable, matches


class Marks(NamedTuple):
    """As `store.Entry` has them."""

    stale: bool
    renewing: bool


def judge(purges: Iterable[Purge], named: Purgeable, marks: Marks) -> Marks | None:
    """The marks it has after `purges`, oldest first; None: nothing is left of it."""
    for purge in purges:
        if not matches(purge, named):
            continue
        if not (purge.soft or purge.refresh):
            return None
        marks = Marks(True, purge.refresh and (marks.renewing or not marks.stale))
    return marks
