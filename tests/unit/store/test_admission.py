"""Who stays when memory is full: what is asked for most, whatever passes by; and never more than there is room for."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache.policy.purging import Purge
from edgecache.store import AdmissionPolicy, Entry, MemoryStore
from edgecache.store.frequency import Frequency
from loadtests.bench_admission import entry_of, run, traces

SIZE = entry_of(1).size_bytes


@given(st.lists(st.integers(0, 30), max_size=250))
def test_the_sketch_never_counts_too_little_within_a_period(keys: list[int]) -> None:
    frequency, counts = Frequency(64), Counter(keys)
    for key in keys:
        frequency.add(key)
    for key, count in counts.items():
        assert frequency.of(key) >= min(count, 15)
    assert frequency.of("never seen") <= 16


def test_the_sketch_forgets() -> None:
    frequency = Frequency(64)
    for _ in range(10):
        frequency.add("once popular")
    before = frequency.of("once popular")
    for number in range(640 * 8):
        frequency.add(number)
    assert before >= 10 and frequency.of("once popular") <= 5


def test_few_keys_are_taken_for_others() -> None:
    frequency = Frequency(1000)
    for number in range(1000):
        frequency.add(("known", number), 3)
    wrong = sum(frequency.of(("other", number)) > 1 for number in range(1000))
    assert wrong < 50


@pytest.mark.parametrize("policy", list(AdmissionPolicy))
def test_what_was_just_stored_answers_while_there_is_room(policy: AdmissionPolicy) -> None:
    store = MemoryStore(SIZE * 10, admission=policy)
    for number in range(10):
        assert store.put(entry_of(number))
        assert store.at((entry_of(number).uri, "")) is not None
    assert store.stats().entries == 10 and store.stats().evicted == 0


def test_one_crawl_does_not_displace_what_is_asked_for_often() -> None:
    def left(policy: AdmissionPolicy) -> int:
        store = MemoryStore(SIZE * 100, admission=policy)
        for _ in range(5):
            for number in range(50):
                if store.at((entry_of(number).uri, "")) is None:
                    store.put(entry_of(number))
        for number in range(1000, 1300):
            store.put(entry_of(number))
        return sum(store.at((entry_of(number).uri, "")) is not None for number in range(50))

    assert left(AdmissionPolicy.LRU) == 0
    assert left(AdmissionPolicy.TINYLFU) >= 45


def test_tinylfu_is_no_worse_on_a_steady_trace_and_better_beside_a_crawler() -> None:
    steady, crawler = (trace for trace in traces(1000, 15_000, 3) if _wanted(trace.name))
    for trace, gain in ((steady, -0.001), (crawler, 0.02)):
        lru = run(trace, SIZE * 100, AdmissionPolicy.LRU)[0]
        assert run(trace, SIZE * 100, AdmissionPolicy.TINYLFU)[0] >= lru + gain


def _wanted(name: str) -> bool:
    return name == "zipf 0.9" or "half of all" in name


steps = st.lists(
    st.tuples(st.sampled_from(["put", "at", "purge", "soft"]), st.integers(0, 40), st.integers(0, 9000)), max_size=150
)


@given(steps)
@settings(deadline=None)
def test_the_bound_and_the_books_hold_whatever_happens(actions: list[tuple[str, int, int]]) -> None:
    store = MemoryStore(40_000, admission=AdmissionPolicy.TINYLFU)
    gone: list[Entry] = []
    store.on_evict = gone.append
    held: dict[str, Entry] = {}
    for what, number, size in actions:
        uri = entry_of(number).uri
        match what:
            case "put":
                entry = replace(entry_of(number), body=bytes(size))
                if store.put(entry):
                    held[uri] = entry
            case "at":
                store.at((uri, ""))
            case _:
                store.purge(Purge(urls=(uri,), soft=what == "soft"))
                if what == "soft" and uri in held:
                    held[uri] = replace(held[uri], marked_stale=True)
                elif what == "purge":
                    held.pop(uri, None)
        found = {entry_of(n).uri: store.at((entry_of(n).uri, "")) for n in range(41)}
        kept = [entry for entry in found.values() if entry is not None]
        assert store.stats().entries == len(kept)
        assert store.stats().used_bytes == sum(entry.size_bytes for entry in kept) <= 40_000
        for uri_, entry_ in found.items():
            assert entry_ is None or entry_ == held[uri_]
    assert all(isinstance(entry, Entry) for entry in gone)


def test_a_long_entry_has_to_be_wanted_more_than_all_that_would_go_for_it() -> None:
    store = MemoryStore(SIZE * 20, admission=AdmissionPolicy.TINYLFU)
    chance = random.Random(1)
    for _ in range(400):
        number = chance.randrange(20)
        if store.at((entry_of(number).uri, "")) is None:
            store.put(entry_of(number))
    long = replace(entry_of(99), body=bytes(SIZE * 8))
    store.put(long)
    assert store.at((long.uri, "")) is None, "asked for once, against eight that are asked for all the time"
