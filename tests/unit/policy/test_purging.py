from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given

from edgecache.policy.purging import Purge, matches, purge_uri
from tests.unit.policy.values import FIELD_TEXT


@dataclass(frozen=True)
class Kept:
    uri: str = "http://shop.test:8080/a/b?q=1"
    site: str = "shop"
    tags: frozenset[str] = frozenset({"x", "y"})


@pytest.mark.parametrize(
    ("purge", "expected"),
    [
        pytest.param(Purge(urls=("http://shop.test:8080/a/b?q=1",)), True, id="url"),
        pytest.param(
            Purge(urls=("http://o.test/", "HTTP://Shop.test:8080/a/b?q=1#top")), True, id="url among others, written otherwise"
        ),
        pytest.param(Purge(urls=("http://shop.test:8080/a/b",)), False, id="url without its query"),
        pytest.param(Purge(tag="x"), True, id="tag"),
        pytest.param(Purge(tag="z"), False, id="other tag"),
        pytest.param(Purge(prefix="http://shop.test:8080/a"), True, id="prefix"),
        pytest.param(Purge(prefix="http://shop.test:8080/b"), False, id="other prefix"),
        pytest.param(Purge(host="Shop.test"), True, id="host with any port"),
        pytest.param(Purge(host="shop.test:8080"), True, id="host and port"),
        pytest.param(Purge(host="shop.test:80"), False, id="host and other port"),
        pytest.param(Purge(host="shop"), False, id="part of a host"),
        pytest.param(Purge(host="Shop.test.:8080"), True, id="rooted host and port"),
        pytest.param(Purge(site="shop"), True, id="site"),
        pytest.param(Purge(site="other"), False, id="other site"),
        pytest.param(Purge(everything=True), True, id="everything"),
        pytest.param(Purge(everything=True, site="other"), False, id="everything of another site"),
        pytest.param(Purge(tag="x", site="other"), False, id="a site's token reaches that site only"),
        pytest.param(Purge(tag="x", site="shop", soft=True), True, id="tag within its site"),
    ],
)
def test_matches(purge: Purge, expected: bool) -> None:
    assert matches(purge, Kept()) is expected


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("http://shop.test:80/x", "http://shop.test/x"),
        ("HTTPS://shop.test.:443/x", "https://shop.test/x"),
        ("http://shop.test.?a", "http://shop.test/?a"),
        ("http://shop.test:443/x", "http://shop.test:443/x"),
        ("http://[::1]:80/", "http://[::1]/"),
    ],
)
def test_what_means_nothing_in_a_host_is_not_looked_for(written: str, meant: str) -> None:
    assert purge_uri(written) == meant


def test_ipv6_hosts() -> None:
    assert matches(Purge(host="[::1]"), Kept(uri="http://[::1]:8080/"))
    assert matches(Purge(host="[::1]:80"), Kept(uri="http://[::1]/"))


def test_a_host_with_its_default_port_is_that_of_keys_without_one() -> None:
    assert matches(Purge(host="shop.test:80"), Kept(uri="http://shop.test/"))
    assert matches(Purge(host="shop.test:443"), Kept(uri="https://shop.test/"))
    assert not matches(Purge(host="shop.test:443"), Kept(uri="http://shop.test/"))
    assert not matches(Purge(host="shop.test:80"), Kept(uri="https://shop.test/"))


def test_an_empty_purge_is_refused() -> None:
    with pytest.raises(ValueError, match="a purge needs"):
        Purge(soft=True)


def test_soft_and_refresh_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="not both"):
        Purge(tag="a", soft=True, refresh=True)


@pytest.mark.parametrize(
    "text",
    [
        *("", "/a", "shop.test/a", "ftp://shop.test/", "http://", "http:///a", "http://:80/", "http://./"),
        *("http://u:p@shop.test/", "http://shop.test:80:80/", "http://[::1/", "http://shop.test:port/"),
    ],
)
def test_impossible_urls_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an absolute"):
        purge_uri(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://shop.test", "http://shop.test/"),
        ("http://shop.test?q", "http://shop.test/?q"),
        (" HTTPS://Shop.Test/A#b ", "https://shop.test/A"),
        ("http://shop.test:80/a", "http://shop.test/a"),
        ("https://shop.test:443?q", "https://shop.test/?q"),
        ("http://shop.test:443/", "http://shop.test:443/"),
        ("http://shop.test:/", "http://shop.test/"),
        ("http://shop.test.:80/", "http://shop.test/"),
        ("http://[::1]:80/", "http://[::1]/"),
    ],
)
def test_urls_become_keys(text: str, expected: str) -> None:
    assert purge_uri(text) == expected


@given(FIELD_TEXT)
def test_any_text_is_a_key_or_refused(text: str) -> None:
    for candidate in (text, f"http://{text}"):
        try:
            found = purge_uri(candidate)
        except ValueError:
            continue
        assert purge_uri(found) == found
