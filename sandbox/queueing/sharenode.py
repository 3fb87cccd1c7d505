"""One node of the scheduler's tree: its tags in virtual time, and as a parent the heap of its children.

`scheduler` makes them, `fairqueue` and `caps` change them.
"""

from __future__ import annotations

import heapq

from sandbox.queueing.bucket import TokenBucket
from sandbox.queueing.nodes import NodePath

SCALE = 1 << 24
"""Virtual time is an integer: CPU nanoseconds times this, over the weight. Integers neither drift nor lose low bits."""
_SLACK = 64
"""Outdated heap entries that are tolerated before a heap is rebuilt."""


class Node:
    """One node; as a parent it keeps the heap of its children that may be picked."""

    __slots__ = (
        "bucket",
        "cap",
        "children",
        "clock",
        "cpu_ns",
        "entry",
        "finish",
        "gone",
        "heap",
        "holder",
        "now",
        "paid",
        "parent",
        "path",
        "reached",
        "ready",
        "running",
        "start",
        "throttled",
        "wanted",
        "weight",
        "width",
    )

    def __init__(self, path: NodePath, parent: Node | None, weight: int, width: int) -> None:
        self.path = path
        self.parent = parent
        self.weight = weight
        self.width = width
        self.cap: int | None = None
        self.bucket: TokenBucket | None = None
        self.throttled = False
        self.children: dict[NodePath, Node] = {}
        self.heap: list[tuple[int, int, Node]] = []
        self.now = 0
        """Virtual time among the children: the greatest start tag served so far."""
        self.clock = 0
        """How far the children have come on average: advanced by what they use, also while all who are served are on credit."""
        self.paid = 0
        """Virtual time at which every child that has run has its whole credit again."""
        self.wanted = 0
        """Weights of the children that are ready."""
        self.ready = 0
        """Children that are runnable or, for a leaf, 1 when it is."""
        self.reached = 0
        """The parent's virtual time when this one woke: below it, it lives on credit."""
        self.start = self.finish = 0
        self.entry = 0
        """Serial number of the one valid entry in the parent's heap; 0 when there is none."""
        self.running = 0
        self.cpu_ns = 0
        self.gone = False
        """It has left the tree."""
        self.holder: object = None
        """Of a leaf: whose it is, for who picks."""

    def first(self) -> Node | None:
        """The child with the least start tag that may be picked; drops outdated entries on the way."""
        heap = self.heap
        while heap:
            _, serial, child = heap[0]
            if child.entry == serial:
                return child
            heapq.heappop(heap)
        return None

    def offer(self, child: Node, serial: int) -> None:
        """Give `child` its one valid entry; `serial` is greater than any before it."""
        child.entry = serial
        heapq.heappush(self.heap, (child.start, serial, child))
        if len(self.heap) > 2 * self.ready + _SLACK:  # small where few of many are awake, and so in the processor's caches
            self.heap = [entry for entry in self.heap if entry[2].entry == entry[1]]
            heapq.heapify(self.heap)
