"""Who is worth a CPU more: leaves that have woken with credit, and use little at a time.

Pure; called by `fairqueue` and `scheduler`.
"""

from __future__ import annotations

from itertools import islice

from sandbox.queueing.sharenode import SCALE, Node

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
        """Whether what is left of the node's credit since it woke covers an express slice."""
        return node.start + self._cost_ns * SCALE // node.weight <= node.reached

    def first(self) -> Node | None:
        """The leaf that woke last of those that may run: who has waited longer is nearer to its own turn. None: nobody may.

        On each level the node must have credit, or be next: a busy site gains nothing by many generators.
        """
        for leaf in tuple(islice(reversed(self._woken), _LATEST)):
            if self._may_run(leaf):
                return leaf
            if not self._may_come_to_run(leaf):
                self.discard(leaf)
        return None

    # Plain loops: asked of some leaves for every slice that is given.

    def _may_run(self, leaf: Node) -> bool:
        node: Node = leaf
        while (parent := node.parent) is not None:
            if not node.entry or not (self.covers(node) or parent.first() is node):
                return False
            node = parent
        return True

    def _may_come_to_run(self, leaf: Node) -> bool:
        node: Node = leaf
        while (parent := node.parent) is not None:
            if not (self._may_cover(node) or parent.first() is node):
                return False
            node = parent
        return True

    def _may_cover(self, node: Node) -> bool:
        """As `covers`, should the slices that run below the node cost nothing. Nobody gets credit by waiting."""
        return node.start + (self._cost_ns - node.running * self._quantum_ns) * SCALE // node.weight <= node.reached
