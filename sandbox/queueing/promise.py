"""What everybody who competes for CPU time is promised, as a part of what is given out. Pure: values in, numbers out.

Weighted max-min fairness over the share tree: each node gets its weight's part among its siblings, never more than it can or may
use, and what it leaves goes to the others by their weights. Called by `dispatch/ledger.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sandbox.queueing.nodes import ROOT, Contender, NodePath


def promises(contenders: Sequence[Contender], *, cpus: float, slots: int) -> dict[NodePath, float]:
    """Each node's part, 0 to 1, of the CPU time given out.

    `contenders`: parents before their children; `cpus`: how many CPUs' time was given out; `slots`: how many leaves run at once.
    The parts of the leaves sum to 1, unless caps hold them all back.
    """
    children: dict[NodePath, list[Contender]] = {ROOT: []}
    for contender in contenders:
        children[contender.path] = []
        children[contender.parent].append(contender)
    usable = max(1, min(slots, _widths(contenders, children)[ROOT]))
    most = _ceilings(contenders, children, cpus, usable)
    found = {ROOT: 1.0}
    for path in (ROOT, *(contender.path for contender in contenders)):
        if children[path]:
            found.update(divide(found[path], {child.path: (child.weight, most[child.path]) for child in children[path]}))
    del found[ROOT]
    return found


def divide(amount: float, among: Mapping[NodePath, tuple[int, float]]) -> dict[NodePath, float]:
    """`amount` divided by weight among those that may have at most their ceiling each: weights and ceilings by path.

    What the ceilings keep from all of them is left over.
    """
    found: dict[NodePath, float] = {}
    # Whose ceiling is least for its weight reaches it first, and then the others' parts only grow.
    left, weights = amount, sum(weight for weight, _ in among.values())
    for path, (weight, ceiling) in sorted(among.items(), key=lambda item: item[1][1] / item[1][0]):
        found[path] = min(ceiling, left * weight / weights)
        left = max(0.0, left - found[path])
        weights -= weight
    return found


def _widths(contenders: Sequence[Contender], children: Mapping[NodePath, Sequence[Contender]]) -> dict[NodePath, int]:
    """How many leaves of those that take whatever they get can run at once, by node."""
    widths: dict[NodePath, int] = dict.fromkeys(children, 0)
    for contender in reversed(contenders):
        own = min(contender.width, widths[contender.path]) if children[contender.path] else int(contender.wants is None)
        widths[contender.path] = own
        widths[contender.parent] += own
    return widths


def _ceilings(
    contenders: Sequence[Contender], children: Mapping[NodePath, Sequence[Contender]], cpus: float, usable: int
) -> dict[NodePath, float]:
    """The largest part that each node can or may use: its slots, its cap, its wish, and what those below it can use."""
    most: dict[NodePath, float] = {}
    for contender in reversed(contenders):
        below = children[contender.path]
        bounds = [1.0, (contender.width if below else 1) / usable]
        if below:
            bounds.append(sum(most[child.path] for child in below))
        if contender.cap is not None and cpus > 0:
            bounds.append(contender.cap / 100 / cpus)
        if contender.wants is not None:
            bounds.append(contender.wants)
        most[contender.path] = min(bounds)
    return most
