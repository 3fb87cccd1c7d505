"""The share tree's upper levels in the words of who sets them: clusters, and sites in them. Values only.

A weight counts among its siblings; a cap is a hard ceiling in percent of one CPU, whatever is idle. The tree itself is
`scheduler.py`'s.
"""

from __future__ import annotations

from dataclasses import dataclass

from sandbox.limits import DEFAULT_RATES, Rates
from sandbox.queueing.nodes import NodePath

DEFAULT_CLUSTER = "default"
"""Where sites are that name no cluster. It is always there."""


@dataclass(frozen=True, slots=True)
class ClusterShare:
    """A group of sites: its part of the machine."""

    weight: int = 1
    cap: int | None = None
    """Percent of one CPU; None: none."""


@dataclass(frozen=True, slots=True)
class SiteShare:
    """A site's part of its cluster."""

    weight: int = 1
    cluster: str = DEFAULT_CLUSTER
    cap: int | None = None
    rates: Rates = DEFAULT_RATES
    """Of all its generators together."""


def cluster_path(name: str) -> NodePath:
    """Its name in the scheduler: no site is called ``."""
    return ("", name)
