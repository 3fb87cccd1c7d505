"""Regular expressions mean the same on every Python that the product runs on."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator

import pytest

import edgecache
import sandbox

_ESCAPED = re.compile(r"\\.", re.DOTALL)
_SET = re.compile(r"\[\^?\]?[^\]]*\]")
_ATOMIC = re.compile(r"[*+?}]\+|\(\?>")


def patterns() -> Iterator[tuple[str, str]]:
    for package in (edgecache, sandbox):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if module.name.rpartition(".")[2] == "__main__":
                continue
            for name, value in vars(importlib.import_module(module.name)).items():
                if isinstance(value, re.Pattern):
                    pattern = value.pattern
                    yield f"{module.name}.{name}", pattern if isinstance(pattern, str) else pattern.decode("latin-1")


def is_atomic(pattern: str) -> bool:
    return _ATOMIC.search(_SET.sub("x", _ESCAPED.sub("x", pattern))) is not None


def test_none_is_possessive_or_atomic() -> None:
    """CPython before 3.11.5 matches too much with possessive quantifiers over groups (python/cpython#106052)."""
    found = dict(patterns())
    assert len(found) > 30
    assert [name for name, pattern in found.items() if is_atomic(pattern)] == []


@pytest.mark.parametrize(("pattern", "expected"), [(r"(?:a*+)", True), (r"(?>a)", True), (r"a{2}+", True), (r"[*+?]+\++", False)])
def test_possessive_patterns_are_recognised(pattern: str, expected: bool) -> None:
    assert is_atomic(pattern) is expected
