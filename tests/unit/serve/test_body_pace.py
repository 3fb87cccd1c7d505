from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgecache.serve.body_pace import BodyPace


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(0, 100_000)), max_size=50))
def test_who_is_waited_for_is_never_far_behind_the_rate(reads: list[tuple[float, int]]) -> None:
    pace = BodyPace(30.0, 500)
    seconds, size = 0.0, 0
    for waited, came in reads:
        assert 0 <= pace.left <= 30.0
        if waited > pace.left:
            break
        pace.waited(waited, came)
        seconds, size = seconds + waited, size + came
    assert seconds <= 30.0 + size / 500 + 1e-6


def test_a_burst_does_not_pay_for_a_long_silence() -> None:
    pace = BodyPace(30.0, 500)
    pace.waited(0.0, 1 << 30)
    assert pace.left == 30.0
    pace.waited(29.0, 1)
    assert pace.left < 2.0
