"""How long to wait before a serving process that has ended is started again: exponential back-off, for `fleet`.

Pure: times are arguments, in seconds.
"""

from __future__ import annotations

from typing import Final

FIRST_SECONDS: Final = 0.1
LONGEST_SECONDS: Final = 30.0
STEADY_SECONDS: Final = 60.0
"""Who lived so long is started again after the shortest pause, as if it had never died."""


def backoff(before: float, lived: float) -> float:
    """Seconds to wait: twice the pause before, between the first and the longest; the first again where the process had lived
    long."""
    if lived >= STEADY_SECONDS or before <= 0:
        return FIRST_SECONDS
    return min(before * 2, LONGEST_SECONDS)
