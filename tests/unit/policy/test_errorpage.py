"""Errors for people: who gets a page, and what is on it."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.policy.errorpage import error_page, filled_page, prefers_page, unknown_places

CHROMIUM = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "page"),
    [
        (CHROMIUM, True),
        ("text/html", True),
        ("TEXT/HTML;level=1;q=0.5, */*;q=0.1", True),
        ("text/*", True),
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("application/json, text/html", False),
        ("application/json;q=0.5, text/html", True),
        ("application/problem+json, text/html;q=0.9", False),
        ("text/html;q=0, */*", False),
        ("text/html;q=0", False),
        ("image/avif,image/webp,*/*;q=0.8", False),
        ("text/html;q=nonsense", True),
        (",,;q=1,text/html", True),
    ],
)
def test_a_page_is_for_those_who_prefer_one(accept: str, page: bool) -> None:
    assert prefers_page(accept) is page


@given(st.text(max_size=2000))
def test_any_accept_is_judged(accept: str) -> None:
    assert prefers_page(accept) in {True, False}


class Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@given(st.text(st.characters(exclude_categories=("Cs", "Cc"))), st.text(st.characters(exclude_categories=("Cs", "Cc"))))
def test_what_it_quotes_is_text_and_nothing_else(text: str, request_id: str) -> None:
    plain, quoting = Seen(), Seen()
    plain.feed(error_page(404, "Not Found", "x", request_id="y").decode())
    quoting.feed(error_page(404, "Not Found", text or "x", request_id=request_id or "y").decode())
    assert quoting.tags == plain.tags
    assert text in quoting.text
    assert request_id in quoting.text


def test_it_says_what_when_again_and_under_which_number() -> None:
    page = error_page(503, "Service Unavailable", "Full.", request_id="id-7", retry_after=2).decode()
    assert "<title>503 Service Unavailable</title>" in page
    assert "<p>Full.</p><p>Please try again in 2 seconds.</p>" in page
    assert "<code>id-7</code>" in page
    assert "in a moment" in error_page(502, "Bad Gateway", "Broken.").decode()
    assert "try again" not in error_page(403, "Forbidden", "No.").decode()


def test_it_needs_nothing_but_itself() -> None:
    page = error_page(502, "Bad Gateway", "Broken.").decode()
    assert not any(word in page for word in ("<script", "src=", "href=", "url(", "@import"))
    assert "prefers-color-scheme:dark" in page and 'name="viewport"' in page


def test_an_operators_page_is_filled_with_text_alone() -> None:
    template = "a{ x }<b>{{status}}</b>{{ reason }}|{{text}}|{{request_id}}"
    page = filled_page(template, 421, "Misdirected Request", "<script>{{status}}", request_id="é")
    assert page.decode() == "a{ x }<b>421</b>Misdirected Request|&lt;script&gt;{{status}}|é"
    assert unknown_places(template) == []
    assert unknown_places("{{status}} {{colour}} {{ }}") == ["colour"]
