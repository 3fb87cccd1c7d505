"""Whose turn it is among origins: shares, order, backups, affinity."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache.policy.upstream import Balance, Origin, UpstreamRule
from edgecache.upstream.choosing.balancing import Candidate, Condition, turn

CANDIDATES = st.lists(
    st.builds(
        Candidate,
        name=st.just(""),
        weight=st.integers(1, 1000),
        backup=st.booleans(),
        condition=st.sampled_from(Condition),
        full=st.booleans(),
    ),
    max_size=8,
).map(lambda found: [replace(candidate, name=f"http://{at}") for at, candidate in enumerate(found)])


def pool(*weights: int) -> list[Candidate]:
    return [Candidate(f"http://{at}", weight) for at, weight in enumerate(weights)]


def firsts(candidates: list[Candidate], balance: Balance, count: int) -> list[int]:
    credit: tuple[int, ...] = (0,) * len(candidates)
    found = []
    for number in range(count):
        order, credit = turn(candidates, balance, str(number).encode(), credit)
        found.append(order[0])
    return found


@settings(deadline=None)
@given(CANDIDATES, st.sampled_from(Balance), st.binary(), st.lists(st.integers(-9, 9), min_size=8, max_size=8))
def test_everybody_who_may_be_asked_is_in_the_order_once_and_nobody_else(
    candidates: list[Candidate], balance: Balance, key: bytes, credit: list[int]
) -> None:
    order, left = turn(candidates, balance, key, credit[: len(candidates)])
    askable = {at for at, one in enumerate(candidates) if one.condition in {Condition.HEALTHY, Condition.EJECTED}}
    assert sorted(order) == sorted(askable)
    assert len(left) == len(candidates)


@settings(deadline=None)
@given(CANDIDATES, st.sampled_from(Balance), st.binary())
def test_healthy_before_backups_before_ejected(candidates: list[Candidate], balance: Balance, key: bytes) -> None:
    order, _ = turn(candidates, balance, key, (0,) * len(candidates))
    ranks = [(candidates[at].condition is Condition.EJECTED, candidates[at].backup, candidates[at].full) for at in order]
    assert ranks == sorted(ranks)


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 3))
def test_each_has_exactly_its_weights_turns_in_every_round(weights: list[int], rounds: int) -> None:
    found = Counter(firsts(pool(*weights), Balance.WEIGHT, sum(weights) * rounds))
    assert found == Counter({at: weight * rounds for at, weight in enumerate(weights)})


@settings(deadline=None)
@given(st.lists(st.integers(1, 30), min_size=2, max_size=6), st.integers(1, 200))
def test_no_one_gets_ahead_or_behind_by_a_round(weights: list[int], count: int) -> None:
    found = Counter(firsts(pool(*weights), Balance.WEIGHT, count))
    for at, weight in enumerate(weights):
        assert abs(found[at] - count * weight / sum(weights)) < len(weights)


def test_turns_are_spread_not_in_runs() -> None:
    assert firsts(pool(5, 1, 1), Balance.WEIGHT, 7) == [0, 0, 1, 0, 2, 0, 0]


@settings(deadline=None)
@given(CANDIDATES, st.lists(st.lists(st.sampled_from(Condition), min_size=8, max_size=8), max_size=40))
def test_credit_stays_bounded_whatever_comes_and_goes(candidates: list[Candidate], history: list[list[Condition]]) -> None:
    credit: tuple[int, ...] = (0,) * len(candidates)
    total = sum(candidate.weight for candidate in candidates)
    for conditions in history:
        now = [replace(one, condition=how) for one, how in zip(candidates, conditions, strict=False)]
        _, credit = turn(now, Balance.WEIGHT, b"", credit)
        assert all(abs(value) <= total * (len(candidates) + 1) for value in credit)


def test_in_order_the_first_that_is_well_is_always_first() -> None:
    first, second = pool(1, 9)
    assert firsts([first, second], Balance.ORDER, 5) == [0] * 5
    assert firsts([replace(first, condition=Condition.EJECTED), second], Balance.ORDER, 5) == [1] * 5


def test_a_full_one_waits_for_those_that_are_not() -> None:
    first, second = pool(1, 1)
    order, _ = turn([replace(first, full=True), second], Balance.ORDER, b"", (0, 0))
    assert order == (1, 0)


@settings(deadline=None)
@given(st.binary(min_size=1), st.integers(2, 8))
def test_by_hash_a_key_moves_only_when_its_own_origin_goes(key: bytes, count: int) -> None:
    candidates = pool(*range(1, count + 1))
    order, _ = turn(candidates, Balance.HASH, key, (0,) * count)
    for gone in range(count):
        fewer = [replace(one, condition=Condition.DOWN) if at == gone else one for at, one in enumerate(candidates)]
        left, _ = turn(fewer, Balance.HASH, key, (0,) * count)
        assert left == tuple(at for at in order if at != gone)


def test_by_hash_keys_are_shared_out_by_weight() -> None:
    found = Counter(firsts(pool(1, 3), Balance.HASH, 4000))
    assert 2850 < found[1] < 3150


def test_a_weight_that_was_said_balances_by_weight() -> None:
    urls = ("http://a", "http://b")
    assert UpstreamRule().balance_of(urls) is Balance.ORDER
    assert UpstreamRule(origins=(Origin("http://b", weight=1),)).balance_of(urls) is Balance.WEIGHT
    assert UpstreamRule(balance=Balance.ORDER, origins=(Origin("http://b", weight=1),)).balance_of(urls) is Balance.ORDER
    assert UpstreamRule(origins=(Origin("http://b", backup=True),)).balance_of(urls) is Balance.ORDER
