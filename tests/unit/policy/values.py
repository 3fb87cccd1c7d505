"""Builders for the values that policy decides over, and strategies for field values. Imported by the tests beside it."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import strategies as st
from multidict import CIMultiDict, CIMultiDictProxy

from edgecache.policy.dates import format_date
from edgecache.policy.message import Headers, Request, Response, Timed

NOW = 1_800_000_000.0
"""A Friday in January 2027."""

Pairs = Iterable[tuple[str, str]]


def headers(*pairs: tuple[str, str], **fields: str) -> Headers:
    """Field lines; keyword names have `_` for `-`."""
    return CIMultiDictProxy(CIMultiDict((*pairs, *((name.replace("_", "-"), value) for name, value in fields.items()))))


def request(*pairs: tuple[str, str], method: str = "GET", target: str = "/a", **fields: str) -> Request:
    return Request(method, "http", "shop.test", target, headers(*pairs, **fields))


def response(*pairs: tuple[str, str], status: int = 200, **fields: str) -> Response:
    return Response(status, "", headers(*pairs, **fields))


def timed(
    *pairs: tuple[str, str], status: int = 200, at: float = NOW, delay: float = 0.0, date: bool = True, **fields: str
) -> Timed:
    """A response received `at`, with a Date of that instant unless it has one or `date` is False."""
    given = (*pairs, *((name.replace("_", "-"), value) for name, value in fields.items()))
    if date and not any(name.lower() == "date" for name, _ in given):
        given = (*given, ("Date", format_date(at)))
    return Timed(response(*given, status=status), at - delay, at)


FIELD_TEXT = st.text(
    st.characters(codec="latin-1", exclude_characters="\r\n\0")
    | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=("Cs",)),
    max_size=80,
)
"""Anything a field line may hold, bytes that are no UTF-8 (surrogate escapes) included."""

LIST_LIKE = st.text(alphabet="abc=,\"\\ \t;0123456789-*/W'", max_size=60)
"""Text that comes near the syntax of lists."""
