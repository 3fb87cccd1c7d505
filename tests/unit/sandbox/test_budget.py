"""Hot memory never exceeds its budget, busy workers are never parked, and nobody is parked in vain."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandbox.dispatch.budget import Admit, Hot, MemoryBudget, Refuse, Wait, admit

_TENANTS = st.sampled_from(["a", "b", "c"])
_HOT = st.lists(
    st.builds(Hot, st.uuids().map(str), _TENANTS, st.integers(1, 100), st.booleans(), st.floats(0, 1000)), max_size=12
)
_BUDGETS = st.builds(MemoryBudget, st.integers(1, 600), st.integers(1, 300))


@given(_HOT, _TENANTS, st.integers(0, 400), _BUDGETS)
def test_an_admission_keeps_host_and_site_within_budget_and_parks_only_idle_workers(hot, tenant, need, budget):
    decision = admit(hot, tenant, need, budget)
    if isinstance(decision, Admit):
        left = [lane for lane in hot if lane.name not in decision.park]
        assert sum(lane.hot_bytes for lane in left) + need <= budget.host_bytes
        assert sum(lane.hot_bytes for lane in left if lane.tenant == tenant) + need <= budget.site_bytes
        assert not any(lane.busy for lane in hot if lane.name in decision.park)
        assert len(set(decision.park)) == len(decision.park)


@given(_HOT, _TENANTS, st.integers(0, 400), _BUDGETS)
def test_waiting_means_that_even_parking_every_idle_worker_would_not_do(hot, tenant, need, budget):
    decision = admit(hot, tenant, need, budget)
    busy = [lane for lane in hot if lane.busy]
    site = sum(lane.hot_bytes for lane in busy if lane.tenant == tenant) + need
    enough = site <= budget.site_bytes and sum(lane.hot_bytes for lane in busy) + need <= budget.host_bytes
    assert isinstance(decision, Refuse) == (need > min(budget.host_bytes, budget.site_bytes))
    if isinstance(decision, Wait):
        assert not enough
    elif isinstance(decision, Admit):
        assert enough


def test_the_least_recently_used_goes_first_and_no_more_than_needed():
    hot = [Hot("new", "b", 10, False, 3.0), Hot("old", "c", 10, False, 1.0), Hot("busy", "d", 10, True, 0.0)]
    assert admit(hot, "a", 10, MemoryBudget(30, 30)) == Admit(("old",))
    assert admit(hot, "a", 0, MemoryBudget(30, 30)) == Admit(())


def test_a_site_at_its_own_budget_is_told_apart_from_a_full_host():
    busy = [Hot("x", "a", 10, True, 0.0)]
    assert admit(busy, "a", 5, MemoryBudget(30, 10)) == Wait(own_site=True)
    assert admit(busy, "b", 5, MemoryBudget(10, 10)) == Wait(own_site=False)
