"""What was asked for before a purge is not stored after it; of purges that are on record, what was on it is remembered."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from edgecache.policy.purging import Purge
from edgecache.serve.purging.purges import RecentPurges


@dataclass(frozen=True)
class Named:
    uri: str
    site: str = "s"
    tags: frozenset[str] = frozenset()


class Record:
    """Of all processes."""

    def __init__(self) -> None:
        self.serial = 0

    def __call__(self) -> int:
        return self.serial


@given(st.lists(st.sampled_from(["purge a", "purge b", "recorded", "ask"]), max_size=30), st.integers(1, 6))
def test_what_is_asked_for_is_held_against_later_purges_and_is_newer_than_what_was_on_record(
    does: list[str], capacity: int
) -> None:
    record, asked = Record(), list[tuple[int, int, list[str]]]()
    purges = RecentPurges(record, capacity)
    for what in does:
        match what:
            case "ask":
                asked.append((purges.now(), record.serial, []))
            case "recorded":
                record.serial += 1
            case _:
                uri = f"http://{what[-1]}/"
                purges.note(Purge(urls=(uri,)))
                for _, _, since in asked:
                    since.append(uri)
    for since, serial, later in asked:
        assert purges.on_record(since) in (serial, 0)
        for uri in ("http://a/", "http://b/"):
            allowed = purges.allow(Named(uri), since)
            assert not (allowed and uri in later)
            # Only what is too long ago is refused without a reason.
            assert allowed or uri in later or purges.count - since > capacity
            if purges.count - since < capacity:
                assert purges.on_record(since) == serial
