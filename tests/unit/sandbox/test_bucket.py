"""The token bucket: never more than burst + rate x time, never a wait that is too short or endless."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.queueing.bucket import TokenBucket

SECOND = 10**9
NUMBERS = st.integers(1, 10**6)


@settings(deadline=None)
@given(NUMBERS, NUMBERS, st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 3 * SECOND)), max_size=50))
def test_who_waits_as_told_never_passes_the_rate(rate: int, burst: int, wants: list[tuple[int, int]]) -> None:
    bucket = TokenBucket(rate, burst, 0)
    now = 0
    taken: list[tuple[int, int]] = []
    for wanted, pause in wants:
        now += pause
        tokens = min(wanted, burst)
        now += bucket.wait_ns(tokens, now)
        assert bucket.wait_ns(tokens, now) == 0
        bucket.take(tokens, now)
        taken.append((now, tokens))
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            passed = taken[last][0] - taken[first][0]
            assert sum(tokens for _, tokens in taken[first : last + 1]) <= burst + rate * passed / SECOND


@settings(deadline=None)
@given(NUMBERS, NUMBERS, st.integers(0, 10**7))
def test_a_wait_is_no_longer_than_it_must_be(rate: int, burst: int, debt: int) -> None:
    bucket = TokenBucket(rate, burst, 0)
    bucket.take(debt, 0)
    wait = bucket.wait_ns(burst, 0)
    assert (wait == 0) == (debt == 0)
    if wait > 1:
        assert bucket.wait_ns(burst, wait - 1) > 0


def test_more_than_the_burst_is_let_through_from_a_full_bucket_and_paid_back() -> None:
    bucket = TokenBucket(10, 5, 0)
    assert bucket.wait_ns(25, 0) == 0
    bucket.take(25, 0)
    assert bucket.wait_ns(1, 0) == 21 * SECOND // 10


def test_time_that_runs_backwards_refills_nothing() -> None:
    bucket = TokenBucket(1, 1, SECOND)
    bucket.take(1, SECOND)
    assert bucket.wait_ns(1, 0) == SECOND


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (1, 0), (-1, 1)])
def test_numbers_must_be_positive(rate: int, burst: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        TokenBucket(rate, burst, 0)
