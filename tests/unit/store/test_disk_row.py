"""A row of the disk tier's index is read as it was written, or not at all."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.policy.fields import freeze
from edgecache.policy.freshness import terms
from edgecache.policy.message import Response, Timed
from edgecache.policy.rule import CacheRule
from edgecache.store import Entry
from edgecache.store.disk import row as rows
from edgecache.store.disk.row import CorruptRow, Place, Unstorable

TEXT = st.text(st.characters(exclude_characters="\0"), max_size=20)
NAMES = st.sampled_from(["Content-Type", "ETag", "X-A", "Cache-Control", "Vary"])


@st.composite
def entries(draw: st.DrawFn) -> Entry:
    fields = draw(st.lists(st.tuples(NAMES, TEXT), max_size=6))
    timed = Timed(Response(draw(st.integers(200, 599)), draw(TEXT), freeze(fields)), draw(st.floats(0, 2e9)), 1.5)
    return Entry(
        uri=draw(TEXT),
        variant=draw(TEXT),
        vary=tuple(draw(st.lists(TEXT, max_size=3))),
        site=draw(TEXT),
        timed=timed,
        body=draw(st.binary(max_size=20)),
        terms=terms(timed, CacheRule()),
        tags=frozenset(draw(st.sets(TEXT, max_size=3))),
        marked_stale=draw(st.booleans()),
        renewing=draw(st.booleans()),
        head=draw(st.binary(max_size=40)),
    )


PLACES = st.builds(Place, *(st.integers(0, 2**63),) * 3, st.integers(0, 2**32 - 1))


@given(entries(), PLACES, st.integers(0, 2**63))
def test_an_entry_comes_back_as_it_was(entry: Entry, place: Place, serial: int) -> None:
    row = rows.encode(entry, place, serial)
    assert rows.fixed(row) == rows.Fixed(place, serial, entry.marked_stale, entry.renewing, entry.timed.response_time)
    assert rows.label(row) == rows.Label(entry.uri, entry.variant, entry.site, entry.vary, entry.tags)
    assert rows.entry_of(row, entry.body, stale=entry.marked_stale, renewing=entry.renewing) == entry
    moved = rows.changed(row, place=Place(1, 2, 3, 4), serial=serial + 1, stale=True, renewing=False)
    assert rows.fixed(moved).place == Place(1, 2, 3, 4) and rows.label(moved) == rows.label(row) and rows.proven(moved)


@given(entries(), st.data())
def test_any_other_bytes_are_no_row(entry: Entry, data: st.DataObject) -> None:
    row = bytearray(rows.encode(entry, Place(1, 2, 3, 4), 0))
    position = data.draw(st.integers(0, len(row) - 1))
    if data.draw(st.booleans()):
        row[position] ^= data.draw(st.integers(1, 255))
    else:
        del row[position:]
    with pytest.raises(CorruptRow):
        rows.entry_of(bytes(row), b"", stale=False, renewing=False)


@given(st.binary(max_size=200))
def test_reading_parts_of_anything_raises_nothing_else(data: bytes) -> None:
    for read in (rows.fixed, rows.label):
        with contextlib.suppress(CorruptRow):
            read(data)


def test_a_nul_is_not_stored() -> None:
    timed = Timed(Response(200, "OK", freeze([("X", "a\0b")])), 0, 0)
    entry = Entry(uri="u", variant="", vary=(), site="s", timed=timed, body=b"", terms=terms(timed, CacheRule()))
    with pytest.raises(Unstorable):
        rows.encode(entry, Place(1, 2, 3, 4), 0)
