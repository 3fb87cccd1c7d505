"""Who is kept from running: only who keeps failing, longer each time, never for what clients can provoke."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sandbox.dispatch.quarantine import QuarantinePolicy, Score
from sandbox.outcome import End

POLICY = QuarantinePolicy(threshold=20, first_s=1, longest_s=60, forget_s=600)


def after(*ends: End) -> Score:
    record = Score(POLICY)
    for end in ends:
        record.note(end, 0.0)
    return record


def test_two_dead_workers_are_too_many() -> None:
    assert not after(End.WORKER_DIED).holds(0)
    assert after(End.WORKER_DIED, End.WORKER_DIED).holds(0)


def test_ten_faults_in_a_row_are_too_many_but_not_with_good_answers_between() -> None:
    assert after(*[End.FAULT] * 10).holds(0)
    assert not after(*[End.FAULT, End.FINISHED, End.FINISHED] * 100).holds(0)


def test_limits_are_no_strikes() -> None:
    limits = [End.CPU_LIMIT, End.WALL_LIMIT, End.MEMORY_LIMIT, End.OUTPUT_LIMIT, End.NO_ANSWER, End.CANCELLED, End.QUEUE_FULL]
    assert not after(*limits * 100).holds(0)


def test_each_time_is_twice_as_long_up_to_a_bound() -> None:
    record, now, lengths = after(*[End.FAULT] * 9), 0.0, []
    for _ in range(8):
        assert record.note(End.FAULT, now)
        lengths.append(record.until - now)
        now = record.until
    assert lengths == [1, 2, 4, 8, 16, 32, 60, 60]


def test_after_a_long_good_time_it_begins_again_short() -> None:
    record = after(*[End.FAULT] * 10)
    record.note(End.FAULT, 1.0)
    assert record.until == 3.0
    record.note(End.FAULT, 1000.0)
    assert record.until == 1001.0


def test_good_answers_wear_probation_off() -> None:
    record = after(*[End.FAULT] * 10)
    for _ in range(19):
        record.note(End.FINISHED, 2.0)
    assert not record.note(End.FAULT, 3.0)


@given(st.lists(st.tuples(st.sampled_from(list(End)), st.floats(0, 1e6)), max_size=200))
def test_it_never_lasts_longer_than_the_bound(ends: list[tuple[End, float]]) -> None:
    record, now = Score(POLICY), 0.0
    for end, pause in ends:
        now += pause
        record.note(end, now)
        assert record.until <= now + POLICY.longest_s
