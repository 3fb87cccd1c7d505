"""Numbers that an operator may change, and what follows from them."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.dispatch.policies import DispatchPolicy


@settings(deadline=None)
@given(st.integers(1, 64), st.integers(0, 10**6))
def test_slices_shrink_with_competition_within_their_bounds(slots: int, competing: int) -> None:
    policy = DispatchPolicy(slots=slots)
    slice_ns = policy.slice_for(competing)
    assert policy.least_slice_ns <= slice_ns <= policy.slice_ns
    assert slice_ns == policy.slice_ns or slice_ns * competing >= policy.round_ns * slots - competing
