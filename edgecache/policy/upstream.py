"""What a site says about its origins: how they share the load, when they are left alone, how long they may take, whom to trust.

Values only; times in seconds. Forms are read by `control.upstreamwords`, `upstream` obeys them.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

MAX_ORIGIN_WEIGHT: Final = 1_000


class Balance(enum.StrEnum):
    """Which of several healthy origins is asked first."""

    ORDER = "order"
    """The first that is healthy, as listed: the others are its reserve."""
    WEIGHT = "weight"
    """In turn, each as often as its weight says."""
    HASH = "hash"
    """By the URI, so that each origin sees its own part of the URIs, as large as its weight says."""


class RetryOn(enum.StrEnum):
    """Failures after which an idempotent request is sent to another origin, besides those to connect."""

    RESET = "reset"
    """The connection ended before the response head had come."""
    TIMEOUT = "timeout"
    """No response head in time."""


@dataclass(frozen=True, slots=True)
class Origin:
    """One origin of a site. `weight` None: nothing was said, which counts as 1."""

    url: str
    weight: int | None = None
    backup: bool = False
    """Asked only while no other is healthy."""
    proxy_protocol: int = 0
    """Version of the PROXY protocol spoken to it, 1 or 2; 0: none. Its connections then serve one request each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthRule:
    """Active checks: a GET from time to time, and what of its answer counts."""

    path: str = "/"
    host: str = ""
    """The Host field; empty: the origin's own authority."""
    interval: float = 5.0
    timeout: float = 2.0
    expect: tuple[int, int] = (200, 399)
    """The lowest and the highest status of a good answer."""
    rise: int = 2
    """Good checks in a row after which an origin that was down is asked again."""
    fall: int = 3
    """Failed checks in a row after which it is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EjectionRule:
    """Passive checks: an origin that keeps failing this site's requests is asked last for a while."""

    errors: int = 5
    """Failures in a row: 500, 502, 503, 504, no answer in time, a reset, no HTTP."""
    time: float = 10.0
    """For how long; doubled, up to 32 times this, while it goes on failing."""
    max_share: float = 0.5
    """The largest part of the site's origins that is ejected so at once; one may be in any case where there are two or more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerRule:
    """How much an origin is asked at once, and when it is not asked at all. None: no such bound of the site's own."""

    max_connections: int | None = None
    """Exchanges with one origin at once."""
    max_pending: int = 128
    """Requests that wait for one of these to end; further ones fail at once."""
    max_failures: int | None = None
    """Failures in a row after which every request fails at once, until one that is let through after `pause` succeeds."""
    pause: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRule:
    """Requests that are sent once more, to another origin where there is one. After a failure to connect they are no retries."""

    attempts: int = 1
    """For one request, after the first."""
    budget: float = 0.2
    """Retries and hedges, as a part of the requests."""
    on: tuple[RetryOn, ...] = (RetryOn.RESET,)
    statuses: tuple[int, ...] = ()
    """Answers that are as bad as none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgeRule:
    """A GET or HEAD that has no answer after some time is sent to a second healthy origin too; the first head wins."""

    after: float = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """None: what the edge's `upstream` section says."""

    connect: float | None = None
    first_byte: float | None = None
    between_bytes: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsRule:
    """How https origins prove who they are, and this edge to them. Paths are of files in PEM form."""

    ca: str = ""
    """Whom to trust, in place of the system's authorities."""
    server_name: str = ""
    """Sent as SNI, and looked for in the certificate, in place of the URL's host."""
    certificate: str = ""
    key: str = ""
    insecure_skip_verify: bool = False
    """Anybody in between can read and change everything."""


NO_TLS_RULE: Final = TlsRule()


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamRule:
    """All of it; None: that part is off."""

    balance: Balance | None = None
    """None: by weight where any origin has one, else in order."""
    origins: tuple[Origin, ...] = ()
    """Those of which more is said than their URL."""
    health: HealthRule | None = None
    ejection: EjectionRule | None = None
    breaker: BreakerRule = BreakerRule()
    retries: RetryRule = RetryRule()
    hedge: HedgeRule | None = None
    timeouts: Timeouts = Timeouts()
    tls: TlsRule = NO_TLS_RULE

    def members(self, urls: Iterable[str]) -> tuple[Origin, ...]:
        """The site's origins, as listed, with all that is said of them."""
        known = {origin.url: origin for origin in self.origins}
        return tuple(known.get(url) or Origin(url) for url in urls)

    def balance_of(self, urls: Iterable[str]) -> Balance:
        if self.balance is not None:
            return self.balance
        return Balance.WEIGHT if any(origin.weight is not None for origin in self.members(urls)) else Balance.ORDER


DEFAULT_UPSTREAM: Final = UpstreamRule()
