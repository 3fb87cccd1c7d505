"""Clusters: named groups of sites with a share of the machine. What is declared and stored, and who tells the monitor.

The default cluster is always there. Where the configuration file declares a cluster, it hides a stored one of the same name.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol

from edgecache.control.state import Missing, State
from edgecache.sites import Cluster
from sandbox import DEFAULT_CLUSTER, ClusterShare


class ClusterShares(Protocol):
    """The methods of `sandbox.Monitor` that are used here. Each takes effect at the next slice."""

    def set_cluster(self, name: str, share: ClusterShare) -> None: ...

    def remove_cluster(self, name: str) -> None: ...


class Clusters:
    """All clusters, by name. All methods belong to the event loop's thread."""

    def __init__(self, state: State, shares: ClusterShares, declared: Iterable[Cluster]) -> None:
        self._state = state
        self._shares = shares
        self._declared = {cluster.name: replace(cluster, from_config=True) for cluster in declared}
        self._clusters: dict[str, Cluster] = {DEFAULT_CLUSTER: Cluster(DEFAULT_CLUSTER), **self._declared}

    def apply_declared(self) -> None:
        """Tell the monitor what needs no state: before the first program is registered."""
        for cluster in self._clusters.values():
            self._tell(cluster)

    async def load(self) -> None:
        """Raises StateError."""
        for cluster in await self._state.clusters():
            if cluster.name not in self._declared:
                self._clusters[cluster.name] = cluster
                self._tell(cluster)

    @asynccontextmanager
    async def redeclared(self, declared: Iterable[Cluster]) -> AsyncIterator[None]:
        """A context in which these take the place of the clusters declared before. Raises StateError.

        Inside it the old ones are there too, so that sites can be moved. At its end those that are no more are forgotten; if it
        ends by an exception, all are as they were.
        """
        stored = {cluster.name: cluster for cluster in await self._state.clusters()}
        before, before_declared = self._clusters, self._declared
        self._declared = {cluster.name: replace(cluster, from_config=True) for cluster in declared}
        self._replace({DEFAULT_CLUSTER: Cluster(DEFAULT_CLUSTER), **stored, **self._declared})
        gone = before.keys() - self._clusters.keys()
        try:
            yield
        except BaseException:
            gone = self._clusters.keys() - before.keys()
            self._declared = before_declared
            self._replace(before)
            raise
        finally:
            for name in gone:
                self._shares.remove_cluster(name)

    def all(self) -> tuple[Cluster, ...]:
        return tuple(sorted(self._clusters.values(), key=lambda cluster: cluster.name))

    def get(self, name: str) -> Cluster | None:
        return self._clusters.get(name)

    async def put(self, cluster: Cluster) -> None:
        """Add or change it. Raises TooMany, StateError."""
        await self._state.put_cluster(cluster)
        self._clusters[cluster.name] = cluster
        self._tell(cluster)

    async def remove(self, name: str) -> None:
        """The default one goes back to its default share. Raises Missing, StateError."""
        if name not in self._clusters:
            raise Missing
        await self._state.remove_cluster(name)
        if name == DEFAULT_CLUSTER:
            self._clusters[name] = Cluster(name)
            self._tell(self._clusters[name])
        else:
            del self._clusters[name]
            self._shares.remove_cluster(name)

    def _replace(self, clusters: dict[str, Cluster]) -> None:
        self._clusters = clusters
        for cluster in clusters.values():
            self._tell(cluster)

    def _tell(self, cluster: Cluster) -> None:
        self._shares.set_cluster(cluster.name, ClusterShare(cluster.weight, cluster.cap))
