"""Which requests get a line in the access log, where not all do. Pure: the same request always gets the same answer.

`access_log` asks; traces choose by the same draw of the request ID, so that what is traced often is logged too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from zlib import crc32

from edgecache.observe.record import Record

_DRAWS: Final = 1 << 32
ALL: Final = _DRAWS
"""The threshold that every draw is below."""


def threshold(rate: float) -> int:
    """What a draw is compared with; `rate` from 0 to 1."""
    return round(rate * _DRAWS)


def drawn(request_id: str, below: int) -> bool:
    """Whether this request is among the sample that `threshold` describes."""
    return below >= ALL or crc32(request_id.encode("utf-8", "surrogatepass")) < below


def drawn_bytes(request_id: bytes, below: int) -> bool:
    """As `drawn`."""
    return below >= ALL or crc32(request_id) < below


def failed(record: Record) -> bool:
    """Whether this is a request that somebody will look for: the edge or a source failed it, or its body broke off."""
    return record.status >= 500 or record.truncated or record.cache == "error"


class Sampler:
    """The rates of one log: of all sites, and of those that have their own."""

    def __init__(self, rate: float, of_sites: Mapping[str, float], slow_seconds: float) -> None:
        self._rate = rate
        self._of_sites = dict(of_sites)
        self.slow_seconds = slow_seconds

    def rate(self, site: str) -> float:
        return self._of_sites.get(site, self._rate)

    def chance(self, record: Record) -> float:
        """How likely a request like this one is kept: 1 for what failed or was slow."""
        return 1.0 if failed(record) or record.duration >= self.slow_seconds else self.rate(record.site)
