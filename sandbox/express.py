"""Who is worth a CPU more: leaves that have woken with credit, and use little at a time.

Pure; called by `fairqueue` and `scheduler`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from sandbox.sharenode import SCALE, Node

_LATEST = 8
"""Of those who wait, so many are looked at; the others will have had their turn."""


class Express:
    """In the order in which they woke or came back.

    `cost_ns`: how much credit it takes; `quantum_ns`: what a slice is held to cost until it is charged.
    """

    __slots__ = ("_cost_ns", "_quantum_ns", "_woken")

    def __init__(self, cost_ns: int, quantum_ns: int) -> None:
        self._cost_ns = cost_ns
        self._quantum_ns = quantum_ns
        self._woken: dict[Node, None] = {}

    def add(self, leaf: Node) -> None:
        self._woken[leaf] = None

    def discard(self, leaf: Node) -> None:
        self._woken.pop(leaf, None)

    def covers(self, node: Node) -> bool:
        """Whether what the node had when it woke is enough."""
        return node.start + self._cost_ns * SCALE // node.weight <= node.reached

    def first(self) -> Node | None:
        """Who woke last of those who may run: the longer one waits, the nearer is its turn.

        On each level the node must have credit, or it be its turn: a busy site gains nothing by many generators.
        """
        for leaf in tuple(islice(reversed(self._woken), _LATEST)):
            way = tuple(_upwards(leaf))
            if all(node.entry and (self.covers(node) or _is_next(node)) for node in way):
                return leaf
            if not all(self._may_cover(node) or _is_next(node) for node in way):
                self.discard(leaf)
        return None

    def _may_cover(self, node: Node) -> bool:
        """Whether it is enough should the slices that run below the node cost nothing. Nobody gets credit by waiting."""
        return node.start + (self._cost_ns - node.running * self._quantum_ns) * SCALE // node.weight <= node.reached


def _is_next(node: Node) -> bool:
    return node.parent is not None and node.parent.first() is node


def _upwards(node: Node | None) -> Iterator[Node]:
    """The node and those above it, without the root."""
    while node is not None and node.parent is not None:
        yield node
        node = node.parent
