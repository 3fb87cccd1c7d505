"""Hierarchical start-time fair queueing over nodes: their tags in virtual time, and who may be picked on each level.

Goyal, Guo, Vin: "A Hierarchical CPU Scheduler for Multimedia Operating Systems", OSDI 1996. Pure; called by `scheduler` alone,
which knows the nodes by name and has checked what it asks for.
"""

from __future__ import annotations

from sandbox.queueing.caps import Caps
from sandbox.queueing.express import Express
from sandbox.queueing.sharenode import SCALE, Node


class FairQueue:
    """What happens to a node happens to all above it: each change walks upwards from where it begins.

    The times are those of `scheduler.Scheduler`.
    """

    __slots__ = ("_credit_ns", "_quantum_ns", "_serial", "caps", "express")

    def __init__(self, quantum_ns: int, credit_ns: int, express_ns: int) -> None:
        self._quantum_ns = quantum_ns
        self._credit_ns = credit_ns
        self._serial = 0
        self.express = Express(min(express_ns, credit_ns), quantum_ns)
        self.caps = Caps(quantum_ns)

    def wake(self, node: Node | None) -> None:
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
                    express = self.express.covers(node)
            if not node.entry:
                self._offer(node)
            node = node.parent
        if express and leaf is not None and not leaf.children:
            self.express.add(leaf)

    def sleep(self, node: Node | None) -> None:
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

    def hold(self, node: Node | None, now_ns: int) -> None:
        """A leaf, or one below the node, has a CPU: it is held to cost a quantum until it is released."""
        if node is not None:
            self.express.discard(node)
        while node is not None:
            node.running += 1
            if node.parent is not None:
                node.parent.now = max(node.parent.now, node.start)
                if node.start >= node.reached:
                    # Its turn comes without credit: the others are no further than this.
                    node.parent.clock = min(node.parent.clock, node.parent.now)
                node.finish = node.start + self._quantum_ns * SCALE // node.weight
                node.start = node.finish
                self.caps.charge(node, self._quantum_ns, now_ns)
                self._offer(node)
            node = node.parent

    def release(self, node: Node | None, cpu_ns: int, now_ns: int) -> None:
        """The CPU is given back after `cpu_ns`, which takes the place of the quantum."""
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
                self.caps.charge(node, cpu_ns - self._quantum_ns, now_ns)
                self._offer(node)
                self._settle(node, node.parent)
            node = node.parent

    def unthrottle(self, now_ns: int) -> None:
        """Let those go on that their caps hold back no longer."""
        while (node := self.caps.released(now_ns)) is not None:
            if node.parent is not None:
                node.start = max(node.start, node.parent.now - self._credit_ns * SCALE // node.weight)
                node.finish = max(node.finish, node.start)
                self._requeue(node)

    def cap(self, node: Node, cap: int | None, now_ns: int) -> None:
        """Give the node another cap, or none. Raises ValueError."""
        self.caps.set(node, cap, now_ns)
        self._requeue(node)

    def reweigh(self, node: Node, weight: int) -> None:
        """Change the node's weight; the CPU time by which it is ahead or behind stays.

        Without that, a node of weight 1 that has just run would wait for its next turn as long as its old weight says.
        """
        old, node.weight = node.weight, weight
        if node.parent is not None and old != weight:
            now = node.parent.now
            if node.ready:
                node.parent.wanted += weight - old
            node.start = now + (node.start - now) * old // weight
            node.finish = now + (node.finish - now) * old // weight
            self._offer(node)

    def move(self, node: Node, old: Node, above: Node, now_ns: int) -> None:
        """Take the node from `old` to `above`, with all that runs below it and with its lead."""
        running, lead = node.running, max(0, node.start - old.now)
        for _ in range(running):
            self.release(old, 0, now_ns)
        node.entry = 0
        if node.ready:
            old.wanted -= node.weight
            self.sleep(old)
        del old.children[node.path]
        self._requeue(old)
        node.parent, above.children[node.path] = above, node
        node.start = node.finish = above.now + lead
        if node.ready:
            above.wanted += node.weight
            self.wake(above)
        for _ in range(running):
            self.hold(above, now_ns)
        self._requeue(node)

    def _reached(self, parent: Node) -> int:
        """The virtual time at which a child wakes.

        `now` stands still while all who come are served on their credit, and who is ahead of it would wait for them all. The
        average goes on; but those who take turns lie up to a quantum around it, and who wakes must not lie behind them.
        """
        if not parent.wanted:
            return parent.now
        return max(parent.now, parent.clock - self._quantum_ns * SCALE * parent.ready // parent.wanted)

    def _settle(self, node: Node, parent: Node) -> None:
        """Who ran while nobody else wanted the CPU owes nothing for it.

        Once neither this child, whose slice ends, nor another one wants any, virtual time goes on to where all have their credit
        again: those who come next, with theirs, do not go before who was alone.
        """
        parent.paid = max(parent.paid, node.finish + self._credit_ns * SCALE // node.weight)
        if not parent.ready and parent.running == 1:
            parent.now = max(parent.now, parent.paid)

    def _requeue(self, node: Node | None) -> None:
        """Bring the entries from this node upwards up to date."""
        while node is not None:
            self._offer(node)
            node = node.parent

    def _offer(self, node: Node) -> None:
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
