from __future__ import annotations

import posixpath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgecache.policy.paths import normal


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/g/page", "/g/page"),
        ("/%67/p%61ge", "/g/page"),
        ("/x/../g/page", "/g/page"),
        ("/x/%2e%2E/g/page", "/g/page"),
        ("/x/.%2e/g/page", "/g/page"),
        ("/./g/./page", "/g/page"),
        ("//g///page", "/g/page"),
        ("/../../g/page", "/g/page"),
        ("/g/page/.", "/g/page/"),
        ("/g/page/x/..", "/g/page/"),
        ("/..", "/"),
        ("/.well-known/x", "/.well-known/x"),
        ("/g/...", "/g/..."),
        ("/a%2fb%20c", "/a%2Fb%20c"),
        ("/a%", "/a%25"),
        ("/a%zz", "/a%25zz"),
        ("/%%622", "/%25b2"),
        ("/%2567", "/%2567"),
        ("/%c3%bc", "/%C3%BC"),
        ("*", "*"),
    ],
)
def test_what_a_path_means(path: str, meant: str) -> None:
    assert normal(path) == meant


@settings(max_examples=1000)
@given(st.text("ab./%2eE67", max_size=30).map("/".__add__))
def test_one_meaning_has_one_form(path: str) -> None:
    meant = normal(path)
    assert normal(meant) == meant
    if "%" not in path:
        assert meant.rstrip("/") == posixpath.normpath(path.lstrip("/").join(["/", ""])).rstrip("/")
