"""The circuit breaker, over values and given times."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache.upstream.choosing.breaker import CLOSED, Breaker, asked, failed, undecided

LIMIT, PAUSE = 3, 10.0


def broken(now: float = 0.0) -> Breaker:
    breaker = CLOSED
    for _ in range(LIMIT):
        assert not breaker.open(now)
        breaker = failed(asked(breaker), now, LIMIT, PAUSE)
    return breaker


def test_the_limit_th_failure_in_a_row_opens_it_for_its_pause() -> None:
    breaker = broken()
    assert breaker.open(0.0)
    assert breaker.open(9.9)
    assert not breaker.open(10.0)


def test_after_the_pause_one_request_is_let_through_and_no_other() -> None:
    probing = asked(broken())
    assert probing.open(10.0)
    assert probing.open(1e9)


def test_its_failure_opens_for_twice_as_long() -> None:
    breaker = failed(asked(broken()), 10.0, LIMIT, PAUSE)
    assert breaker.open(29.9)
    assert not breaker.open(30.0)


def test_when_its_client_leaves_the_next_is_let_through() -> None:
    assert not undecided(asked(broken())).open(10.0)


def test_failures_of_what_was_sent_before_it_opened_do_not_prolong_it() -> None:
    breaker = broken()
    assert failed(breaker, 5.0, LIMIT, PAUSE) == breaker


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["sent", "failed", "succeeded", "left"]), st.floats(0, 100))), st.integers(1, 5))
def test_no_history_keeps_it_open_for_ever(history: list[tuple[str, float]], limit: int) -> None:
    breaker, now, under_way = CLOSED, 0.0, 0
    for event, pause in history:
        now += pause
        if event == "sent" and not breaker.open(now):
            breaker, under_way = asked(breaker), under_way + 1
        elif under_way and event != "sent":
            under_way -= 1
            match event:
                case "failed":
                    breaker = failed(breaker, now, limit, PAUSE)
                case "succeeded":
                    breaker = CLOSED
                case _:
                    breaker = undecided(breaker)
    if not under_way:
        assert not breaker.open(now + 32 * PAUSE)
