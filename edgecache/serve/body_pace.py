"""How long a client is waited for that sends or takes a body: some time for each step, and no longer on the whole than
a least rate takes.

Values only. `client_body` and `http2.body` ask for what is sent, `sending` and `http2` for what is taken; while a body waits for
somebody else no time passes for the client.
"""

from __future__ import annotations


class BodyPace:
    """The pace of one body."""

    __slots__ = ("_allowed", "_rate", "_timeout")

    def __init__(self, timeout: float, rate: int) -> None:
        """`timeout`: seconds that one step may take, and by which the whole may lag behind `rate`, in bytes a second."""
        self._timeout = timeout
        self._rate = rate
        self._allowed = timeout

    @property
    def left(self) -> float:
        """Seconds for which to wait for the next bytes at most; 0: the client is too slow."""
        return max(0.0, self._allowed)

    def waited(self, seconds: float, size: int) -> None:
        """`size` bytes passed after a wait of `seconds`."""
        self._allowed = min(self._timeout, self._allowed - seconds + size / self._rate)

    def rest(self) -> None:
        """Nothing is waited for."""
        self._allowed = self._timeout
