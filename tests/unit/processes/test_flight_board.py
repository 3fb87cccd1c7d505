"""Words that say who fetches what: seen by all processes, taken away by nobody but their writer, and never in anybody's way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.processes.flight_board import DIGEST_BYTES, FlightBoard


def digest(name: object) -> bytes:
    return blake2b(repr(name).encode(), digest_size=DIGEST_BYTES).digest()


@pytest.fixture
def boards() -> Iterator[tuple[FlightBoard, FlightBoard]]:
    first = FlightBoard(1)
    second = FlightBoard(2, first.descriptor)
    yield first, second
    first.close()
    second.close()


def test_one_takes_and_the_other_sees_it(boards: tuple[FlightBoard, FlightBoard]) -> None:
    first, second = boards
    assert first.take(digest("x")) == 0
    assert second.take(digest("x")) == 1
    assert first.take(digest("x")) == 1, "one's own word as well"
    assert second.take(digest("y")) == 0
    second.give_back(digest("x"))
    assert second.take(digest("x")) == 1, "only its writer takes it away"
    first.give_back(digest("x"))
    assert second.take(digest("x")) == 0


def test_the_word_of_one_who_does_not_fetch_is_taken_over(boards: tuple[FlightBoard, FlightBoard]) -> None:
    first, second = boards
    first.take(digest("x"))
    second.take_over(digest("x"), 1)
    assert first.take(digest("x")) == 2
    second.take_over(digest("y"), 1)
    assert first.take(digest("y")) == 0


def test_what_a_dead_process_has_left_is_cleared(boards: tuple[FlightBoard, FlightBoard]) -> None:
    first, second = boards
    for number in range(100):
        (first if number % 2 else second).take(digest(number))
    second.clear(1)
    found = [second.take(digest(number)) for number in range(100)]
    assert found == [0 if number % 2 else 2 for number in range(100)]


def test_a_full_bucket_keeps_nobody_from_fetching(boards: tuple[FlightBoard, FlightBoard]) -> None:
    first, second = boards
    same_bucket = [number.to_bytes(6, "little") + b"\x07\x00" for number in range(1, 8)]
    assert [first.take(each) for each in same_bucket] == [0] * 7
    assert [second.take(each) for each in same_bucket] == [1] * 4 + [0] * 3
    for each in same_bucket:
        first.give_back(each)
    assert [second.take(each) for each in same_bucket] == [0] * 7


def test_the_memory_is_a_descriptor_that_no_child_gets_by_itself() -> None:
    board = FlightBoard(1)
    descriptor = board.descriptor
    assert descriptor is not None
    assert not os.get_inheritable(descriptor)
    board.close()
    board.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


_STEP = st.tuples(st.sampled_from(["take", "give back"]), st.integers(0, 1), st.binary(min_size=8, max_size=8))


@given(st.lists(_STEP, max_size=200))
def test_what_is_taken_is_seen_until_it_is_given_back(steps: list[tuple[str, int, bytes]]) -> None:
    first = FlightBoard(1)
    boards = (first, FlightBoard(2, first.descriptor))
    taken: dict[bytes, int] = {}
    for step, who, name in steps:
        # Few keys in many buckets: none is full.
        key = digest(name[0])
        if step == "take":
            assert boards[who].take(key) == taken.get(key, 0)
            taken.setdefault(key, who + 1)
        else:
            boards[who].give_back(key)
            if taken.get(key) == who + 1:
                del taken[key]
    for board in boards:
        board.close()
