"""Slices whose CPU time has not been asked of the kernel yet: short ones go on a worker's tab, and one reading pays for all.

Asking costs a system call or two a slice, 3 us and more on kvm, as much as a thirtieth of a short request. What a reading says is
divided by how long each slice took on the monitor's own clock: the worker is not believed. Pure; called by `lane.py`.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

MOST_NS: Final = 2_000_000
"""Of wall time on a tab: how late CPU time is charged. Less than a slice."""
MOST_SLICES: Final = 32

T = TypeVar("T")


class Tab(Generic[T]):
    """One worker's, of slices that T had. What is on it was used since the last reading."""

    def __init__(self) -> None:
        self._walls: dict[T, list[int]] = {}
        self._wall_ns = self._slices = 0

    @property
    def empty(self) -> bool:
        return not self._slices

    @property
    def due(self) -> bool:
        """Whether it is time for a reading."""
        return self._wall_ns >= MOST_NS or self._slices >= MOST_SLICES

    def add(self, who: T, wall_ns: int) -> None:
        """A slice is over that took so long."""
        wall_ns = max(1, wall_ns)
        wall = self._walls.get(who)
        if wall is None:
            self._walls[who] = [wall_ns, 1]
        else:
            wall[0] += wall_ns
            wall[1] += 1
        self._wall_ns += wall_ns
        self._slices += 1

    def divide(self, used_ns: int) -> list[tuple[T, int, int]]:
        """Who pays how much of `used_ns`, for how many slices; the sum is exact. The tab is empty after it."""
        walls, left_wall_ns, left_ns = self._walls, self._wall_ns, used_ns
        self._walls, self._wall_ns, self._slices = {}, 0, 0
        parts: list[tuple[T, int, int]] = []
        for who, (wall_ns, slices) in walls.items():
            part_ns = left_ns * wall_ns // left_wall_ns
            left_wall_ns, left_ns = left_wall_ns - wall_ns, left_ns - part_ns
            parts.append((who, part_ns, slices))
        return parts
