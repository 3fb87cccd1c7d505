"""Who runs next of a tree of shares: nodes by their names, and the rules for changing the tree. The queueing is `fairqueue`'s.

Pure: values in, decisions out; time is an argument; no I/O, no VM. Called by the monitor's dispatcher, and by simulations.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from sandbox.queueing.caps import MAX_CAP
from sandbox.queueing.fairqueue import FairQueue
from sandbox.queueing.nodes import ROOT, Contender, NodePath, Share
from sandbox.queueing.sharenode import Node

__all__ = ["MAX_CAP", "MAX_WEIGHT", "ROOT", "NodePath", "Scheduler", "Share"]

MAX_WEIGHT = 1_000_000


class Scheduler:
    """A tree of shares. Leaves are woken, picked and charged; CPU time is divided by weight among those that want it.

    The tree is changed by paths. Leaves are passed as their nodes, found once by `node`, so that no slice looks up a path.

    `width` of a node is how many leaves below it may hold a CPU at once: 1 for what lives in one single-threaded worker.
    A leaf that wakes is placed at most `credit_ns` (at its weight) before the virtual time, so that a short request of a
    mostly idle generator goes first, while no sleep is ever saved up beyond that. `quantum_ns` is what a pick is expected to
    cost until `charge` tells the truth: it keeps several CPUs from all going to one node that has not been charged yet
    (SFQ(D): Jin, Chase, Kaur, SIGMETRICS 2004), and a capped node from beginning slices that its cap does not cover.
    `floor_ns` is the least that a pick costs, for whoever picks and hears the answer pays for it, too: who gives its CPU back at
    once, again and again, uses up its share by that. `express_ns` is how much unspent credit a leaf must have when it wakes for
    `pick_express` to find it: what an express slice may cost; more than the whole credit is never asked for.
    """

    def __init__(self, *, quantum_ns: int, credit_ns: int = 0, floor_ns: int = 0, express_ns: int = 0) -> None:
        if quantum_ns <= 0 or min(credit_ns, express_ns) < 0 or not 0 <= floor_ns <= quantum_ns:
            raise ValueError("quantum_ns must be positive, no time negative, and floor_ns lie between 0 and quantum_ns")
        self._quantum_ns = quantum_ns
        self._floor_ns = floor_ns
        self._queue = FairQueue(quantum_ns, credit_ns, express_ns)
        self._root = Node(ROOT, None, 1, 1 << 62)
        self._nodes: dict[NodePath, Node] = {ROOT: self._root}
        self._running: set[Node] = set()
        self._awake: set[Node] = set()

    def add(self, path: NodePath, weight: int, *, parent: NodePath = ROOT, width: int = 1) -> None:
        """Add a sleeping node. Raises KeyError when its parent is unknown, ValueError when it exists or a number is wrong.

        A leaf is held at most once at a time; `width` counts for nodes that have children.
        """
        if not path or path in self._nodes:
            raise ValueError(f"node exists: {path}")
        above = self._parent(parent)
        if width < 1:
            raise ValueError("width must be at least 1")
        node = Node(path, above, _checked_weight(weight), width)
        node.start = node.finish = above.now
        above.children[path] = self._nodes[path] = node

    def remove(self, path: NodePath, now_ns: int = 0) -> None:
        """Remove a node and all below it, also while running: a later `charge` of it raises KeyError."""
        node = self._nodes[path]
        parent = node.parent
        if parent is None:
            raise ValueError("the root stays")
        for child in list(node.children):
            self.remove(child, now_ns)
        self.sleep(node)
        if node in self._running:
            self._running.discard(node)
            self._queue.release(node, self._quantum_ns, now_ns)
        node.throttled, node.gone = False, True
        del parent.children[path], self._nodes[path]

    def move(self, path: NodePath, parent: NodePath, now_ns: int = 0) -> None:
        """Put a node with all below it under another parent, whatever runs. It keeps its lead, so moving gains nothing.

        Raises KeyError, ValueError for the root and for a parent that is a leaf in use or below the node.
        """
        node, above = self._nodes[path], self._parent(parent)
        old = node.parent
        if old is None or self._is_below(above, node):
            raise ValueError(f"{path} cannot be below {parent}")
        if old is not above:
            self._queue.move(node, old, above, now_ns)

    def set_weight(self, path: NodePath, weight: int) -> None:
        """Change a weight, also while running; the CPU time by which it is ahead or behind stays. Raises KeyError, ValueError."""
        node = self._nodes[path]
        self._queue.reweigh(node, _checked_weight(weight))

    def set_cap(self, path: NodePath, cap: int | None, now_ns: int) -> None:
        """Hold a node to `cap` percent of one CPU, or to nothing but its share. Raises KeyError, ValueError.

        Over any time t it gets at most t * cap / 100, a tenth of a second's worth and one quantum, whatever is idle.
        """
        node = self._nodes[path]
        if node.parent is None:
            raise ValueError("the root has no cap")
        if cap != node.cap:
            self._queue.cap(node, cap, now_ns)

    def wake(self, leaf: Node) -> None:
        """The leaf wants CPU. Harmless when it is awake. Raises ValueError for a node that has children."""
        if leaf.children:
            raise ValueError(f"{leaf.path} is not a leaf")
        if not leaf.ready:
            self._awake.add(leaf)
            self._queue.wake(leaf)

    def sleep(self, leaf: Node) -> None:
        """The leaf wants no CPU for now. Harmless when it sleeps."""
        if not leaf.children and leaf.ready:
            self._awake.discard(leaf)
            self._queue.express.discard(leaf)
            self._queue.sleep(leaf)

    def pick(self, now_ns: int) -> Node | None:
        """The leaf to run now, held as running until `charge`; None when there is none. O(depth · log children)."""
        self._queue.unthrottle(now_ns)
        node = self._root
        while (child := node.first()) is not None:
            node = child
        if node is self._root:
            return None
        self._running.add(node)
        self._queue.hold(node, now_ns)
        return node

    def pick_express(self, now_ns: int) -> Node | None:
        """A leaf that has woken with credit for an express slice and not used up a slice since: it is worth a CPU more.

        Held as running until `charge`, like one that was picked, and charged like it: it only does not wait for a CPU. Who uses
        up its slice, or has used up its credit, waits like everybody.
        """
        self._queue.unthrottle(now_ns)
        leaf = self._queue.express.first()
        if leaf is not None:
            self._running.add(leaf)
            self._queue.hold(leaf, now_ns)
        return leaf

    def charge(self, leaf: Node, cpu_ns: int, now_ns: int, *, yielded: bool) -> int:
        """The leaf gave its CPU back after `cpu_ns`. It stays awake until `sleep`. Raises KeyError when it was not running.

        `yielded`: not because its slice was over. Who has more to do then is to `pick_express` as if it had just woken.
        What it was charged is returned: `floor_ns` at least.
        """
        self._running.remove(leaf)
        charged_ns = max(self._floor_ns, cpu_ns)
        self._queue.release(leaf, charged_ns, now_ns)
        if yielded and leaf.ready and self._queue.express.covers(leaf):
            self._queue.express.add(leaf)
        return charged_ns

    def next_release_ns(self) -> int | None:
        """When to `pick` again although nothing else happens: the first node that its cap holds back may go on."""
        return self._queue.caps.next_release_ns()

    def below(self, path: NodePath) -> tuple[NodePath, ...]:
        """The children of a node."""
        return tuple(self._nodes[path].children)

    def is_empty(self, path: NodePath) -> bool:
        """Whether nothing stands below the node."""
        return not self._nodes[path].children

    def share(self, path: NodePath) -> Share:
        node = self._nodes[path]
        return Share(path, node.weight, node.cap, node.ready > 0, node.throttled, node.running, node.cpu_ns)

    @property
    def awake(self) -> int:
        """Leaves that want CPU."""
        return len(self._awake)

    def contenders(self, used: Mapping[Node, float]) -> list[Contender]:
        """Everybody who competes, parents first: leaves that are awake or run, and of those in `used` the others, which got what
        they asked for: that part of the CPU time given out.
        """
        busy = self._awake | self._running
        found: dict[Node, Contender] = {}

        def contend(node: Node, wants: float | None) -> None:
            parent = node.parent
            if parent is None or node in found:
                return
            contend(parent, None)
            found[node] = Contender(node.path, parent.path, node.weight, node.width, node.cap, wants)

        for node in busy:
            contend(node, None)
        for node, part in used.items():
            if not node.gone:
                contend(node, part)
        return list(found.values())

    def node(self, path: NodePath) -> Node:
        """What stands at the path: good until it is `gone`, and changed by the scheduler alone. Raises KeyError."""
        return self._nodes[path]

    def lineage(self, leaf: Node) -> Iterator[NodePath]:
        """The node, its parent and so on, without the root. Of one that is gone: nothing."""
        node: Node | None = None if leaf.gone else leaf
        while node is not None and node.parent is not None:
            yield node.path
            node = node.parent

    def __contains__(self, path: object) -> bool:
        return path in self._nodes

    def __iter__(self) -> Iterator[NodePath]:
        return (path for path in self._nodes if path)

    def __repr__(self) -> str:
        return f"<Scheduler {len(self._nodes) - 1} nodes, {len(self._awake)} leaves awake, {len(self._running)} running>"

    def _parent(self, path: NodePath) -> Node:
        parent = self._nodes[path]
        if parent in self._running or (parent is not self._root and not parent.children and parent.ready):
            raise ValueError(f"{path} is a leaf in use")
        return parent

    def _is_below(self, node: Node | None, other: Node) -> bool:
        while node is not None and node is not other:
            node = node.parent
        return node is other


def _checked_weight(weight: int) -> int:
    if not 1 <= weight <= MAX_WEIGHT:
        raise ValueError(f"a weight must lie in 1..{MAX_WEIGHT}, not {weight}")
    return weight
