"""Both tiers together answer as one store would, whatever memory has let go of, and whenever the process was started anew.

The model purges the naive way: it looks at every entry at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache.policy.fields import freeze
from edgecache.policy.freshness import terms
from edgecache.policy.message import Request, Response, Timed
from edgecache.policy.purging import Purge, matches
from edgecache.policy.rule import CacheRule
from edgecache.store import Entry, MemoryStore, TieredStore
from edgecache.store.disk import DiskSettings, DiskTier

RULE = CacheRule()
MIB = 1 << 20
URIS = [f"http://{host}/{path}" for host in ("a", "b") for path in ("x", "x/y")]
VARIANTS = ("-", "1:1")
TAGS = ("t", "u")
SITES = ("s", "o")
BARRIER = Purge(tag="nobody has it")


def entry(uri: str, variant: str = "-", site: str = "s", tags: frozenset[str] = frozenset(), *, time: float = 0.0) -> Entry:
    timed = Timed(Response(200, "OK", freeze([("Cache-Control", "max-age=60")])), time, time)
    return Entry(
        uri=uri,
        variant=f"x-v={variant}",
        vary=("x-v",),
        site=site,
        timed=timed,
        body=f"{uri} {variant} {time}".encode(),
        terms=terms(timed, RULE),
        tags=tags,
        head=b"HTTP/1.1 200 OK\r\n",
    )


def request(uri: str, variant: str = "-") -> Request:
    authority, _, path = uri.removeprefix("http://").partition("/")
    fields = [] if variant == "-" else [("X-V", variant.partition(":")[2])]
    return Request("GET", "http", authority, f"/{path}", freeze(fields))


async def opened(path: Path, memory_bytes: int = MIB, **more: int) -> TieredStore:
    tier = DiskTier(DiskSettings(path=path, capacity_bytes=16 * MIB, **more))
    await tier.start()
    return TieredStore(MemoryStore(memory_bytes), tier)


async def settled(store: TieredStore) -> None:
    """Until everything that was asked of the disk is done: orders are carried out one after the other."""
    await store.disk.purge(BARRIER)


@dataclass(frozen=True)
class Do:
    what: str
    uri: str
    variant: str


def purge_of(mode: str, **selector: object) -> Purge:
    return Purge(**selector, soft=mode == "soft", refresh=mode == "refresh")  # type: ignore[arg-type]


scope = {"mode": st.sampled_from(["hard", "soft", "refresh"]), "site": st.none() | st.sampled_from(SITES)}
purges = st.one_of(
    st.builds(purge_of, tag=st.sampled_from(TAGS), **scope),
    st.builds(purge_of, host=st.sampled_from(["a", "b"]), **scope),
    st.builds(purge_of, prefix=st.sampled_from(["http://a/", "http://a/x/"]), **scope),
    st.builds(purge_of, urls=st.lists(st.sampled_from(URIS), min_size=1, max_size=2).map(tuple), **scope),
    st.builds(purge_of, everything=st.just(True), **scope),
)
entries = st.builds(
    entry, st.sampled_from(URIS), st.sampled_from(VARIANTS), st.sampled_from(SITES), st.frozensets(st.sampled_from(TAGS))
)
WORK = ["look", "evict", "settle", "restart", "discard", "remove", "replace", "look", "evict"]
works = st.builds(Do, st.sampled_from(WORK), st.sampled_from(URIS), st.sampled_from(VARIANTS))


@given(st.lists(entries | purges | works | works, max_size=40))
@settings(max_examples=150, deadline=None)
def test_two_tiers_answer_as_one(steps: list[Entry | Purge | Do]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_walk(Path(folder) / "cache", steps))


async def test_a_purge_of_what_waits_to_be_written_does_not_bring_back_what_it_replaces(tmp_path: Path) -> None:
    store = await opened(tmp_path / "cache")
    uri = URIS[0]
    for time in range(1, 40, 2):
        store.put(entry(uri, "1:1", "s", frozenset(), time=time))
        await settled(store)
        assert store.get(uri, request(uri, "1:1"), RULE) is not None
        store.put(entry(uri, "1:1", "s", frozenset({"t"}), time=time + 1))
        store.purge(Purge(tag="t"))
        assert store.get(uri, request(uri, "1:1"), RULE) is None
        assert not store.disk.has(uri, "x-v=1:1")
        await settled(store)
        assert store.get(uri, request(uri, "1:1"), RULE) is None
    await store.disk.close()


async def _walk(path: Path, steps: list[Entry | Purge | Do]) -> None:
    store = await opened(path)
    held: dict[tuple[str, str], Entry] = {}
    times = itertools.count(1)
    try:
        for step in steps:
            match step:
                case Entry():
                    new = entry(step.uri, step.variant.removeprefix("x-v="), step.site, step.tags, time=next(times))
                    assert store.put(new)
                    held[(new.uri, new.variant)] = new
                case Purge():
                    store.purge(step)
                    _purge(held, step)
                case Do("restart"):
                    await store.disk.close()
                    store = await opened(path)
                case Do("settle"):
                    await settled(store)
                case Do():
                    _do(store, held, step, times)
            for uri, variant in itertools.product(URIS, VARIANTS):
                if (uri, f"x-v={variant}") not in held:
                    assert store.get(uri, request(uri, variant), RULE) is None
        for (uri, variant), expected in held.items():
            assert store.get(uri, request(uri, variant.removeprefix("x-v=")), RULE) == expected
    finally:
        await store.disk.close()


def _purge(held: dict[tuple[str, str], Entry], purge: Purge) -> None:
    for key in [key for key, one in held.items() if matches(purge, one)]:
        one = held[key]
        if purge.soft:
            held[key] = replace(one, marked_stale=True, renewing=False)
        elif purge.refresh:
            held[key] = replace(one, marked_stale=True, renewing=one.renewing or not one.marked_stale)
        else:
            del held[key]


def _do(store: TieredStore, held: dict[tuple[str, str], Entry], step: Do, times: itertools.count[int]) -> None:
    key = (step.uri, f"x-v={step.variant}")
    expected = held.get(key)
    found = store.get(step.uri, request(step.uri, step.variant), RULE)
    assert found == expected
    assert store.vary(step.uri) == (("x-v",) if any(uri == step.uri for uri, _ in held) else ())
    match step.what:
        case "evict":
            store.memory.forget(*key)
        case "discard":
            assert (found is not None and store.discard(found)) == (expected is not None)
            held.pop(key, None)
        case "remove":
            store.remove(step.uri)
            for variant in [variant for uri, variant in held if uri == step.uri]:
                del held[(step.uri, variant)]
        case "replace" if found is not None:
            time = float(next(times))
            new = replace(found, timed=Timed(found.timed.response, time, time), marked_stale=False, renewing=False)
            assert store.replace(found, new)
            held[key] = new


@pytest.mark.parametrize("again", [False, True])
async def test_what_took_its_place_is_neither_replaced_nor_discarded(tmp_path: Path, again: bool) -> None:
    store = await opened(tmp_path / "cache")
    old, newer = entry("http://a/x", time=1), entry("http://a/x", time=2)
    store.put(old)
    store.put(newer)
    if again:
        await settled(store)
        store.memory.forget(newer.uri, newer.variant)
    assert not store.discard(old) and not store.replace(old, entry("http://a/x", time=3))
    assert store.get("http://a/x", request("http://a/x"), RULE) == newer
    await store.disk.close()


async def test_validation_does_not_write_the_body_again(tmp_path: Path) -> None:
    store = await opened(tmp_path / "cache")
    old = replace(entry("http://a/x", time=1), body=bytes(200_000))
    store.put(old)
    await settled(store)
    size = sum(file.stat().st_size for file in (tmp_path / "cache").glob("*.seg"))
    for time in range(2, 10):
        found = store.get("http://a/x", request("http://a/x"), RULE)
        assert found is not None
        assert store.replace(found, replace(found, timed=Timed(found.timed.response, time, time)))
        await settled(store)
    assert sum(file.stat().st_size for file in (tmp_path / "cache").glob("*.seg")) == size
    store.memory.forget(old.uri, old.variant)
    found = store.get("http://a/x", request("http://a/x"), RULE)
    assert found is not None and found.timed.response_time == 9 and len(found.body) == 200_000
    await store.disk.close()


async def test_of_too_many_variants_the_oldest_goes(tmp_path: Path) -> None:
    tier = DiskTier(DiskSettings(path=tmp_path / "cache", capacity_bytes=16 * MIB), max_variants=3)
    await tier.start()
    store = TieredStore(MemoryStore(MIB), tier)
    for number in range(6):
        store.put(entry("http://a/x", f"1:{number}", time=number))
    await settled(store)
    assert tier.stats().objects == 3
    for number in range(6):
        store.memory.forget("http://a/x", f"x-v=1:{number}")
        assert (store.get("http://a/x", request("http://a/x", f"1:{number}"), RULE) is not None) == (number >= 3)
    await tier.close()


async def test_what_the_queue_does_not_take_leaves_nothing_older_behind(tmp_path: Path) -> None:
    store = await opened(tmp_path / "cache", queue_bytes=1000)
    store.put(entry("http://a/x", time=1))
    await settled(store)
    store.put(replace(entry("http://a/x", time=2), body=bytes(2000)))
    await settled(store)
    store.memory.forget("http://a/x", "x-v=-")
    assert store.get("http://a/x", request("http://a/x"), RULE) is None
    assert store.disk.stats().refused == 1
    await store.disk.close()


async def test_purges_visit_every_row_and_are_done(tmp_path: Path) -> None:
    store = await opened(tmp_path / "cache")
    for number in range(1200):
        store.put(entry(f"http://a/{number}", tags=frozenset({"t" if number % 2 else "u"}), time=number))
    purging = store.purge(Purge(tag="t"))
    assert purging.recorded is not None and await purging.recorded == 600
    assert await store.disk.purge(Purge(host="a", soft=True)) == 600
    async with asyncio.timeout(20):
        while store.disk.stats().purges_pending:
            await asyncio.sleep(0.01)
    assert store.disk.stats().objects == 600
    await store.disk.close()
    store = await opened(tmp_path / "cache")
    for number in range(1200):
        found = store.get(f"http://a/{number}", request(f"http://a/{number}"), RULE)
        assert (found is not None and found.marked_stale) == (number % 2 == 0)
    await store.disk.close()


@pytest.mark.long
async def test_what_answers_is_kept_when_room_is_made(tmp_path: Path) -> None:
    store = await opened(tmp_path / "cache", memory_bytes=64 << 10)
    store.put(replace(entry("http://a/hot", time=1), body=b"hot" * 1000))
    for number in range(3000):
        store.put(replace(entry(f"http://a/{number}", time=number), body=bytes(20_000)))
        if number % 20 == 0:
            await settled(store)
            found = store.get("http://a/hot", request("http://a/hot"), RULE)
            assert found is not None and found.body == b"hot" * 1000, number
            store.memory.forget("http://a/hot", "x-v=-")
    stats = store.disk.stats()
    assert stats.evicted > 1000 and stats.used_bytes <= 16 * MIB
    await store.disk.close()


@pytest.mark.long
async def test_many_small_objects_and_their_index_stay_within_the_bytes(tmp_path: Path) -> None:
    store = await opened(tmp_path / "cache", memory_bytes=64 << 10)
    for number in range(24_000):
        store.disk.put(replace(entry(f"http://a/{number}", time=number), body=b"x"))
        if number % 1000 == 0:
            await settled(store)
    await settled(store)
    used = subprocess.run(["du", "-sB1", tmp_path / "cache"], capture_output=True, check=True, text=True)
    assert int(used.stdout.split()[0]) <= 16 * MIB
    assert store.disk.stats().evicted > 0 and store.disk.stats().failures == 0
    await store.disk.close()


async def test_a_disk_that_refuses_is_no_answer_until_it_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index is closed under the tier: every transaction fails, as on a disk that has gone."""
    store = await opened(tmp_path / "cache")
    store.put(entry("http://a/x", tags=frozenset({"t"}), time=1))
    await settled(store)
    monkeypatch.setattr("edgecache.store.disk.tier._AGAIN_SECONDS", 0.05)
    index = store.disk._index
    assert index is not None

    @contextlib.contextmanager
    def failing() -> Iterator[None]:
        raise OSError("no such disk")
        yield

    with monkeypatch.context() as patched:
        patched.setattr(index, "writing", failing)
        purging = store.purge(Purge(tag="t"))
        assert purging.recorded is not None
        with pytest.raises(OSError, match="no such disk"):
            await purging.recorded
        assert store.get("http://a/x", request("http://a/x"), RULE) is None
        assert store.put(entry("http://a/y", time=2)), "memory takes it all the same"
    async with asyncio.timeout(10):
        while store.disk.stats().objects or store.disk._pending.purging:
            await asyncio.sleep(0.01)
    store.put(entry("http://a/x", time=3))
    await settled(store)
    store.memory.forget("http://a/x", "x-v=-")
    assert store.get("http://a/x", request("http://a/x"), RULE) is not None
    await store.disk.close()


async def test_reclaimed_segments_are_not_kept_open(tmp_path: Path) -> None:
    store = await opened(tmp_path / "cache", memory_bytes=64 << 10)
    for number in range(1500):
        store.disk.put(replace(entry(f"http://a/{number}", time=number), body=bytes(20_000)))
        if number % 25 == 0:
            await settled(store)
            store.get(f"http://a/{number}", request(f"http://a/{number}"), RULE)
    async with asyncio.timeout(10):
        while any("deleted" in target for target in _open_files(tmp_path)):
            await asyncio.sleep(0.1)
    assert store.disk.stats().evicted > 0
    await store.disk.close()


def _open_files(folder: Path) -> list[str]:
    targets = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            targets.append(os.readlink(link))
    return [target for target in targets if str(folder) in target]
