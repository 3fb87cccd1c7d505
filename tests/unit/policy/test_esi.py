"""Templates (W3C note "ESI Language Specification 1.0"): what is one, and what is in one."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgecache.policy.esi import MAX_TAG_BYTES, Include, Parser, Piece, assembled_head, declared, is_template
from edgecache.policy.rule import CacheRule
from tests.unit.policy.values import response

ON = CacheRule(esi=True)
HTML = {"Content_Type": "text/html; charset=utf-8"}
DECLARED = {**HTML, "Surrogate_Control": 'content="ESI/1.0"'}


def parsed(template: bytes, *cuts: int) -> list[Piece]:
    parser, pieces, start = Parser(), [], 0
    for end in (*sorted(cuts), len(template)):
        pieces += parser.feed(template[start:end])
        start = end
    pieces += parser.finish()
    return merged(pieces)


def merged(pieces: list[Piece]) -> list[Piece]:
    found: list[Piece] = []
    for piece in pieces:
        last = found[-1] if found else None
        if isinstance(piece, bytes) and isinstance(last, bytes):
            found[-1] = last + piece
        else:
            found.append(piece)
    return found


@pytest.mark.parametrize(
    ("template", "pieces"),
    [
        (b"", []),
        (b"plain <b>text</b> -->", [b"plain <b>text</b> -->"]),
        (b'a<esi:include src="/x"/>b', [b"a", Include("/x"), b"b"]),
        (b"<esi:include src='/x' alt='/y' onerror='continue'/>", [Include("/x", "/y", True)]),
        (b'<esi:include\n  onerror = "continue"\tsrc="/a?b=1&amp;c=2" />', [Include("/a?b=1&c=2", None, True)]),
        (b'<esi:include src="/a?b=1&copy=2"/>', [Include("/a?b=1&copy=2")]),
        (b'<esi:include src="/a>b"/>', [Include("/a>b")]),
        (b'<esi:include src="/x"></esi:include>c', [Include("/x"), b"c"]),
        (b'<esi:include src="/x" onerror="stop"/>', [Include("/x")]),
        (b'<esi:include src="/1" src="/2"/>', [Include("/1")]),
        (b"<esi:include/>", [Include(None)]),
        (b"<esi:include src=/x/>", [Include(None)]),
        (b'a<esi:remove>b<esi:include src="/x"/><!-- --></esi:remove>c', [b"ac"]),
        (b"a<esi:remove>b</esi:remove  >c", [b"ac"]),
        (b"a<esi:remove/>c", [b"ac"]),
        (b"a<esi:remove>never closed", [b"a"]),
        (b'a<esi:comment text="b > c"/>d', [b"ad"]),
        (b'a<!--esi <p>b<esi:include src="/x"/></p> -->c', [b"a <p>b", Include("/x"), b"</p> c"]),
        (b"<!--esi a<!-- b -->c-->d-->", [b" a<!-- b -->cd-->"]),
        (b"<!--esi<b>-->", [b"<b>"]),
        (b"<!--esiblings-->", [b"<!--esiblings-->"]),
        (b'<!-- <esi:include src="/x"/> -->', [b'<!-- <esi:include src="/x"/> -->']),
        (b'<![CDATA[<esi:include src="/x"/>]]>', [b'<![CDATA[<esi:include src="/x"/>]]>']),
        (b"a<esi:vars>b</esi:vars>c", [b"abc"]),
        (b"a<esi:>b", [b"ab"]),
        (b"a<esi:include src=", [b"a<esi:include src="]),
        (b"a<esi:inc", [b"a<esi:inc"]),
        (b"a<es", [b"a<es"]),
        (b"a<!--es", [b"a<!--es"]),
        (b"<ESI:include src='/x'/>", [b"<ESI:include src='/x'/>"]),
        (b"<<esi:include src='/x'/>", [b"<", Include("/x")]),
    ],
)
def test_what_is_in_a_template(template: bytes, pieces: list[Piece]) -> None:
    assert parsed(template) == pieces


def test_a_tag_that_is_too_long_is_text_and_what_follows_is_read() -> None:
    long = b"<esi:include src='" + b"a" * MAX_TAG_BYTES
    assert parsed(long + b"'/><esi:include src='/x'/>") == [long + b"'/>", Include("/x")]


_WORDS = (
    b"<esi:include src='/x'|"
    b' alt="/y"|'
    b"/>|>|<esi:remove>|</esi:remove>|<!--esi |<!--esi|-->|<!--|<![CDATA[|]]>|"
    b"<esi:|</esi:|<esi:comment text='|'|"
    b'"|text|<|-|]| |/'
)
WORDS = st.sampled_from(_WORDS.split(b"|"))
TEMPLATES = st.lists(WORDS, max_size=25).map(b"".join)


@given(TEMPLATES, st.lists(st.integers(0, 200), max_size=8))
@example(b"<!--esi " + b"x" * 9 + b"-->", [3, 7, 18, 19])
def test_chunks_make_no_difference(template: bytes, cuts: list[int]) -> None:
    at = [min(cut, len(template)) for cut in cuts]
    assert parsed(template, *at) == parsed(template) == parsed(template, *range(len(template)))


@given(TEMPLATES)
def test_text_is_never_made_up(template: bytes) -> None:
    """What comes out as text is the template with parts left out."""
    rest = iter(template)
    assert all(byte in rest for piece in parsed(template) if isinstance(piece, bytes) for byte in piece)


@given(
    st.lists(st.sampled_from([b"<esi:", b"<esi:remove>", b"<!--", b'"', b"<", b"<!--esi ", b"a" * 5000, b"</esi:"]), max_size=30)
)
def test_little_is_held(words: list[bytes]) -> None:
    parser = Parser()
    for word in words:
        parser.feed(word)
        assert len(parser._held) <= MAX_TAG_BYTES


@pytest.mark.parametrize(
    "word", [b"<", b"<esi:", b'<esi:include "', b"<!--", b"<!--esi ", b"<esi:remove>", b"-", b"<!-", b'<esi:a b="']
)
def test_hostile_templates_come_to_an_end(word: bytes) -> None:
    """Time that grows with the square of four million bytes would not end while anybody waits."""
    size = (4 << 20) // len(word)
    assert sum(len(piece) for piece in parsed(word * size) if isinstance(piece, bytes)) <= size * len(word)


@pytest.mark.parametrize(
    ("fields", "status", "rule", "is_one"),
    [
        (DECLARED, 200, ON, True),
        (DECLARED, 404, ON, True),
        (DECLARED, 200, CacheRule(), False),
        (DECLARED, 206, ON, False),
        (DECLARED, 304, ON, False),
        (HTML, 200, ON, False),
        (HTML, 200, CacheRule(esi=True, esi_undeclared=True), True),
        ({"Content_Type": "image/png"}, 200, CacheRule(esi=True, esi_undeclared=True), False),
        ({**DECLARED, "Content_Type": "text/plain"}, 200, ON, False),
        ({**DECLARED, "Content_Type": "application/xhtml+xml"}, 200, ON, True),
        ({**DECLARED, "Content_Encoding": "gzip"}, 200, ON, False),
        ({"Surrogate_Control": 'content="ESI/1.0"'}, 200, ON, False),
    ],
)
def test_which_responses_are_templates(fields: dict[str, str], status: int, rule: CacheRule, is_one: bool) -> None:
    assert is_template(response(status=status, **fields), rule) is is_one


@pytest.mark.parametrize(
    ("value", "is_one"),
    [
        ('content="ESI/1.0"', True),
        ('max-age=60, content="ESI/1.0 ESI-INV/1.0"', True),
        ("content=ESI/1.0", True),
        ('Content="ESI/1.0"', True),
        ('content="ESI/1.1"', False),
        ('content="XESI/1.0"', False),
        ('x="content=ESI/1.0"', False),
        ("max-age=60", False),
    ],
)
def test_what_surrogate_control_declares(value: str, is_one: bool) -> None:
    assert declared(response(Surrogate_Control=value)) is is_one


def test_the_head_of_a_page_is_not_that_of_its_template() -> None:
    template = response(
        ("Set-Cookie", "a=b"),
        **DECLARED,
        ETag='"1"',
        Last_Modified="x",
        Expires="x",
        Cache_Control="max-age=60",
        Content_Length="9",
        Vary="Cookie",
    )
    assert sorted(assembled_head(template).headers.items()) == [
        ("Cache-Control", "private, no-cache"),
        ("Content-Type", "text/html; charset=utf-8"),
        ("Set-Cookie", "a=b"),
        ("Vary", "Cookie"),
    ]
