"""Who runs next: hierarchical start-time fair queueing over a tree of shares (Goyal, Guo, Vin: "A Hierarchical CPU Scheduler
for Multimedia Operating Systems", OSDI 1996), with caps. Pure: values in, decisions out; time is an argument; no I/O, no VM.
Called by the monitor's dispatcher, and by simulations.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping

from sandbox.bucket import TokenBucket
from sandbox.express import Express
from sandbox.nodes import ROOT, Claim, Path, Share
from sandbox.sharenode import SCALE, Node

__all__ = ["MAX_CAP", "MAX_WEIGHT", "ROOT", "Path", "Scheduler", "Share"]

MAX_WEIGHT = 1_000_000
MAX_CAP = 100_000
"""In percent of one CPU."""
_CAP_PERIOD_NS = 100_000_000
"""A capped node may use its cap of so much time at once, and one quantum: bursts pass, the average holds."""
_PERCENT_NS = 10_000_000
"""One percent of one CPU, in nanoseconds a second."""


class Scheduler:
    """A tree of shares. Leaves are woken, picked and charged; CPU time is divided by weight among those that want it.

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
        self._credit_ns = credit_ns
        self._express = Express(min(express_ns, credit_ns))
        self._root = Node(ROOT, None, 1, 1 << 62)
        self._nodes: dict[Path, Node] = {ROOT: self._root}
        self._running: set[Path] = set()
        self._throttled: list[tuple[int, int, Node]] = []
        """When a node that its cap holds back may go on; nodes that left meanwhile are skipped."""
        self._serial = 0
        self._awake: set[Node] = set()

    def add(self, path: Path, weight: int, *, parent: Path = ROOT, width: int = 1) -> None:
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

    def remove(self, path: Path, now_ns: int = 0) -> None:
        """Remove a node and all below it, also while running: a later `charge` of it raises KeyError."""
        node = self._nodes[path]
        parent = node.parent
        if parent is None:
            raise ValueError("the root stays")
        for child in list(node.children):
            self.remove(child, now_ns)
        self.sleep(path)
        if path in self._running:
            self._running.discard(path)
            self._release(node, self._quantum_ns, now_ns)
        node.throttled = False
        del parent.children[path], self._nodes[path]

    def move(self, path: Path, parent: Path, now_ns: int = 0) -> None:
        """Put a node with all below it under another parent, whatever runs. It keeps its lead, so moving gains nothing.

        Raises KeyError, ValueError for the root and for a parent that is a leaf in use or below the node.
        """
        node, above = self._nodes[path], self._parent(parent)
        old = node.parent
        if old is None or self._is_below(above, node):
            raise ValueError(f"{path} cannot be below {parent}")
        if old is above:
            return
        running, lead = node.running, max(0, node.start - old.now)
        for _ in range(running):
            self._release(old, 0, now_ns)
        node.entry = 0
        if node.ready:
            old.wanted -= node.weight
            self._rest(old)
        del old.children[path]
        self._requeue(old)
        node.parent, above.children[path] = above, node
        node.start = node.finish = above.now + lead
        if node.ready:
            above.wanted += node.weight
            self._rouse(above)
        for _ in range(running):
            self._hold(above, now_ns)
        self._requeue(node)

    def set_weight(self, path: Path, weight: int) -> None:
        """Change a weight, also while running; the CPU time by which it is ahead or behind stays. Raises KeyError, ValueError.

        Without that, a node of weight 1 that has just run would wait for its next turn as long as its old weight says.
        """
        node = self._nodes[path]
        old, node.weight = node.weight, _checked_weight(weight)
        if node.parent is not None and old != weight:
            now = node.parent.now
            if node.ready:
                node.parent.wanted += weight - old
            node.start = now + (node.start - now) * old // weight
            node.finish = now + (node.finish - now) * old // weight
            self._queue(node)

    def set_cap(self, path: Path, cap: int | None, now_ns: int) -> None:
        """Hold a node to `cap` percent of one CPU, or to nothing but its share. Raises KeyError, ValueError.

        Over any time t it gets at most t * cap / 100, a tenth of a second's worth and one quantum, whatever is idle.
        """
        node = self._nodes[path]
        if node.parent is None:
            raise ValueError("the root has no cap")
        if cap is not None and not 1 <= cap <= MAX_CAP:
            raise ValueError(f"a cap must lie in 1..{MAX_CAP} percent, not {cap}")
        if cap == node.cap:
            return
        node.cap = cap
        if cap is None:
            node.bucket = None
        else:
            rate = cap * _PERCENT_NS
            node.bucket = TokenBucket(rate, self._quantum_ns + rate * _CAP_PERIOD_NS // 1_000_000_000, now_ns)
            node.bucket.take(node.running * self._quantum_ns, now_ns)
        self._throttle(node, now_ns)
        self._requeue(node)

    def wake(self, path: Path) -> None:
        """The leaf wants CPU. Harmless when it is awake."""
        leaf = self._nodes[path]
        if leaf.children:
            raise ValueError(f"{path} is not a leaf")
        if not leaf.ready:
            self._awake.add(leaf)
            self._rouse(leaf)

    def sleep(self, path: Path) -> None:
        """The leaf wants no CPU for now. Harmless when it sleeps."""
        leaf = self._nodes[path]
        if not leaf.children and leaf.ready:
            self._awake.discard(leaf)
            self._express.discard(leaf)
            self._rest(leaf)

    def pick(self, now_ns: int = 0, count: int = 1) -> list[Path]:
        """Up to `count` leaves to run now, best first, each held as running until `charge`. O(depth · log children) each."""
        self._unthrottle(now_ns)
        picked: list[Path] = []
        while len(picked) < count:
            node = self._root
            while (child := node.first()) is not None:
                node = child
            if node is self._root:
                break
            picked.append(node.path)
            self._running.add(node.path)
            self._hold(node, now_ns)
        return picked

    def pick_express(self, now_ns: int = 0) -> Path | None:
        """A leaf that has woken with credit for an express slice and not run since: it is worth a CPU more.

        Held as running until `charge`, like one that was picked, and charged like it: it only does not wait for a CPU. Who uses
        up its slice, or has used up its credit, waits like everybody.
        """
        self._unthrottle(now_ns)
        leaf = self._express.first()
        if leaf is None:
            return None
        self._running.add(leaf.path)
        self._hold(leaf, now_ns)
        return leaf.path

    def charge(self, path: Path, cpu_ns: int, now_ns: int = 0) -> int:
        """The leaf gave its CPU back after `cpu_ns`. It stays awake until `sleep`. Raises KeyError when it was not running.

        What it was charged is returned: `floor_ns` at least.
        """
        self._running.remove(path)
        charged_ns = max(self._floor_ns, cpu_ns)
        self._release(self._nodes[path], charged_ns, now_ns)
        return charged_ns

    def runnable(self, now_ns: int = 0) -> bool:
        """Whether `pick` would find something."""
        self._unthrottle(now_ns)
        return self._root.first() is not None

    def next_release_ns(self) -> int | None:
        """When to `pick` again although nothing else happens: the first node that its cap holds back may go on."""
        while self._throttled and not self._throttled[0][2].throttled:
            heapq.heappop(self._throttled)
        return self._throttled[0][0] if self._throttled else None

    def below(self, path: Path) -> tuple[Path, ...]:
        """The children of a node."""
        return tuple(self._nodes[path].children)

    def is_empty(self, path: Path) -> bool:
        """Whether nothing stands below the node."""
        return not self._nodes[path].children

    def share(self, path: Path) -> Share:
        node = self._nodes[path]
        return Share(path, node.weight, node.cap, node.ready > 0, node.throttled, node.running, node.cpu_ns)

    @property
    def awake(self) -> int:
        """Leaves that want CPU."""
        return len(self._awake)

    def claims(self, used: Mapping[Path, float]) -> list[Claim]:
        """Everybody who competes, parents first: leaves that are awake or run, and of those in `used` the others, which got what
        they asked for: that part of the CPU time given out.
        """
        busy = self._awake | {self._nodes[path] for path in self._running}
        found: dict[Node, Claim] = {}

        def claim(node: Node, wants: float | None) -> None:
            parent = node.parent
            if parent is None or node in found:
                return
            claim(parent, None)
            found[node] = Claim(node.path, parent.path, node.weight, node.width, node.cap, wants)

        for node in busy:
            claim(node, None)
        for path, part in used.items():
            if path in self._nodes:
                claim(self._nodes[path], part)
        return list(found.values())

    def lineage(self, path: Path) -> Iterator[Path]:
        """The node, its parent and so on, without the root. Of an unknown node: nothing."""
        node: Node | None = self._nodes.get(path)
        while node is not None and node.parent is not None:
            yield node.path
            node = node.parent

    def __contains__(self, path: object) -> bool:
        return path in self._nodes

    def __iter__(self) -> Iterator[Path]:
        return (path for path in self._nodes if path)

    def __repr__(self) -> str:
        return f"<Scheduler {len(self._nodes) - 1} nodes, {len(self._awake)} leaves awake, {len(self._running)} running>"

    def _parent(self, path: Path) -> Node:
        parent = self._nodes[path]
        if path in self._running or (parent is not self._root and not parent.children and parent.ready):
            raise ValueError(f"{path} is a leaf in use")
        return parent

    def _is_below(self, node: Node | None, other: Node) -> bool:
        while node is not None and node is not other:
            node = node.parent
        return node is other

    def _rouse(self, node: Node | None) -> None:
        """One thing more below this node, or itself, wants CPU."""
        leaf, woken, express = node, True, False
        while node is not None:
            if woken:
                node.ready += 1
                woken = node.ready == 1
                if woken and node.parent is not None:
                    node.reached = self._reached(node.parent)
                    earliest = node.reached - self._credit_ns * SCALE // node.weight
                    node.start = max(earliest, node.finish)
                    node.parent.wanted += node.weight
                    express = self._express.covers(node)
            if not node.entry:
                self._queue(node)
            node = node.parent
        if express and leaf is not None and not leaf.children:
            self._express.add(leaf)

    def _reached(self, parent: Node) -> int:
        """The virtual time at which a child wakes.

        `now` stands still while all who come are served on their credit, and who is ahead of it would wait for them all. The
        average goes on; but those who take turns lie up to a quantum around it, and who wakes must not lie behind them.
        """
        if not parent.wanted:
            return parent.now
        return max(parent.now, parent.clock - self._quantum_ns * SCALE * parent.ready // parent.wanted)

    def _rest(self, node: Node | None) -> None:
        """One thing less below this node, or itself, wants CPU."""
        asleep = True
        while node is not None:
            if asleep:
                node.ready -= 1
                asleep = not node.ready
                if asleep and node.parent is not None:
                    node.parent.wanted -= node.weight
            if asleep or node.first() is None:
                node.entry = 0
            node = node.parent

    def _hold(self, node: Node | None, now_ns: int) -> None:
        if node is not None:
            self._express.discard(node)
        while node is not None:
            node.running += 1
            if node.parent is not None:
                node.parent.now = max(node.parent.now, node.start)
                if node.start >= node.reached:
                    # Its turn comes without credit: the others are no further than this.
                    node.parent.clock = min(node.parent.clock, node.parent.now)
                node.finish = node.start + self._quantum_ns * SCALE // node.weight
                node.start = node.finish
                if node.bucket is not None:
                    node.bucket.take(self._quantum_ns, now_ns)
                    self._throttle(node, now_ns)
                self._queue(node)
            node = node.parent

    def _release(self, node: Node | None, cpu_ns: int, now_ns: int) -> None:
        while node is not None:
            node.running -= 1
            node.cpu_ns += cpu_ns
            if node.parent is not None:
                wanted = node.parent.wanted + (0 if node.ready else node.weight)
                node.parent.clock = max(node.parent.clock, node.parent.now) + cpu_ns * SCALE // wanted
                correction = (cpu_ns - self._quantum_ns) * SCALE // node.weight
                node.finish += correction
                # Who was held up by its width must not come back with a claim on the past beyond credit and one quantum.
                floor = node.parent.now - (self._credit_ns + self._quantum_ns) * SCALE // node.weight
                node.start = max(node.start + correction, floor)
                node.finish = max(node.finish, node.start)
                if node.bucket is not None:
                    node.bucket.take(cpu_ns - self._quantum_ns, now_ns)
                    self._throttle(node, now_ns)
                self._queue(node)
                self._settle(node, node.parent)
            node = node.parent

    def _settle(self, node: Node, parent: Node) -> None:
        """Who ran while nobody else wanted the CPU owes nothing for it.

        Once neither this child, whose slice ends, nor another one wants any, virtual time goes on to where all have their credit
        again: those who come next, with theirs, do not go before who was alone.
        """
        parent.paid = max(parent.paid, node.finish + self._credit_ns * SCALE // node.weight)
        if not parent.ready and parent.running == 1:
            parent.now = max(parent.now, parent.paid)

    def _throttle(self, node: Node, now_ns: int) -> None:
        """Hold the node back until its cap covers a quantum, or no longer."""
        wait_ns = 0 if node.bucket is None else node.bucket.wait_ns(self._quantum_ns, now_ns)
        if wait_ns:
            self._serial += 1
            heapq.heappush(self._throttled, (now_ns + wait_ns, self._serial, node))
        node.throttled = wait_ns > 0

    def _unthrottle(self, now_ns: int) -> None:
        throttled = self._throttled
        while throttled and throttled[0][0] <= now_ns:
            node = heapq.heappop(throttled)[2]
            if not node.throttled:
                continue
            node.throttled = False
            self._throttle(node, now_ns)  # what it was charged since may have put it off
            if not node.throttled and node.parent is not None:
                node.start = max(node.start, node.parent.now - self._credit_ns * SCALE // node.weight)
                node.finish = max(node.finish, node.start)
                self._requeue(node)

    def _requeue(self, node: Node | None) -> None:
        """Bring the entries from this node upwards up to date."""
        while node is not None:
            self._queue(node)
            node = node.parent

    def _queue(self, node: Node) -> None:
        """Give the node its one valid entry in its parent's heap, or none when it may not be picked."""
        parent = node.parent
        if parent is None:
            return
        room = node.running < node.width and node.first() is not None if node.children else not node.running
        if not node.ready or node.throttled or not room:
            node.entry = 0
            return
        self._serial += 1
        parent.offer(node, self._serial)


def _checked_weight(weight: int) -> int:
    if not 1 <= weight <= MAX_WEIGHT:
        raise ValueError(f"a weight must lie in 1..{MAX_WEIGHT}, not {weight}")
    return weight
