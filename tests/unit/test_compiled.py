"""What setup.py has compiled holds to the rules that it states."""

from __future__ import annotations

import ast
import enum
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import msgspec.inspect
import pytest

from edgecache.processes.messages import ToLeader, ToServing

_ROOT = Path(__file__).parents[2]


def _compiled() -> list[str]:
    for node in ast.parse((_ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id == "COMPILED" and node.value:
            return [f"{folder}/{name}.py" for folder, names in ast.literal_eval(node.value).items() for name in names.split()]
    raise AssertionError("setup.py names no modules")


def _classes(kind: object, seen: set[type]) -> Iterator[type]:
    """The classes that a message is made of."""
    if isinstance(kind, msgspec.inspect.Type):
        cls = getattr(kind, "cls", None)
        if isinstance(cls, type):
            if cls in seen:
                return
            seen.add(cls)
            yield cls
        for name in kind.__struct_fields__:
            yield from _classes(getattr(kind, name), seen)
    elif isinstance(kind, msgspec.inspect.Field):
        yield from _classes(kind.type, seen)
    elif isinstance(kind, tuple):
        for part in kind:
            yield from _classes(part, seen)


@pytest.mark.parametrize("path", _compiled())
def test_no_coroutines(path: str) -> None:
    tree = ast.parse((_ROOT / path).read_text())
    declared = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any(getattr(base, "id", "") == "Protocol" for base in node.bases)
        for inner in node.body
    }
    assert not [node.name for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef) and id(node) not in declared]


@pytest.mark.parametrize("path", _compiled())
def test_bounds_of_slices_do_nothing(path: str) -> None:
    """mypyc 2.4 evaluates them twice: `rest[file.write(rest):]` writes twice."""
    bounds = [
        bound
        for node in ast.walk(ast.parse((_ROOT / path).read_text()))
        if isinstance(node, ast.Slice)
        for bound in (node.lower, node.upper)
    ]
    called = [node.func for bound in bounds if bound is not None for node in ast.walk(bound) if isinstance(node, ast.Call)]
    assert {ast.unparse(function).rpartition(".")[2] for function in called} <= {"len", "end"}


def test_values_that_travel_are_interpreted() -> None:
    kinds = msgspec.inspect.multi_type_info([*get_args(ToLeader), *get_args(ToServing)])
    # Members of enumerations are looked up by value, whoever made the class.
    values = {cls for cls in _classes(kinds, set()) if not issubclass(cls, enum.Enum)}
    modules = {cls.__module__.replace(".", "/") + ".py" for cls in values}
    assert "edgecache/sites.py" in modules
    assert modules.isdisjoint(_compiled()), modules.intersection(_compiled())
