"""A serving process that keeps dying is started again ever more slowly, one that has lived soon."""

from __future__ import annotations

from edgecache.processes.backoff import FIRST_SECONDS, LONGEST_SECONDS, STEADY_SECONDS, backoff


def test_each_pause_is_longer_up_to_a_bound() -> None:
    pauses = [backoff(0.0, 0.0)]
    for _ in range(20):
        pauses.append(backoff(pauses[-1], 1.0))
    assert pauses[0] == FIRST_SECONDS
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_SECONDS


def test_who_lived_long_begins_anew() -> None:
    assert backoff(LONGEST_SECONDS, STEADY_SECONDS) == FIRST_SECONDS
