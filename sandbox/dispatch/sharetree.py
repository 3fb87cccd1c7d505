"""Who is promised what: the scheduler's tree of clusters, sites and generators, its weights and caps, and their live changes.

Requests, slices and workers are `dispatcher.py`'s, which asks this tree who runs next and charges it. No I/O, no clock.
"""

from __future__ import annotations

from collections.abc import Mapping

from sandbox.dispatch.ledger import Allocation, Ledger
from sandbox.queueing.nodes import NodePath, Share
from sandbox.queueing.sharenode import Node
from sandbox.scheduler import Scheduler
from sandbox.shares import DEFAULT_CLUSTER, ClusterShare, SiteShare, cluster_path


class ShareTree:
    """The scheduler in the words of who sets shares. A change counts from the next pick on."""

    def __init__(self, scheduler: Scheduler, slots: int, express: int = 0) -> None:
        """`slots`: how many slices run at once, beside `express` short ones. Together they are as wide as a cluster can be."""
        self.scheduler = scheduler
        self._width = slots + express
        self._ledger = Ledger(scheduler, slots)
        self._clusters: dict[str, NodePath] = {}
        self.set_cluster(DEFAULT_CLUSTER, ClusterShare(), 0)

    def enter(self, path: NodePath, weight: int, width: int, cluster: str = DEFAULT_CLUSTER) -> Node:
        """Take a generator in, asleep; its site, the first part of `path`, goes into `cluster` when it is not there yet.

        `width`: how many of the site's generators may run at once. Returns its leaf. Raises ValueError for
        a bad weight, KeyError where there is no such cluster.
        """
        site = path[:1]
        new = site not in self.scheduler
        if new:
            self.scheduler.add(site, SiteShare().weight, parent=cluster_path(cluster), width=width)
        try:
            self.scheduler.add(path, weight, parent=site)
        except ValueError:
            if new:
                self.scheduler.remove(site)
            raise
        return self.scheduler.node(path)

    def leave(self, path: NodePath, now_ns: int) -> bool:
        """Forget a generator; whether its site went with it, for it was the last. Raises KeyError."""
        site = path[:1]
        self._ledger.book(now_ns)
        self.scheduler.remove(path, now_ns)
        if not self.scheduler.is_empty(site):
            return False
        self.scheduler.remove(site, now_ns)
        return True

    def set_cluster(self, name: str, share: ClusterShare, now_ns: int) -> None:
        """Add or change a cluster. Raises ValueError for a bad number."""
        path = cluster_path(name)
        if path not in self.scheduler:
            self.scheduler.add(path, share.weight, width=self._width)
            self._clusters[name] = path
        self._set(path, share.weight, share.cap, now_ns)

    def remove_cluster(self, name: str, now_ns: int) -> None:
        """Its sites go to the default cluster. Raises KeyError where there is none, ValueError for the default."""
        path = cluster_path(name)
        if name == DEFAULT_CLUSTER:
            raise ValueError("the default cluster stays")
        self._ledger.book(now_ns)
        for site in self.scheduler.below(path):
            self.scheduler.move(site, cluster_path(DEFAULT_CLUSTER), now_ns)
        self.scheduler.remove(path, now_ns)
        del self._clusters[name]

    def set_site(self, site: str, share: SiteShare, now_ns: int) -> None:
        """Raises KeyError where the site has nothing registered or there is no such cluster, ValueError for a bad number."""
        self._ledger.book(now_ns)
        self.scheduler.move((site,), cluster_path(share.cluster), now_ns)
        self._set((site,), share.weight, share.cap, now_ns)

    def set_generator(self, path: NodePath, weight: int, cap: int | None, now_ns: int) -> None:
        """Raises KeyError, ValueError for a bad number."""
        self._set(path, weight, cap, now_ns)

    def charge(self, leaf: Node, cpu_ns: int, now_ns: int, *, yielded: bool = False) -> None:
        """A generator gave its CPU back after so much; `yielded`: before its slice was over. Raises KeyError."""
        self._ledger.charge(leaf, self.scheduler.charge(leaf, cpu_ns, now_ns, yielded=yielded), now_ns)

    def allocations(self, now_ns: int) -> Mapping[NodePath, Allocation]:
        """What everybody who competed in the last ten seconds was promised, and what it received."""
        return self._ledger.allocations(now_ns)

    def clusters(self) -> dict[str, tuple[Share, tuple[NodePath, ...]]]:
        """Each cluster's share, and its sites, by name."""
        return {name: (self.scheduler.share(path), self.scheduler.below(path)) for name, path in self._clusters.items()}

    def _set(self, path: NodePath, weight: int, cap: int | None, now_ns: int) -> None:
        self._ledger.book(now_ns)
        self.scheduler.set_weight(path, weight)
        self.scheduler.set_cap(path, cap, now_ns)
