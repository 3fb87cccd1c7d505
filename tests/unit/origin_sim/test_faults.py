from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from origin_sim.faults import Breakage, FaultBook, FaultError, Faults, knobs_of, parse


def test_every_knob_is_read() -> None:
    faults = parse(
        [
            ("_delay", "200ms"),
            ("_status", "503"),
            ("_cc", "max-age=60"),
            ("_size", "10MiB"),
            ("_chunked", "1"),
            ("_reset_at", "1000"),
            ("_stall_at", "1KiB"),
            ("_drip", "100ms"),
            ("_drip_bytes", "512"),
            ("_error_rate", "0.1"),
            ("_cl_lie", " 10"),
            ("_header", "X-One: 1"),
            ("_header", "X-Two:2"),
            ("_no_validators", "true"),
            ("_gzip", "0"),
            ("_broken", "bare-lf"),
        ]
    )
    assert faults == Faults(
        delay=0.2,
        status=503,
        cc="max-age=60",
        size=10 << 20,
        chunked=True,
        reset_at=1000,
        stall_at=1024,
        drip=0.1,
        drip_bytes=512,
        error_rate=0.1,
        cl_lie=10,
        header=(("X-One", "1"), ("X-Two", "2")),
        no_validators=True,
        broken=Breakage.BARE_LF,
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("_dely", "1s", "did you mean _delay"),
        ("_zzzzzz", "1", "there are _delay"),
        ("_delay", "1", "has no unit"),
        ("_delay", "2h", "must be from 0s to 600s"),
        ("_status", "99", "must be a status"),
        ("_status", "101", "must be a status"),
        ("_size", "9TiB", "at most 1TiB"),
        ("_chunked", "maybe", "must be 1 or 0"),
        ("_error_rate", "2", "must be from 0 to 1"),
        ("_error_rate", "nan", "must be from 0 to 1"),
        ("_cl_lie", "x", "must be a number"),
        ("_drip_bytes", "0", "must be at least 1"),
        ("_header", "nothing", "must be Name:value"),
        ("_header", "A: b\r\nC: d", "printable"),
        ("_header", "Ä: b", "must be Name:value"),
        ("_cc", "a\nb", "printable"),
        ("_broken", "all", "must be one of garbage"),
    ],
)
def test_a_wrong_knob_says_what_is_right(name: str, value: str, message: str) -> None:
    with pytest.raises(FaultError, match=message):
        parse([(name, value)])


def test_only_names_with_an_underscore_are_knobs() -> None:
    assert knobs_of([("q", "lamp"), ("_delay", "1s")]) == (("_delay", "1s"),)


def test_the_longest_prefix_applies_and_a_request_overrides_it() -> None:
    book = FaultBook()
    book.set("/", (("delay", "1s"),), None)
    book.set("/api", (("status", "503"), ("cc", "no-store")), None)
    assert book.take("/products", ()) == Faults(delay=1.0)
    assert book.take("/api/x", ()) == Faults(status=503, cc="no-store")
    assert book.take("/api/x", (("_status", "404"),)) == Faults(status=404, cc="no-store")
    book.set("/api", (), None)
    assert book.take("/api/x", ()) == Faults(delay=1.0)
    book.clear()
    assert book.rules() == ()


def test_times_counts_requests_down() -> None:
    book = FaultBook()
    book.set("/", (("status", "500"),), 2)
    assert [book.take("/", ()).status for _ in range(4)] == [500, 500, None, None]
    assert book.rules() == ()


def test_the_book_is_bounded_and_checks_what_it_is_given() -> None:
    book = FaultBook()
    for number in range(100):
        book.set(f"/{number}", (("status", "500"),), None)
    with pytest.raises(FaultError, match="at most 100"):
        book.set("/one-more", (("status", "500"),), None)
    for prefix, knobs, times in [("x", (), None), ("/", (("no", "1"),), None), ("/", (), 0)]:
        with pytest.raises(FaultError):
            book.set(prefix, knobs, times)


@given(
    st.lists(st.tuples(st.sampled_from(["_delay", "_status", "_cl_lie", "_size", "_header", "_cc", "x"]), st.text(max_size=30)))
)
def test_any_knobs_are_faults_or_an_error(pairs: list[tuple[str, str]]) -> None:
    try:
        parse(pairs)
    except FaultError as error:
        assert str(error)
