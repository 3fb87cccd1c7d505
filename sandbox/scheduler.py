"""Who runs next: hierarchical start-time fair queueing over a tree of shares (Goyal, Guo, Vin: "A Hierarchical CPU Scheduler
for Multimedia Operating Systems", OSDI 1996). Pure and in virtual time: values in, decisions out; no clock, no I/O, no VM.
Called by the monitor's dispatcher, and by simulations.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass

Path = tuple[str, ...]
"""Where a node stands below the root: (site,) or (site, generator). The root, the whole cluster, is ()."""

MAX_WEIGHT = 1_000_000
_SCALE = 1 << 24
"""Virtual time is an integer: CPU nanoseconds times this, over the weight. Integers neither drift nor lose low bits."""
_SLACK = 64
"""Outdated heap entries that are tolerated before a heap is rebuilt."""


@dataclass(frozen=True, slots=True)
class Share:
    """A node as seen from outside."""

    path: Path
    weight: int
    runnable: bool
    running: int
    cpu_ns: int


class _Node:
    """One node; as a parent it keeps the heap of its children that may be picked."""

    __slots__ = (
        "children",
        "cpu_ns",
        "entry",
        "finish",
        "heap",
        "now",
        "parent",
        "path",
        "ready",
        "running",
        "start",
        "weight",
        "width",
    )

    def __init__(self, path: Path, parent: _Node | None, weight: int, width: int) -> None:
        self.path = path
        self.parent = parent
        self.weight = weight
        self.width = width
        self.children: dict[Path, _Node] = {}
        self.heap: list[tuple[int, int, _Node]] = []
        self.now = 0
        """Virtual time among the children: the greatest start tag served so far."""
        self.ready = 0
        """Children that are runnable or, for a leaf, 1 when it is."""
        self.start = self.finish = 0
        self.entry = 0
        """Serial number of the one valid entry in the parent's heap; 0 when there is none."""
        self.running = 0
        self.cpu_ns = 0


class Scheduler:
    """A tree of shares. Leaves are woken, picked and charged; CPU time is divided by weight among those that want it.

    `width` of a node is how many leaves below it may hold a CPU at once: 1 for what lives in one single-threaded worker.
    A leaf that wakes is placed at most `credit_ns` (at its weight) before the virtual time, so that a short request of a
    mostly idle generator goes first, while no sleep is ever saved up beyond that. `quantum_ns` is what a pick is expected to
    cost until `charge` tells the truth: it keeps several CPUs from all going to one node that has not been charged yet
    (SFQ(D): Jin, Chase, Kaur, SIGMETRICS 2004).
    """

    def __init__(self, *, quantum_ns: int, credit_ns: int = 0) -> None:
        if quantum_ns <= 0 or credit_ns < 0:
            raise ValueError("quantum_ns must be positive and credit_ns not negative")
        self._quantum_ns = quantum_ns
        self._credit_ns = credit_ns
        self._root = _Node((), None, 1, 1 << 62)
        self._nodes: dict[Path, _Node] = {(): self._root}
        self._estimates: dict[Path, tuple[int, ...]] = {}
        """Per running leaf: what was charged in advance to it and to each ancestor, in virtual time, leaf first."""
        self._serial = 0

    def add(self, path: Path, weight: int, *, width: int = 1) -> None:
        """Add a sleeping node. Raises KeyError when its parent is unknown, ValueError when it exists or a number is wrong.

        A leaf is held at most once at a time; `width` counts for nodes that have children.
        """
        if not path or path in self._nodes:
            raise ValueError(f"node exists: {path}")
        parent = self._nodes[path[:-1]]
        if path[:-1] in self._estimates or (parent is not self._root and not parent.children and parent.ready):
            raise ValueError(f"{path[:-1]} is a leaf in use")
        if width < 1:
            raise ValueError("width must be at least 1")
        node = _Node(path, parent, _checked_weight(weight), width)
        node.start = node.finish = parent.now
        parent.children[path] = self._nodes[path] = node

    def remove(self, path: Path) -> None:
        """Remove a node and all below it, also while running: a later `charge` of it raises KeyError."""
        node = self._nodes[path]
        parent = node.parent
        if parent is None:
            raise ValueError("the root stays")
        for child in list(node.children):
            self.remove(child)
        self.sleep(path)
        if path in self._estimates:
            self._release(node, self._quantum_ns)
        del parent.children[path], self._nodes[path]

    def set_weight(self, path: Path, weight: int) -> None:
        """Change a weight while running: it counts from the next charge on. Raises KeyError, ValueError."""
        self._nodes[path].weight = _checked_weight(weight)

    def wake(self, path: Path) -> None:
        """The leaf wants CPU. Harmless when it is awake."""
        leaf = self._nodes[path]
        if leaf.children:
            raise ValueError(f"{path} is not a leaf")
        if leaf.ready:
            return
        node: _Node | None = leaf
        woken = True
        while node is not None:
            if woken:
                node.ready += 1
                woken = node.ready == 1
                if woken and node.parent is not None:
                    node.start = max(node.parent.now - self._credit_ns * _SCALE // node.weight, node.finish)
            if not node.entry:
                self._queue(node)
            node = node.parent

    def sleep(self, path: Path) -> None:
        """The leaf wants no CPU for now. Harmless when it sleeps."""
        leaf = self._nodes[path]
        if leaf.children or not leaf.ready:
            return
        node: _Node | None = leaf
        asleep = True
        while node is not None:
            if asleep:
                node.ready -= 1
                asleep = not node.ready
            if asleep or _first(node) is None:
                node.entry = 0
            node = node.parent

    def pick(self, count: int = 1) -> list[Path]:
        """Up to `count` leaves to run now, best first, each held as running until `charge`. O(depth · log children) each."""
        picked: list[Path] = []
        while len(picked) < count:
            node = self._root
            while (child := _first(node)) is not None:
                node = child
            if node is self._root:
                break
            picked.append(node.path)
            self._hold(node)
        return picked

    def charge(self, path: Path, cpu_ns: int) -> None:
        """The leaf gave its CPU back after `cpu_ns`. It stays awake until `sleep`. Raises KeyError when it was not running."""
        if path not in self._estimates:
            raise KeyError(path)
        self._release(self._nodes[path], max(0, cpu_ns))

    def runnable(self) -> bool:
        """Whether `pick` would find something."""
        return _first(self._root) is not None

    def is_empty(self, path: Path) -> bool:
        """Whether nothing stands below the node."""
        return not self._nodes[path].children

    def share(self, path: Path) -> Share:
        node = self._nodes[path]
        return Share(path, node.weight, node.ready > 0, node.running, node.cpu_ns)

    def __contains__(self, path: object) -> bool:
        return path in self._nodes

    def __iter__(self) -> Iterator[Path]:
        return (path for path in self._nodes if path)

    def __repr__(self) -> str:
        awake = sum(1 for node in self._nodes.values() if node.ready and not node.children and node is not self._root)
        return f"<Scheduler {len(self._nodes) - 1} nodes, {awake} leaves awake, {len(self._estimates)} running>"

    def _hold(self, leaf: _Node) -> None:
        estimates: list[int] = []
        node: _Node | None = leaf
        while node is not None:
            node.running += 1
            if node.parent is not None:
                estimate = self._quantum_ns * _SCALE // node.weight
                estimates.append(estimate)
                node.parent.now = max(node.parent.now, node.start)
                node.finish = node.start + estimate
                node.start = node.finish
                self._queue(node)
            node = node.parent
        self._estimates[leaf.path] = tuple(estimates)

    def _release(self, leaf: _Node, cpu_ns: int) -> None:
        estimates = self._estimates.pop(leaf.path)
        node: _Node | None = leaf
        depth = 0
        while node is not None:
            node.running -= 1
            node.cpu_ns += cpu_ns
            if node.parent is not None:
                correction = cpu_ns * _SCALE // node.weight - estimates[depth]
                node.finish += correction
                # Who was held up by its width must not come back with a claim on the past beyond credit and one quantum.
                floor = node.parent.now - (self._credit_ns + self._quantum_ns) * _SCALE // node.weight
                node.start = max(node.start + correction, floor)
                node.finish = max(node.finish, node.start)
                self._queue(node)
            node = node.parent
            depth += 1

    def _queue(self, node: _Node) -> None:
        """Give the node its one valid entry in its parent's heap, or none when it may not be picked."""
        parent = node.parent
        if parent is None:
            return
        room = node.running < node.width and _first(node) is not None if node.children else not node.running
        if not node.ready or not room:
            node.entry = 0
            return
        self._serial += 1
        node.entry = self._serial
        heapq.heappush(parent.heap, (node.start, node.entry, node))
        if len(parent.heap) > 2 * len(parent.children) + _SLACK:
            parent.heap = [entry for entry in parent.heap if entry[2].entry == entry[1]]
            heapq.heapify(parent.heap)


def _first(node: _Node) -> _Node | None:
    """The child with the least start tag; drops outdated entries on the way."""
    heap = node.heap
    while heap:
        _, serial, child = heap[0]
        if child.entry == serial:
            return child
        heapq.heappop(heap)
    return None


def _checked_weight(weight: int) -> int:
    if not 1 <= weight <= MAX_WEIGHT:
        raise ValueError(f"a weight must lie in 1..{MAX_WEIGHT}, not {weight}")
    return weight
