"""How a generator's traffic is divided when a version is given a part of it. Pure."""

from __future__ import annotations

from edgecache.control.records import Portion, Split


def give(split: Split, version: int, percent: int) -> Split | None:
    """`split` with `percent` (1 to 100) for `version`, and the rest shared by the others in proportion to what they had.

    A version whose part would fall below 1 % leaves. None: `percent` is below 100 and no other version is active.
    Percents add up to 100; what rounding leaves goes to the largest.
    """
    if percent == 100:
        return (Portion(version, 100),)
    others = [portion for portion in split if portion.version != version]
    if not others:
        return None
    total = sum(portion.percent for portion in others)
    scaled = [Portion(portion.version, portion.percent * (100 - percent) // total) for portion in others]
    kept = [portion for portion in scaled if portion.percent] or [Portion(max(others, key=lambda p: p.percent).version, 0)]
    left = 100 - percent - sum(portion.percent for portion in kept)
    largest = max(kept, key=lambda portion: portion.percent)
    shared = [Portion(p.version, p.percent + left) if p is largest else p for p in kept]
    return (*shared, Portion(version, percent))
