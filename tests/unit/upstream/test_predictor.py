"""What was uncacheable is remembered for a while, and only so much of it."""

from __future__ import annotations

from edgecache.upstream.flights.predictor import Predictor


def test_keys_expire_are_forgotten_and_displaced() -> None:
    predictor = Predictor(capacity=2, ttl=10)
    predictor.remember("a", now=0)
    assert predictor.uncacheable("a", now=9)
    assert not predictor.uncacheable("a", now=10)
    assert len(predictor) == 0
    for key in "abc":
        predictor.remember(key, now=0)
    assert not predictor.uncacheable("a", now=1)
    predictor.forget("c")
    predictor.forget("unknown")
    assert not predictor.uncacheable("c", now=1)
    assert predictor.uncacheable("b", now=1)
