from __future__ import annotations

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgecache.policy.globs import GlobIndex, has_inner_star

GLOB = st.text("ab/*", max_size=8).map("/".__add__)
PATH = st.text("ab/", max_size=12).map("/".__add__)


@given(globs=st.lists(GLOB, max_size=8), path=PATH)
def test_the_longest_glob_that_matches_wins_and_of_equals_the_first(globs: list[str], path: str) -> None:
    numbered = [(glob, number) for number, glob in enumerate(globs)]
    matching = [(-len(glob), number) for glob, number in numbered if fnmatch.fnmatchcase(path, glob)]
    assert GlobIndex(numbered).find(path) == (min(matching)[1] if matching else None)


@pytest.mark.parametrize(
    ("glob", "inner"), [("/a", False), ("/a/*", False), ("/a/**", False), ("/*/a", True), ("/a*b*", True), ("*", False)]
)
def test_which_globs_are_costly(glob: str, inner: bool) -> None:
    assert has_inner_star(glob) is inner


def test_many_globs_cost_no_more_than_few() -> None:
    """As many as a site may have: the steps of a search are counted by what they touch, not by the clock."""
    touched = 0

    class Path(str):
        __slots__ = ()

        def find(self, *args: object) -> int:  # type: ignore[override]
            nonlocal touched
            touched += 1
            return super().find(*args)  # type: ignore[arg-type]

    index = GlobIndex(
        [(f"/p{number}/*", number) for number in range(64_000)] + [(f"/q{number}*x*y", -1) for number in range(64_000)]
    )
    assert index.find(Path("/p63999/" + "a" * 8000)) == 63_999
    assert index.find(Path("/q7" + "a" * 8000)) is None
    assert touched <= 2
