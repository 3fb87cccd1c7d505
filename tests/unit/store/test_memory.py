"""The memory tier keeps its bound, its variants apart, and its index true."""

from __future__ import annotations

import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache.policy.fields import freeze
from edgecache.policy.freshness import terms
from edgecache.policy.message import Request, Response, Timed
from edgecache.policy.purging import Purge
from edgecache.policy.rule import CacheRule
from edgecache.policy.variance import variant_key
from edgecache.store import Entry, MemoryStore

RULE = CacheRule()


def request(uri: str = "http://a/x", **fields: str) -> Request:
    scheme, _, rest = uri.partition("://")
    authority, _, path = rest.partition("/")
    headers = freeze((name.replace("_", "-"), value) for name, value in fields.items())
    return Request("GET", scheme, authority, f"/{path}", headers)


def entry(
    uri: str = "http://a/x",
    body: bytes = b"x",
    vary: tuple[str, ...] = (),
    tags: tuple[str, ...] = (),
    site: str = "s",
    **fields: str,
) -> Entry:
    timed = Timed(Response(200, "OK", freeze([("Cache-Control", "max-age=60")])), 0, 0)
    variant = variant_key(request(uri, **fields), vary, RULE)
    return Entry(
        uri=uri, variant=variant, vary=vary, site=site, timed=timed, body=body, terms=terms(timed, RULE), tags=frozenset(tags)
    )


def test_an_entry_is_found_by_uri_and_variant() -> None:
    store = MemoryStore(1 << 20)
    german, french = (entry(vary=("accept-language",), Accept_Language=lang) for lang in ("de", "fr"))
    assert store.put(german) and store.put(french)
    assert store.get("http://a/x", request(Accept_Language="de"), RULE) is german
    assert store.get("http://a/x", request(Accept_Language="fr"), RULE) is french
    assert store.get("http://a/x", request(), RULE) is None
    assert store.remove("http://a/x") == 2
    assert store.stats().used_bytes == 0


def test_another_vary_drops_the_variants_that_cannot_be_found_again() -> None:
    store = MemoryStore(1 << 20)
    store.put(entry(vary=("accept-language",), Accept_Language="de"))
    store.put(entry(vary=("accept",), Accept="a/b"))
    assert store.stats().entries == 1
    assert store.vary("http://a/x") == ("accept",)


def test_the_least_recently_used_go_first() -> None:
    one = entry("http://a/0", bytes(1000)).size_bytes
    store = MemoryStore(one * 3 + one // 2)
    for i in range(3):
        store.put(entry(f"http://a/{i}", bytes(1000)))
    assert store.get("http://a/0", request("http://a/0"), RULE) is not None
    store.put(entry("http://a/3", bytes(1000)))
    assert store.get("http://a/1", request("http://a/1"), RULE) is None
    assert store.get("http://a/0", request("http://a/0"), RULE) is not None
    assert store.stats().evicted == 1


def test_what_is_too_large_is_refused_and_replaces_nothing_silently() -> None:
    store = MemoryStore(10_000)
    store.put(entry(body=b"old"))
    assert not store.put(entry(body=bytes(9000)))
    assert store.get("http://a/x", request(), RULE) is None, "the old one is not what the source says now"
    assert store.stats().refused == 1


def test_variants_are_bounded() -> None:
    store = MemoryStore(1 << 20, max_variants=4)
    for i in range(10):
        store.put(entry(vary=("x-v",), X_V=str(i)))
    assert store.stats().entries == 4
    assert store.get("http://a/x", request(X_V="9"), RULE) is not None


def test_replace_and_discard_touch_only_the_entry_that_was_seen() -> None:
    store = MemoryStore(1 << 20)
    old, newer = entry(body=b"1"), entry(body=b"2")
    store.put(old)
    store.put(newer)
    assert not store.replace(old, entry(body=b"3"))
    assert not store.discard(old)
    assert store.replace(newer, entry(body=b"3"))


def test_purges() -> None:
    store = MemoryStore(1 << 20)

    def fill() -> None:
        store.put(entry("http://a/1", tags=("t", "u"), site="s"))
        store.put(entry("http://a/2", tags=("t",), site="s"))
        store.put(entry("http://b/1", tags=("t",), site="other"))

    for purge, count in (
        (Purge(tag="t"), 3),
        (Purge(tag="u"), 1),
        (Purge(tag="t", site="s"), 2),
        (Purge(site="other"), 1),
        (Purge(host="a"), 2),
        (Purge(prefix="http://a/"), 2),
        (Purge(urls=("http://a/1", "http://c/")), 1),
        (Purge(everything=True), 3),
        (Purge(tag="none"), 0),
    ):
        fill()
        assert store.purge(purge).touched == count
        assert store.stats().entries == 3 - count
        store.purge(Purge(everything=True))
        assert (store.stats().used_bytes, store.stats().tags) == (0, 0)


def test_a_soft_purge_marks_and_keeps() -> None:
    store = MemoryStore(1 << 20)
    store.put(entry(tags=("t",)))
    assert store.purge(Purge(tag="t", soft=True)).count == 1
    found = store.get("http://a/x", request(), RULE)
    assert found is not None and found.marked_stale


steps = st.lists(
    st.tuples(st.sampled_from(["put", "remove", "tag", "soft"]), st.integers(0, 5), st.integers(0, 3), st.integers(0, 3000)),
    max_size=60,
)


@given(steps)
@settings(max_examples=150)
def test_the_bound_and_the_accounting_hold(actions: list[tuple[str, int, int, int]]) -> None:
    """Invariant: used_bytes is the sum of what is held, never above the capacity; empty means zero everywhere."""
    store = MemoryStore(12_000, max_variants=3)
    for action, number, variant, size in actions:
        uri = f"http://a/{number}"
        if action == "put":
            store.put(entry(uri, bytes(size), ("x-v",), (f"t{number % 2}",), X_V=str(variant)))
        elif action == "remove":
            store.remove(uri)
        else:
            store.purge(Purge(tag=f"t{number % 2}", soft=action == "soft"))
        held = [store.get(f"http://a/{n}", request(f"http://a/{n}", X_V=str(v)), RULE) for n in range(6) for v in range(4)]
        assert store.stats().used_bytes == sum(e.size_bytes for e in held if e is not None) <= 12_000
        assert store.stats().entries == sum(e is not None for e in held)
    store.purge(Purge(everything=True))
    stats = store.stats()
    assert (stats.used_bytes, stats.entries, stats.uris, stats.tags) == (0, 0, 0, 0)


def test_the_accounting_is_close_to_what_memory_is_used() -> None:
    tracemalloc.start()
    store = MemoryStore(64 << 20)
    before, _ = tracemalloc.get_traced_memory()
    for i in range(2000):
        response = Response(200, "OK", freeze([(f"X-Field-{k}", f"value {k} {i}") for k in range(8)]))
        timed = Timed(response, 0.5 + i, 1.5 + i)
        store.put(
            Entry(
                uri=f"http://a/{i}", variant="", vary=(), site="s", timed=timed, body=bytes(500), terms=terms(timed, RULE),
                tags=frozenset({f"tag{i}"}), head=bytes(300),
            )
        )  # fmt: skip
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    measured = used - before
    assert 0.7 < store.stats().used_bytes / measured < 2.0
