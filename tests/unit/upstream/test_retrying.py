"""What may be sent again, and how often."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache.policy.upstream import RetryOn, RetryRule
from edgecache.upstream.choosing.retrying import RetryBudget, retriable, retriable_status

ALL = RetryRule(attempts=5, on=tuple(RetryOn), statuses=(502, 503))


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=500), st.floats(0, 1))
def test_retries_never_exceed_their_share_of_the_requests_and_the_reserve(history: list[bool], share: float) -> None:
    budget, retries = RetryBudget(share), 0
    for requests, wants in enumerate(history, start=1):
        budget.asked()
        retries += wants and budget.take()
        assert retries <= share * requests + 10


def test_a_budget_of_nothing_allows_nothing() -> None:
    assert not RetryBudget(0.0).take()


def test_a_site_of_few_requests_can_retry() -> None:
    budget = RetryBudget(0.1)
    budget.asked()
    assert budget.take()


@settings(deadline=None)
@given(st.sampled_from(["POST", "PATCH", "LOCK", "get", "X"]), st.sampled_from(["reset", "timeout"]), st.integers(400, 599))
def test_what_is_not_idempotent_is_never_sent_again(method: str, reason: str, status: int) -> None:
    assert not retriable(ALL, method, reason, 0)
    assert not retriable_status(ALL, method, status, 0)


@pytest.mark.parametrize("reason", ["protocol", "aborted", "error-status", "connect"])
def test_other_failures_are_no_reason_to_retry(reason: str) -> None:
    assert not retriable(ALL, "GET", reason, 0)


def test_only_as_often_as_the_rule_says() -> None:
    rule = RetryRule(attempts=2)
    assert [retriable(rule, "GET", "reset", retries) for retries in range(4)] == [True, True, False, False]
    assert not retriable(rule, "GET", "timeout", 0)


def test_a_status_is_retried_where_the_rule_names_it() -> None:
    assert retriable_status(ALL, "GET", 503, 0)
    assert not retriable_status(ALL, "GET", 500, 0)
