"""The share tree's nodes as values: their names, what is seen of one, and one that competes.

`scheduler.py` makes them; `promise.py` and whoever shows shares read them.
"""

from __future__ import annotations

from dataclasses import dataclass

NodePath = tuple[str, ...]
"""A node's name. It says nothing of where the node stands, so that a site keeps its name when it changes its cluster."""
ROOT: NodePath = ()
"""The whole machine."""


@dataclass(frozen=True, slots=True)
class Share:
    """A node as seen from outside."""

    path: NodePath
    weight: int
    cap: int | None
    """Percent of one CPU; None: none."""
    runnable: bool
    throttled: bool
    """Its cap holds it back."""
    running: int
    cpu_ns: int


@dataclass(frozen=True, slots=True)
class Contender:
    """A node of the share tree that competes, or below which somebody does."""

    path: NodePath
    parent: NodePath
    weight: int
    width: int = 1
    """How many of the leaves below it can run at once."""
    cap: int | None = None
    """Percent of one CPU."""
    wants: float | None = None
    """Of a leaf that got all it asked for: that, as a part of what was given out. None: it takes whatever it gets."""
