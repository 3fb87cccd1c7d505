from __future__ import annotations

import http_sf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.policy.cache_status import CacheStatus, Forward, append, forward_of
from edgecache.policy.lookup import (
    Bypass,
    BypassReason,
    Decision,
    Fresh,
    Miss,
    MissReason,
    StaleWhileRevalidate,
    Unsatisfiable,
    Validate,
)
from tests.unit.policy.values import headers


@pytest.mark.parametrize(
    ("status", "line"),
    [
        pytest.param(CacheStatus(hit=True, ttl=376), "edgecache; hit; ttl=376", id="RFC9211-2.1 hit"),
        pytest.param(
            CacheStatus(hit=True, ttl=-5, detail="stale-while-revalidate"),
            "edgecache; hit; ttl=-5; detail=stale-while-revalidate",
            id="RFC9211-2.4 stale",
        ),
        pytest.param(CacheStatus(fwd=Forward.URI_MISS, stored=True), "edgecache; fwd=uri-miss; stored", id="RFC9211-2.5 stored"),
        pytest.param(
            CacheStatus(fwd=Forward.STALE, fwd_status=304, collapsed=True),
            "edgecache; fwd=stale; fwd-status=304; collapsed",
            id="RFC9211-2.3 status of the source",
        ),
        pytest.param(CacheStatus(hit=True, fwd=Forward.URI_MISS, collapsed=True), "edgecache; hit", id="RFC9211-2.2 hit wins"),
        pytest.param(CacheStatus(name="edge 1", key='a"b'), '"edge 1"; key="a\\"b"', id="RFC9211-2.7 key"),
        pytest.param(CacheStatus(detail="é\r\n x"), 'edgecache; detail="??? x"', id="RFC9651-3.3.3 strings are printable ASCII"),
        pytest.param(CacheStatus(detail=""), 'edgecache; detail=""', id="RFC9651-3.3.3 empty string"),
        pytest.param(CacheStatus(detail="5xx"), 'edgecache; detail="5xx"', id="RFC9651-3.3.4 tokens do not begin with digits"),
    ],
)
def test_line(status: CacheStatus, line: str) -> None:
    assert status.line() == line


def test_this_cache_comes_after_those_nearer_to_the_origin() -> None:
    found = append(headers(("Cache-Status", "inner; hit"), ("X-A", "1")), CacheStatus(fwd=Forward.URI_MISS))
    assert found.getall("Cache-Status") == ["inner; hit", "edgecache; fwd=uri-miss"]
    assert found["X-A"] == "1"


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        (Bypass(BypassReason.METHOD), Forward.METHOD),
        (Bypass(BypassReason.REQUEST_NO_STORE), Forward.REQUEST),
        (Bypass(BypassReason.AUTHORIZATION), Forward.BYPASS),
        (Miss(), Forward.URI_MISS),
        (Miss(MissReason.PRECONDITION), Forward.REQUEST),
        (Validate(headers(), False, False), Forward.STALE),
        (Validate(headers(), False, False, refused=True), Forward.REQUEST),
        (Fresh(1, 1), None),
        (StaleWhileRevalidate(1), None),
        (Unsatisfiable(), None),
    ],
    ids=repr,
)
def test_why_it_went_to_the_source(decision: Decision, expected: Forward | None) -> None:
    assert forward_of(decision) is expected


@given(
    st.text(max_size=20),
    st.none() | st.text(max_size=20),
    st.none() | st.text(max_size=20),
    st.none() | st.integers(-9, 9),
    st.booleans(),
)
def test_every_line_is_a_structured_list(name: str, key: str | None, detail: str | None, ttl: int | None, hit: bool) -> None:
    line = CacheStatus(name=name, key=key, detail=detail, ttl=ttl, hit=hit, fwd=Forward.URI_MISS).line()
    [(_, parameters)] = http_sf.parse(line.encode("ascii"), tltype="list")
    assert parameters.get("ttl") == ttl
    assert ("hit" in parameters) is hit
    assert ("key" in parameters) is (key is not None)
