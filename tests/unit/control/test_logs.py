"""Guests' logs: bounded in lines, bytes and generators; nothing in them acts on who reads them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edgecache.control.logs import GuestLogs, escape
from edgecache.control.settings import LogLimits
from edgecache.generate.telling import RESTING

LIMITS = LogLimits(lines=5, bytes=60, line_bytes=20, generators=3)


def logs() -> GuestLogs:
    return GuestLogs(LIMITS, lambda: 7.0)


def test_lines_are_read_back_with_their_request() -> None:
    kept = logs()
    kept.of("shop", "hello").write(2, "r-1", b"one\ntwo\n")
    page = kept.read("shop", "hello", lines=10)
    assert [(line.seq, line.time, line.version, line.request_id, line.text) for line in page.lines] == [
        (1, 7.0, 2, "r-1", "one"),
        (2, 7.0, 2, "r-1", "two"),
    ]
    assert (page.dropped, page.next) == (0, 2)


def test_that_a_generator_rests_is_kept_once_each_time() -> None:
    kept = GuestLogs(LogLimits(), lambda: 7.0)
    for data in (b"at work", RESTING, RESTING, RESTING, b"at work", RESTING, RESTING):
        kept.write("shop", "hello", 1, "r", data)
    said = [line.text[:22] for line in kept.read("shop", "hello", lines=10).lines]
    assert said == ["at work", "edge: requests are ref", "at work", "edge: requests are ref"]


def test_the_oldest_lines_go_and_are_counted() -> None:
    kept = logs()
    for number in range(8):
        kept.write("shop", "hello", 1, "r", b"%d" % number)
    page = kept.read("shop", "hello", lines=3)
    assert [line.text for line in page.lines] == ["5", "6", "7"]
    assert page.dropped == 3


def test_following_sees_every_line_once() -> None:
    kept = logs()
    seen: list[str] = []
    after = 0
    for number in range(4):
        kept.write("shop", "hello", 1, "r", b"a%d\nb%d" % (number, number))
        page = kept.read("shop", "hello", lines=10, after=after)
        seen += [line.text for line in page.lines]
        after = page.next
    assert seen == ["a0", "b0", "a1", "b1", "a2", "b2", "a3", "b3"]
    assert kept.read("shop", "hello", lines=10, after=after).lines == ()
    assert kept.read("shop", "hello", lines=10, after=1_000).lines, "numbers from before a restart start over"


def test_a_flood_in_one_write_is_cut() -> None:
    kept = logs()
    kept.write("shop", "hello", 1, "r", b"x\n" * 100_000)
    page = kept.read("shop", "hello", lines=10)
    assert len(page.lines) == 5
    assert page.dropped == 100_000 - 5


def test_the_generator_that_was_quiet_longest_is_forgotten_first() -> None:
    kept = logs()
    for name in ("a", "b", "c", "a", "d"):
        kept.write("shop", name, 1, "r", b"x")
    assert [name for name in "abcd" if kept.read("shop", name, lines=1).lines] == ["a", "c", "d"]


def test_a_removed_generators_lines_are_gone() -> None:
    kept = logs()
    for site, name in (("shop", "a"), ("shop", "b"), ("shopping", "a")):
        kept.write(site, name, 1, "r", b"x")
    kept.remove("shop", "a")
    assert not kept.read("shop", "a", lines=1).lines
    assert kept.read("shop", "b", lines=1).lines
    kept.remove("shop")
    assert not kept.read("shop", "b", lines=1).lines
    assert kept.read("shopping", "a", lines=1).lines


def test_what_a_terminal_would_obey_is_escaped() -> None:
    assert escape(b"\x1b[31mred\x07\r\x9b\0", 100) == "\\x1b[31mred\\x07\\r\\x9b\\x00"
    assert escape("a\u202eb\u2028".encode(), 100) == "a\\u202eb\\u2028"
    assert escape(b"tab\tis kept", 100) == "tab\tis kept"


@given(st.lists(st.binary(max_size=200), max_size=30))
def test_nothing_passes_the_bounds(writes: list[bytes]) -> None:
    kept = logs()
    for data in writes:
        kept.write("shop", "hello", 1, "r", data)
    lines = kept.read("shop", "hello", lines=1_000).lines
    assert len(lines) <= LIMITS.lines
    assert sum(len(line.text) for line in lines) <= LIMITS.bytes
    assert all(len(line.text) <= LIMITS.line_bytes + 1 for line in lines)
    assert all(character.isprintable() or character == "\t" for line in lines for character in line.text)
