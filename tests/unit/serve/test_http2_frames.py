"""Frames are the same however the stream is cut; compression means what the hpack library means; floods have their budgets."""

from __future__ import annotations

from itertools import pairwise

import pytest
from h2.errors import ErrorCodes
from hpack import Decoder, Encoder
from hyperframe.frame import ContinuationFrame, DataFrame, GoAwayFrame, HeadersFrame, PingFrame, SettingsFrame
from hypothesis import given
from hypothesis import strategies as st

from edgecache.serve.http2.floods import FloodBudget, FloodGuard
from edgecache.serve.http2.frames import PREFACE, ConnectionFault, Frame, FrameCutter, FrameType
from edgecache.serve.http2.hpack import CONTENT_LENGTH, PREPARED, FieldDecoder, FieldEncoder, encode

PING = PingFrame(0, opaque_data=b"12345678").serialize()
START = PREFACE + SettingsFrame(0, settings={3: 100}).serialize()

frames = st.one_of(
    st.builds(lambda data: DataFrame(1, data=data).serialize(), st.binary(max_size=300)),
    st.just(PING),
    st.builds(lambda data: HeadersFrame(3, data=data, flags=["END_HEADERS"]).serialize(), st.binary(max_size=100)),
    st.just(HeadersFrame(5, data=b"a").serialize() + ContinuationFrame(5, data=b"b", flags=["END_HEADERS"]).serialize()),
    st.just(GoAwayFrame(0, last_stream_id=1).serialize()),
    st.just(b"\x00\x00\x03\xee\x00\x00\x00\x00\x07abc"),
)


@given(st.lists(frames, max_size=12), st.lists(st.integers(0, 4000), max_size=12))
def test_cutting_does_not_depend_on_how_bytes_arrive(said: list[bytes], cuts: list[int]) -> None:
    data = START + b"".join(said)
    whole = FrameCutter(1000).cut(data)
    assert b"".join(raw for _, raw in whole) == data
    assert whole[0][1] == START
    assert all(len(raw) == 9 + frame.length for frame, raw in whole[1:])
    cutter = FrameCutter(1000)
    found = list[tuple[Frame, bytes]]()
    points = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    for start, end in pairwise(points):
        found += cutter.cut(data[start:end])
    assert found == whole
    assert not cutter.in_head


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"GET ", ErrorCodes.PROTOCOL_ERROR),
        (PREFACE + PING, ErrorCodes.PROTOCOL_ERROR),
        (START + b"\x00\x40\x01\x00\x00\x00\x00\x00\x01", ErrorCodes.FRAME_SIZE_ERROR),
        (
            START + HeadersFrame(1, data=b"a").serialize() + PING,
            ErrorCodes.PROTOCOL_ERROR,
        ),
        (START + HeadersFrame(1, data=b"a" * 1001).serialize(), ErrorCodes.ENHANCE_YOUR_CALM),
        (START + HeadersFrame(1, data=b"a").serialize() + ContinuationFrame(1).serialize() * 17, ErrorCodes.ENHANCE_YOUR_CALM),
        (START + b"\x00\x00\x04\x05\x04\x00\x00\x00\x01\x00\x00\x00\x02", ErrorCodes.PROTOCOL_ERROR),
        (START + b"\x00\x00\x04\x07\x00\x00\x00\x00\x00\x00\x00\x00\x02", ErrorCodes.PROTOCOL_ERROR),
    ],
)
def test_what_ends_the_connection_before_it_is_parsed(data: bytes, code: ErrorCodes) -> None:
    with pytest.raises(ConnectionFault) as caught:
        FrameCutter(1000).cut(data)
    assert caught.value.code == code


@given(st.binary(max_size=400))
def test_any_bytes_are_frames_or_a_fault(data: bytes) -> None:
    cutter = FrameCutter(1000)
    try:
        found = cutter.cut(START + data)
    except ConnectionFault:
        return
    assert (START + data).startswith(b"".join(raw for _, raw in found))


def test_a_head_that_has_begun_is_told() -> None:
    cutter = FrameCutter(1000)
    assert cutter.in_head
    cutter.cut(START)
    assert not cutter.in_head
    cutter.cut(HeadersFrame(1, data=b"abc").serialize()[:11])
    assert cutter.in_head
    cutter.cut(HeadersFrame(1, data=b"abc").serialize()[11:])
    assert cutter.in_head
    cutter.cut(ContinuationFrame(1, data=b"", flags=["END_HEADERS"]).serialize())
    assert not cutter.in_head
    cutter.cut(DataFrame(1, data=b"abc").serialize()[:10])
    assert not cutter.in_head


names = st.sampled_from([b":path", b"accept", b"x-a", b"cookie", b"content-type", b"set-cookie", b"etag"])
values = st.one_of(st.sampled_from([b"/", b"1", b"text/html"]), st.binary(max_size=400))
lists = st.lists(st.tuples(names, values), min_size=1, max_size=8)


@given(st.lists(lists, max_size=8))
def test_what_is_encoded_is_what_any_decoder_reads(blocks: list[list[tuple[bytes, bytes]]]) -> None:
    encoder, decoder = FieldEncoder(), Decoder()
    for fields in blocks:
        prepared = [(PREPARED, encode(fields[1:]))] if fields[1:] else []
        assert [tuple(pair) for pair in decoder.decode(encoder.encode([fields[0], *prepared]), raw=True)] == fields


@given(st.lists(st.tuples(st.integers(0, 3), lists, st.booleans()), max_size=20))
def test_a_block_that_was_seen_before_means_what_it_means_now(said: list[tuple[int, list[tuple[bytes, bytes]], bool]]) -> None:
    """Against a decoder without a memory, fed with the same blocks, table sizes changing between them."""
    encoder, remembering, plain = Encoder(), FieldDecoder(1 << 16), Decoder()
    for size, fields, huffman in said:
        if size == 0:
            encoder.header_table_size = 100
        elif size == 1:
            encoder.header_table_size = 4096
        block = encoder.encode(fields, huffman=huffman)
        for _ in range(1 if block[0] & 0xE0 == 0x20 else 2):
            again = encoder.encode(fields, huffman=huffman) if _ else block
            assert list(remembering.decode(again)) == [tuple(pair) for pair in plain.decode(again, raw=True)]


def test_the_decoder_hides_what_the_library_would_judge() -> None:
    block = encode([(b"content-length", b"x"), (b":status", b"200"), (CONTENT_LENGTH, b"7"), (b"a", b"b")])
    for _ in range(2):
        decoder = FieldDecoder(1 << 16)
        assert list(decoder.decode(block)) == [(CONTENT_LENGTH, b"x"), (b"\x00", b"200"), (b"\x00", b"7"), (b"a", b"b")]


def test_budgets_refill_with_time_and_work() -> None:
    budget = FloodBudget(10, 2, 0.0)
    assert all(budget.spend(1, 0.0) for _ in range(10))
    assert not budget.spend(1, 0.0)
    assert budget.spend(1, 1.0)
    budget.earn(100)
    assert all(budget.spend(1, 1.0) for _ in range(10))
    assert not budget.spend(1, 1.0)
    assert not budget.spend(1, 0.0), "a clock that steps back gives nothing"


def test_large_transfers_pay_for_their_window_updates() -> None:
    guard = FloodGuard(0.0)
    update, data, empty = (
        Frame(FrameType.WINDOW_UPDATE, 0, 0, 4),
        Frame(FrameType.DATA, 0, 1, 16_384),
        Frame(FrameType.DATA, 0, 1, 0),
    )
    for _ in range(100_000):
        guard.sent(16_384)
        assert guard.frames([update], 0.0) and guard.frames([data], 0.0)
    assert not all(guard.frames([empty] * 100, 0.0) for _ in range(100))
