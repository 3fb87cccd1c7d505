"""How long to wait before a serving process is started again, and the edge's promise that this does not go on at full speed.

Pure: times are arguments, in seconds.
"""

from __future__ import annotations

from typing import Final

FIRST_SECONDS: Final = 0.1
LONGEST_SECONDS: Final = 30.0
STEADY_SECONDS: Final = 60.0
"""Who lived so long starts again at once, as if it had never died."""


def pause(before: float, lived: float) -> float:
    """Seconds to wait: twice the pause before, between the first and the longest; the first again where the process had lived
    long."""
    if lived >= STEADY_SECONDS or before <= 0:
        return FIRST_SECONDS
    return min(before * 2, LONGEST_SECONDS)
