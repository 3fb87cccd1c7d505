"""Who is worth a CPU more: leaves that have woken with credit, and have not been picked since. Pure; called by `scheduler`."""

from __future__ import annotations

from itertools import islice

from sandbox.sharenode import SCALE, Node

_LATEST = 8
"""Of those who wait, so many are looked at; the others will have had their turn."""


class Express:
    """In the order in which they woke. `cost_ns`: how much credit it takes."""

    __slots__ = ("_cost_ns", "_woken")

    def __init__(self, cost_ns: int) -> None:
        self._cost_ns = cost_ns
        self._woken: dict[Node, None] = {}

    def add(self, leaf: Node) -> None:
        self._woken[leaf] = None

    def discard(self, leaf: Node) -> None:
        self._woken.pop(leaf, None)

    def covers(self, node: Node) -> bool:
        """Whether what the node had when it woke is enough."""
        return node.start + self._cost_ns * SCALE // node.weight <= node.reached

    def first(self) -> Node | None:
        """Who woke last of those who may run: the longer one waits, the nearer is its turn."""
        return next(filter(self._may_overtake, islice(reversed(self._woken), _LATEST)), None)

    def _may_overtake(self, leaf: Node) -> bool:
        """On each level it must be the node's turn, or the node have credit: a busy site gains nothing by many generators."""
        node = leaf
        while (parent := node.parent) is not None:
            if not node.entry or not (self.covers(node) or parent.first() is node):
                return False
            node = parent
        return True
