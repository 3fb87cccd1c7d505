"""Nodes that are held to a part of one CPU, whatever is idle, and when those that it holds back may go on.

Pure: time is an argument. `fairqueue` asks before it offers a node, and tells what a node is charged.
"""

from __future__ import annotations

import heapq

from sandbox.queueing.bucket import TokenBucket
from sandbox.queueing.sharenode import Node

MAX_CAP = 100_000
"""In percent of one CPU."""
_PERIOD_NS = 100_000_000
"""A capped node may use its cap of so much time at once, and one quantum: bursts pass, the average holds."""
_PERCENT_NS = 10_000_000
"""One percent of one CPU, in nanoseconds a second."""


class Caps:
    """`quantum_ns`: what a slice is held to cost until it is charged; none begins that its node's cap does not cover."""

    __slots__ = ("_quantum_ns", "_serial", "_throttled")

    def __init__(self, quantum_ns: int) -> None:
        self._quantum_ns = quantum_ns
        self._throttled: list[tuple[int, int, Node]] = []
        """When a node that its cap holds back may go on; nodes that left meanwhile are skipped."""
        self._serial = 0

    def set(self, node: Node, cap: int | None, now_ns: int) -> None:
        """Percent of one CPU, from now on; None: no cap. Raises ValueError."""
        if cap is not None and not 1 <= cap <= MAX_CAP:
            raise ValueError(f"a cap must lie in 1..{MAX_CAP} percent, not {cap}")
        node.cap = cap
        if cap is None:
            node.bucket = None
        else:
            rate = cap * _PERCENT_NS
            node.bucket = TokenBucket(rate, self._quantum_ns + rate * _PERIOD_NS // 1_000_000_000, now_ns)
            node.bucket.take(node.running * self._quantum_ns, now_ns)
        self._throttle(node, now_ns)

    def charge(self, node: Node, cpu_ns: int, now_ns: int) -> None:
        """Count CPU time, or less than none, against the node's cap if it has one."""
        if node.bucket is not None:
            node.bucket.take(cpu_ns, now_ns)
            self._throttle(node, now_ns)

    def released(self, now_ns: int) -> Node | None:
        """One node that its cap holds back no longer; it is told once."""
        throttled = self._throttled
        while throttled and throttled[0][0] <= now_ns:
            node = heapq.heappop(throttled)[2]
            if not node.throttled:
                continue
            self._throttle(node, now_ns)  # what it was charged since may have put it off
            if not node.throttled:
                return node
        return None

    def next_release_ns(self) -> int | None:
        """When the first node that its cap holds back may go on."""
        while self._throttled and not self._throttled[0][2].throttled:
            heapq.heappop(self._throttled)
        return self._throttled[0][0] if self._throttled else None

    def _throttle(self, node: Node, now_ns: int) -> None:
        """Hold the node back until its cap covers a quantum, or no longer."""
        wait_ns = 0 if node.bucket is None else node.bucket.wait_ns(self._quantum_ns, now_ns)
        if wait_ns:
            self._serial += 1
            heapq.heappush(self._throttled, (now_ns + wait_ns, self._serial, node))
        node.throttled = wait_ns > 0
