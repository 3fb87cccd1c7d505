"""What may be an origin, and what a host."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache import siteform


@pytest.mark.parametrize(
    "url",
    [
        "",
        "a",
        "http://",
        "http://:80",
        "http://a:0",
        "http://a:x",
        "http://a?b",
        "http://a#",
        "http://a/b",
        "http://a b",
        "http://ä",
        "//a",
    ],
)
def test_what_is_no_origin(url: str) -> None:
    assert siteform.origin_problem(url)


@pytest.mark.parametrize("url", ["http://a", "https://a.example:8443/", "http://127.0.0.1", "http://[::1]:80", "http://a_b"])
def test_what_is_an_origin(url: str) -> None:
    assert siteform.origin_problem(url) is None


@pytest.mark.parametrize(
    "host",
    ["", "*.", "a..b", "-a", "a:80", "[1]", "[127.0.0.1]", "a/b", "*a", "a.*", "bücher.example", "a" * 64, "a." * 130 + "a"],
)
def test_what_is_no_host(host: str) -> None:
    assert siteform.host_problem(host)


@pytest.mark.parametrize("host", ["*", "a", "*.example", "127.0.0.1", "[::1]", "xn--bcher-kva.example", "a_b.test"])
def test_what_is_a_host(host: str) -> None:
    assert siteform.host_problem(host) is None


@given(st.text(max_size=60))
def test_any_text_can_be_asked_whether_it_is_an_origin_or_a_host(text: str) -> None:
    for problem in (siteform.origin_problem(text), siteform.host_problem(text)):
        assert problem is None or problem


def test_no_other_letter_becomes_an_ascii_one() -> None:
    assert siteform.lowered("Shop.Example") == "shop.example"
    assert siteform.host_problem(siteform.lowered("\u212a.example")) is not None, "the Kelvin sign"
