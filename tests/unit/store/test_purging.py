"""Invariant: whatever is purged never answers again, from the moment of the purge, however far its sweep has come.

The model purges the naive way: it looks at every entry at once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache.policy.fields import freeze
from edgecache.policy.freshness import terms
from edgecache.policy.message import Request, Response, Timed
from edgecache.policy.purging import Purge, matches
from edgecache.policy.rule import CacheRule
from edgecache.store import Entry, MemoryStore
from edgecache.store.purging import Purging

RULE = CacheRule()
TIMED = Timed(Response(200, "OK", freeze([("Cache-Control", "max-age=60")])), 0, 0)
TERMS = terms(TIMED, RULE)
URIS = [f"http://{host}/{path}" for host in ("a", "a:81", "b") for path in ("x", "x/y", "z")]
VARIANTS = ("-", "1:1", "1:2")
TAGS = ("t", "u", "v")
SITES = ("s", "o")


def entry(uri: str, variant: str, site: str, tags: frozenset[str], body: bytes = b"x") -> Entry:
    return Entry(
        uri=uri, variant=f"x-v={variant}", vary=("x-v",), site=site, timed=TIMED, body=body, terms=TERMS, tags=tags
    )  # fmt: skip


@dataclass(frozen=True)
class Sweep:
    limit: int


@dataclass(frozen=True)
class Look:
    uri: str
    variant: str
    how: str


entries = st.builds(
    entry, st.sampled_from(URIS), st.sampled_from(VARIANTS), st.sampled_from(SITES), st.frozensets(st.sampled_from(TAGS))
)
modes = st.sampled_from(["hard", "soft", "refresh"])


def purge_of(mode: str, **selector: object) -> Purge:
    return Purge(**selector, soft=mode == "soft", refresh=mode == "refresh")  # type: ignore[arg-type]


scope = {"mode": modes, "site": st.none() | st.sampled_from(SITES)}
purges = st.one_of(
    st.builds(purge_of, tag=st.sampled_from(TAGS), **scope),
    st.builds(purge_of, host=st.sampled_from(["a", "a:81", "b"]), **scope),
    st.builds(purge_of, prefix=st.sampled_from(["http://a/", "http://a/x", "http://b/z"]), **scope),
    st.builds(purge_of, urls=st.lists(st.sampled_from(URIS), min_size=1, max_size=3).map(tuple), **scope),
    st.builds(purge_of, site=st.sampled_from(SITES), mode=modes),
    st.builds(purge_of, everything=st.just(True), **scope),
)
looks = st.builds(
    Look, st.sampled_from(URIS), st.sampled_from(VARIANTS), st.sampled_from(["get", "at", "vary", "remove", "discard"])
)
actions = st.lists(entries | entries | purges | looks | st.builds(Sweep, st.integers(1, 4)), max_size=60)


class Model:
    """All entries, each looked at by each purge."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], Entry] = {}

    def purge(self, purge: Purge) -> int:
        found = [key for key, held in self.held.items() if matches(purge, held)]
        for key in found:
            held = self.held[key]
            if purge.soft:
                self.held[key] = replace(held, marked_stale=True, renewing=False)
            elif purge.refresh:
                self.held[key] = replace(held, marked_stale=True, renewing=held.renewing or not held.marked_stale)
            else:
                del self.held[key]
        return len(found)

    def variants(self, uri: str) -> list[tuple[str, str]]:
        return [key for key in self.held if key[0] == uri]


def request(uri: str, variant: str) -> Request:
    authority, _, path = uri.removeprefix("http://").partition("/")
    fields = [] if variant == "-" else [("X-V", variant.partition(":")[2])]
    return Request("GET", "http", authority, f"/{path}", freeze(fields))


def look(store: MemoryStore, model: Model, asked: Look) -> None:
    uri, variant = asked.uri, f"x-v={asked.variant}"
    expected = model.held.get((uri, variant))
    match asked.how:
        case "get":
            assert store.get(uri, request(uri, asked.variant), RULE) == expected
        case "at":
            assert store.at((uri, variant)) == expected
        case "vary":
            assert store.vary(uri) == (("x-v",) if model.variants(uri) else ())
        case "remove":
            assert store.remove(uri) == len(model.variants(uri))
            for key in model.variants(uri):
                del model.held[key]
        case "discard":
            held = store.at((uri, variant))
            assert (held is not None and store.discard(held)) == (expected is not None)
            model.held.pop((uri, variant), None)


@given(st.sampled_from([0, 3, 500]), actions)
@settings(max_examples=400, deadline=None)
def test_a_purge_is_in_force_at_once_and_counts_truly(at_once: int, steps: list[object]) -> None:
    store, model = MemoryStore(1 << 20, purge_at_once=at_once), Model()
    under_way: list[tuple[Purging[tuple[str, str]], int]] = []
    for step in steps:
        match step:
            case Entry():
                assert store.put(step)
                model.held[(step.uri, step.variant)] = step
            case Purge():
                purging, expected = store.purge(step), model.purge(step)
                assert purging.count in (expected, None)
                under_way.append((purging, expected))
            case Look():
                look(store, model, step)
            case Sweep(limit):
                store.reclaim(limit)
    while store.reclaim(3):
        pass
    assert [purging.count for purging, _ in under_way] == [expected for _, expected in under_way]
    assert {(uri, v): store.at((uri, f"x-v={v}")) for uri in URIS for v in VARIANTS} == {
        (uri, v): model.held.get((uri, f"x-v={v}")) for uri in URIS for v in VARIANTS
    }
    stats = store.stats()
    held = model.held.values()
    assert (stats.entries, stats.used_bytes) == (len(held), sum(one.size_bytes for one in held))
    assert (stats.uris, stats.tags) == (
        len({one.uri for one in held}),
        len({(one.site, tag) for one in held for tag in one.tags}),
    )
    assert stats.purged == sum(expected for _, expected in under_way)
    for purge in (Purge(tag="t"), Purge(site="s"), Purge(everything=True)):
        assert store.purge(purge).listed in (model.purge(purge), None)
        while store.reclaim(50):
            pass
    assert (store.stats().entries, store.stats().used_bytes, store.stats().tags) == (0, 0, 0)


@given(actions)
@settings(max_examples=100, deadline=None)
def test_eviction_among_entries_to_be_swept_keeps_the_bound(steps: list[object]) -> None:
    store, model = MemoryStore(12_000, purge_at_once=0), Model()
    for step in steps:
        match step:
            case Entry():
                store.put(step)
                model.held[(step.uri, step.variant)] = step
            case Purge():
                store.purge(step)
                model.purge(step)
            case Look(uri, variant):
                assert store.at((uri, f"x-v={variant}")) in (model.held.get((uri, f"x-v={variant}")), None)
            case Sweep(limit):
                store.reclaim(limit)
        assert store.stats().used_bytes <= 12_000
    while store.reclaim(3):
        pass
    left = [kept for uri in URIS for v in VARIANTS if (kept := store.at((uri, f"x-v={v}")))]
    assert store.stats().used_bytes == sum(kept.size_bytes for kept in left)


def test_replacing_what_a_purge_has_removed_stores_nothing() -> None:
    store = MemoryStore(1 << 20, purge_at_once=0)
    old = entry(URIS[0], "-", "s", frozenset({"t"}))
    store.put(old)
    store.purge(Purge(tag="t"))
    assert not store.replace(old, replace(old, body=b"revalidated"))
    assert store.at((old.uri, old.variant)) is None


def test_too_many_large_purges_at_a_time_are_said_to_be() -> None:
    store = MemoryStore(1 << 20, purge_at_once=0)
    store.put(entry(URIS[0], "-", "s", frozenset({"t"})))
    while not store.crowded:
        store.purge(Purge(tag="t"))
    while store.reclaim(10):
        pass
    assert not store.crowded


def test_a_refresh_lists_what_is_still_there_to_be_fetched() -> None:
    store = MemoryStore(1 << 20, purge_at_once=0)
    first, second, third = (entry(uri, "-", "s", frozenset({"t"})) for uri in URIS[:3])
    for one in (first, second, third):
        store.put(one)
    store.purge(Purge(tag="t", refresh=True))
    while store.reclaim(1):
        pass
    store.put(first)
    store.purge(Purge(urls=(second.uri,)))
    found = {held.uri for _ in range(store.renewals) if (held := store.next_renewal())}
    assert (found, store.renewals) == ({third.uri}, 0)
