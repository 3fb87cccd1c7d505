"""One process flies, the others wait, and nobody waits for ever or for what a purge has overtaken."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgecache.processes.flights import MAX_WAITING, FlightTable

KEY, URI = b"key", "http://shop.test/"


def test_the_first_flies_and_others_wait_for_it() -> None:
    table: FlightTable[str] = FlightTable()
    assert table.claim(KEY, URI, ("a", 1)) is None
    assert table.claim(KEY, URI, ("b", 1)) == ("a", 1)
    assert table.claim(b"other", URI, ("b", 2)) is None
    assert table.settle(("a", 1)) == [("b", 1)]
    assert table.settle(("a", 1)) == []
    assert table.claim(KEY, URI, ("b", 3)) is None


def test_one_process_does_not_wait_for_itself() -> None:
    table: FlightTable[str] = FlightTable()
    assert table.claim(KEY, URI, ("a", 1)) is None
    assert table.claim(KEY, URI, ("a", 2)) is None
    assert table.settle(("a", 1)) == []
    assert table.claim(KEY, URI, ("b", 1)) == ("a", 2)


def test_nobody_joins_a_flight_that_a_purge_has_sealed() -> None:
    table: FlightTable[str] = FlightTable()
    table.claim(KEY, URI, ("a", 1))
    table.claim(KEY, URI, ("b", 1))
    table.seal(["http://shop.test/other"])
    assert table.claim(KEY, URI, ("c", 1)) == ("a", 1)
    table.seal([URI])
    assert table.claim(KEY, URI, ("c", 2)) is None
    assert table.settle(("a", 1)) == [("b", 1), ("c", 1)], "who waited before still hears"
    assert table.claim(KEY, URI, ("d", 1)) == ("c", 2)
    table.seal()
    assert table.claim(KEY, URI, ("e", 1)) is None


def test_a_flight_that_takes_long_is_not_waited_for_by_any_number() -> None:
    """Clients that ask and leave again, while another process fetches for hours, must not fill the leader's memory."""
    table: FlightTable[str] = FlightTable()
    table.claim(KEY, URI, ("a", 0))
    answers = [table.claim(KEY, URI, ("b", serial)) for serial in range(MAX_WAITING + 10)]
    assert answers == [("a", 0)] * MAX_WAITING + [None] * 10
    assert table.settle(("b", MAX_WAITING)) == [], "who flew besides settles in vain"
    assert table.claim(KEY, URI, ("c", 0)) is None, "the flight is still under way"
    assert len(table.settle(("a", 0))) == MAX_WAITING
    assert table.claim(KEY, URI, ("b", 0)) is None
    assert table.claim(KEY, URI, ("c", 1)) == ("b", 0)


def test_who_waits_for_a_process_that_is_gone_is_named() -> None:
    table: FlightTable[str] = FlightTable()
    table.claim(KEY, URI, ("a", 1))
    table.claim(KEY, URI, ("b", 1))
    assert table.lose("a") == [("b", 1)]
    assert len(table) == 0


_CLAIM = st.tuples(st.just("claim"), st.sampled_from("abc"), st.sampled_from([b"x", b"y"]))
_SETTLE = st.tuples(st.just("settle"), st.integers(0, 50), st.just(b""))
_LOSE = st.tuples(st.just("lose"), st.sampled_from("abc"), st.just(b""))
_SEAL = st.tuples(st.just("seal"), st.just(""), st.just(b""))


@given(st.lists(st.one_of(_CLAIM, _SETTLE, _LOSE, _SEAL), max_size=60))
def test_everybody_who_waits_hears_once_however_it_ends(steps: list[tuple[str, object, bytes]]) -> None:
    table: FlightTable[str] = FlightTable()
    held: list[tuple[str, int]] = []
    waiting: list[tuple[str, int]] = []
    gone: set[str] = set()

    def heard(told: list[tuple[str, int]]) -> None:
        for waiter in told:
            if waiter[0] not in gone:
                waiting.remove(waiter)

    for serial, (step, who, key) in enumerate(steps):
        if step == "claim" and who not in gone:
            asker = (str(who), serial)
            (held if table.claim(key, "", asker) is None else waiting).append(asker)
        elif step == "settle" and held:
            heard(table.settle(held.pop(int(str(who)) % len(held))))
        elif step == "lose":
            gone.add(str(who))
            held = [holder for holder in held if holder[0] != who]
            heard(table.lose(str(who)))
            waiting = [waiter for waiter in waiting if waiter[0] != who]
        elif step == "seal":
            table.seal()
    for holder in held:
        heard(table.settle(holder))
    assert not waiting
    assert len(table) == 0
