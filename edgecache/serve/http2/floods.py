"""How much a client may have done for it besides requests: frames that cost work and carry nothing, and requests taken back.

Values and decisions; time is an argument. `connection` asks before the h2 library sees a frame.
"""

from __future__ import annotations

from typing import Final

from edgecache.serve.http2.frames import END_STREAM, Frame, FrameType

_WORTH_BYTES: Final = 1024
"""Body bytes, either way, that pay for one frame: large transfers need window updates."""


class FloodBudget:
    """A token bucket that useful work fills too."""

    __slots__ = ("_at", "_level", "_most", "_rate")

    def __init__(self, most: float, rate: float, now: float) -> None:
        """`rate`: tokens a second; `now` in seconds."""
        self._most, self._rate = most, rate
        self._level, self._at = most, now

    def spend(self, tokens: float, now: float) -> bool:
        """Take tokens. False: there are not so many."""
        self._level = min(self._most, self._level + max(0.0, now - self._at) * self._rate) - tokens
        self._at = now
        return self._level >= 0

    def earn(self, tokens: float) -> None:
        self._level = min(self._most, self._level + tokens)


class FloodGuard:
    """One connection's budgets."""

    __slots__ = ("_frames", "_resets")

    def __init__(self, now: float) -> None:
        self._frames = FloodBudget(4000, 500, now)
        self._resets = FloodBudget(400, 20, now)

    def frames(self, frames: list[Frame], now: float) -> bool:
        """Count what came. False: too much of it was in vain (CVE-2019-9512, -9515, -9518, and the like)."""
        total = 0.0
        for frame in frames:
            total += _cost(frame)
        if total < 0:
            self._frames.earn(-total)
            return True
        return self._frames.spend(total, now)

    def sent(self, size: int) -> None:
        """Body bytes have gone out."""
        self._frames.earn(size / _WORTH_BYTES)

    def reset(self, now: float) -> bool:
        """Count a request that the client took back, or made us end by an error of its own. False: one too many.

        CVE-2023-44487 and CVE-2025-8671: work begins at the head, and a reset frees the place of its stream.
        """
        return self._resets.spend(1, now)


def _cost(frame: Frame) -> float:
    match frame.kind:
        case FrameType.DATA:
            ending = 1 if frame.flags & END_STREAM else 0
            return 1 - ending - frame.length / _WORTH_BYTES
        case FrameType.HEADERS:
            return 0.0
        case _:
            return 1.0
