"""One process flies, the others wait, and nobody waits for ever or for what a purge has overtaken."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgecache.processes.flights import MAX_WAITING, Ask, Awaited, FlightTable, Fly

KEY, URI = b"key", "http://shop.test/"


def test_the_first_flies_and_others_wait_for_it() -> None:
    table: FlightTable[str] = FlightTable()
    assert table.claim(KEY, URI, ("a", 1)) == Fly(("a", 1))
    assert table.claim(KEY, URI, ("b", 1)) == Awaited(("a", 1))
    assert table.claim(b"other", URI, ("b", 2)) == Fly(("b", 2))
    assert table.settle(("a", 1)) == [("b", 1)]
    assert table.settle(("a", 1)) == []
    assert table.claim(KEY, URI, ("b", 3)) == Fly(("b", 3))


def test_one_process_does_not_wait_for_itself() -> None:
    table: FlightTable[str] = FlightTable()
    table.claim(KEY, URI, ("a", 1))
    assert table.claim(KEY, URI, ("a", 2)) == Fly(("a", 2))
    assert table.settle(("a", 1)) == []
    assert table.claim(KEY, URI, ("b", 1)) == Awaited(("a", 2))
    assert table.claim(KEY, URI, ("a", 3), "a") == Fly(("a", 3))


def test_whom_the_board_names_is_asked_once_and_then_waited_for() -> None:
    table: FlightTable[str] = FlightTable()
    assert table.claim(KEY, URI, ("b", 1), "a") == Ask("a", KEY)
    assert table.claim(KEY, URI, ("c", 1), "a") is None
    assert table.answered("a", KEY, 7) == []
    assert table.claim(KEY, URI, ("c", 2), "a") == Awaited(("a", 7)), "now the table knows"
    assert table.settle(("a", 7)) == [("b", 1), ("c", 1), ("c", 2)]


def test_where_the_board_was_wrong_the_first_who_asked_flies() -> None:
    table: FlightTable[str] = FlightTable()
    table.claim(KEY, URI, ("b", 1), "a")
    table.claim(KEY, URI, ("c", 1), "a")
    assert table.answered("a", KEY, 0) == [Fly(("b", 1)), Awaited(("b", 1))]
    assert table.settle(("b", 1)) == [("c", 1)]
    assert table.answered("a", KEY, 0) == [], "an answer that nobody asked for"


def test_where_whom_the_board_names_dies_the_first_who_asked_flies() -> None:
    table: FlightTable[str] = FlightTable()
    table.claim(KEY, URI, ("b", 1), "a")
    table.claim(KEY, URI, ("c", 1), "a")
    assert table.lose("b") == ([], [])
    assert table.lose("a") == ([], [Fly(("c", 1))])


def test_nobody_joins_a_flight_that_a_purge_has_sealed() -> None:
    table: FlightTable[str] = FlightTable()
    table.claim(KEY, URI, ("a", 1))
    table.claim(KEY, URI, ("b", 1))
    table.seal(["http://shop.test/other"])
    assert table.claim(KEY, URI, ("c", 1)) == Awaited(("a", 1))
    table.seal([URI])
    assert table.claim(KEY, URI, ("c", 2)) == Fly(("c", 2))
    assert table.settle(("a", 1)) == [("b", 1), ("c", 1)], "who waited before still hears"
    assert table.claim(KEY, URI, ("d", 1)) == Awaited(("c", 2))
    table.seal()
    assert table.claim(KEY, URI, ("e", 1)) == Fly(("e", 1))


def test_nobody_waits_for_an_answer_about_what_a_purge_has_sealed_meanwhile() -> None:
    table: FlightTable[str] = FlightTable()
    table.claim(KEY, URI, ("b", 1), "a")
    table.seal([URI])
    assert table.claim(KEY, URI, ("c", 1), "a") == Ask("a", KEY), "asked again: its answer is about what came after"
    assert table.answered("a", KEY, 7) == []
    assert table.claim(KEY, URI, ("d", 1), "a") is None, "what was asked for before the purge is not open"
    assert table.answered("a", KEY, 0) == [Fly(("c", 1)), Awaited(("c", 1))]
    assert table.settle(("a", 7)) == [("b", 1)]
    assert table.settle(("c", 1)) == [("d", 1)]


def test_a_flight_that_takes_long_is_not_waited_for_by_any_number() -> None:
    """Clients that ask and leave again, while another process fetches for hours, must not fill the leader's memory."""
    table: FlightTable[str] = FlightTable()
    table.claim(KEY, URI, ("a", 0))
    answers = [table.claim(KEY, URI, ("b", serial)) for serial in range(MAX_WAITING + 10)]
    assert answers == [Awaited(("a", 0))] * MAX_WAITING + [Fly(("b", MAX_WAITING + more)) for more in range(10)]
    assert table.settle(("b", MAX_WAITING)) == [], "who flew besides settles in vain"
    assert table.claim(KEY, URI, ("c", 0)) == Fly(("c", 0)), "the flight is still under way"
    assert len(table.settle(("a", 0))) == MAX_WAITING
    assert table.claim(KEY, URI, ("b", 0)) == Fly(("b", 0))
    assert table.claim(KEY, URI, ("c", 1)) == Awaited(("b", 0))


def test_an_answer_is_not_waited_for_by_any_number() -> None:
    table: FlightTable[str] = FlightTable()
    answers = [table.claim(KEY, URI, ("b", serial), "a") for serial in range(MAX_WAITING + 2)]
    assert answers[1:] == [None] * (MAX_WAITING - 1) + [Fly(("b", MAX_WAITING)), Fly(("b", MAX_WAITING + 1))]
    table.answered("a", KEY, 1)
    assert table.claim(KEY, URI, ("c", 1)) == Fly(("c", 1))
    assert len(table.settle(("a", 1))) == MAX_WAITING


def test_who_waits_for_a_process_that_is_gone_is_named() -> None:
    table: FlightTable[str] = FlightTable()
    table.claim(KEY, URI, ("a", 1))
    table.claim(KEY, URI, ("b", 1))
    assert table.lose("a") == ([("b", 1)], [])
    assert len(table) == 0


_CLAIM = st.tuples(
    st.just("claim"), st.sampled_from("abc"), st.sampled_from([b"x", b"y"]), st.sampled_from([None, "a", "b", "c"])
)
_ANSWER = st.tuples(st.just("answer"), st.integers(0, 50), st.just(b""), st.sampled_from([None, "held"]))
_SETTLE = st.tuples(st.just("settle"), st.integers(0, 50), st.just(b""), st.none())
_LOSE = st.tuples(st.just("lose"), st.sampled_from("abc"), st.just(b""), st.none())
_SEAL = st.tuples(st.just("seal"), st.just(""), st.just(b""), st.none())


@given(st.lists(st.one_of(_CLAIM, _ANSWER, _SETTLE, _LOSE, _SEAL), max_size=60))
def test_everybody_who_waits_hears_once_however_it_ends(steps: list[tuple[str, object, bytes, str | None]]) -> None:
    """Of a flight, that it is over; of a claim, that it is granted: one of them."""
    table: FlightTable[str] = FlightTable()
    held: list[tuple[str, int]] = []
    waiting: list[tuple[str, int]] = []
    asked: list[tuple[str, bytes]] = []
    gone: set[str] = set()

    def over(told: list[tuple[str, int]]) -> None:
        for waiter in told:
            if waiter[0] not in gone:
                waiting.remove(waiter)

    def said(told: list[Fly[str] | Awaited[str]]) -> None:
        for step in told:
            assert step.claim[0] not in gone
            if isinstance(step, Fly):
                waiting.remove(step.claim)
                held.append(step.claim)

    for serial, (step, who, key, more) in enumerate(steps):
        if step == "claim" and who not in gone:
            asker = (str(who), serial)
            waiting.append(asker)
            verdict = table.claim(key, "", asker, None if more in gone else more)
            if isinstance(verdict, Ask):
                asked.append((verdict.process, verdict.key))
            elif verdict is not None:
                said([verdict])
        elif step == "answer" and asked:
            process, about = asked.pop(int(str(who)) % len(asked))
            if more is not None:
                held.append((process, 1000 + serial))
            said(table.answered(process, about, 0 if more is None else 1000 + serial))
        elif step == "settle" and held:
            over(table.settle(held.pop(int(str(who)) % len(held))))
        elif step == "lose" and who not in gone:
            gone.add(str(who))
            held = [holder for holder in held if holder[0] != who]
            asked = [each for each in asked if each[0] != who]
            waiting = [waiter for waiter in waiting if waiter[0] != who]
            told, granted = table.lose(str(who))
            over(told)
            said(granted)
        elif step == "seal":
            table.seal()
    for process, key in asked:
        said(table.answered(process, key, 0))
    for holder in held:
        over(table.settle(holder))
    assert not waiting
    assert len(table) == 0
