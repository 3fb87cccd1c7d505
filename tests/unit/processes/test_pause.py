"""A serving process that keeps dying is started again ever more slowly, one that lived at once."""

from __future__ import annotations

from edgecache.processes.pause import FIRST_SECONDS, LONGEST_SECONDS, STEADY_SECONDS, pause


def test_each_pause_is_longer_up_to_a_bound() -> None:
    pauses = [pause(0.0, 0.0)]
    for _ in range(20):
        pauses.append(pause(pauses[-1], 1.0))
    assert pauses[0] == FIRST_SECONDS
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_SECONDS


def test_who_lived_long_begins_anew() -> None:
    assert pause(LONGEST_SECONDS, STEADY_SECONDS) == FIRST_SECONDS
