"""What the control API remembers, as values: tokens, generators, versions, splits. No I/O.

`state` keeps them, `deploy` and `tokens` decide over them, the resources print them. Sites are `edgecache.sites.Site`.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from edgecache.control.bundle.manifest import Manifest


class Verb(enum.StrEnum):
    """What a token may do on its site, or, where it is for reading every site, on all."""

    PUSH = "push"
    ACTIVATE = "activate"
    PURGE = "purge"
    LOGS = "logs"
    READ = "read"


READER = frozenset({Verb.READ})
"""The verbs of a token that reads every site, for those who watch the edge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token as it is kept: its public part and the SHA-256 of the whole. Times in seconds since the epoch."""

    id: str
    sha256: bytes
    site: str | None
    """None: every site. Such a token has the verb read alone, or is the operator's."""
    verbs: frozenset[Verb]
    created: float
    expires: float | None = None
    note: str = ""

    @property
    def operator(self) -> bool:
        """Whether it may do everything."""
        return self.site is None and self.verbs != READER

    def allows(self, verb: Verb, site: str) -> bool:
        return self.allows_everywhere(verb) or (self.site == site and verb in self.verbs)

    def allows_everywhere(self, verb: Verb) -> bool:
        return self.operator or (self.site is None and verb in self.verbs)

    def expired(self, now: float) -> bool:
        return self.expires is not None and now >= self.expires


@dataclass(frozen=True, slots=True)
class Portion:
    """A version's part of a generator's traffic."""

    version: int
    percent: int


Split = tuple[Portion, ...]
"""How traffic is divided: percents of at least 1 that add up to 100, or nothing at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """A generator and how its traffic is divided now."""

    site: str
    name: str
    active: Split
    latest: int
    """The highest number ever given to a version; 0 before the first."""


@dataclass(frozen=True, slots=True)
class Verified:
    """That a version passed, and what its sample request cost."""

    cpu_ns: int
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A version before it has a number."""

    site: str
    generator: str
    digest: str
    size_bytes: int
    manifest: Manifest
    created: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """A pushed bundle of a generator."""

    site: str
    generator: str
    version: int
    digest: str
    size_bytes: int
    manifest: Manifest
    created: float
    verified: Verified | None
    """None: pushed and never verified; it cannot be activated."""

    @property
    def key(self) -> str:
        """The name under which the monitor knows this version."""
        return version_key(self.site, self.generator, self.version)


def version_key(site: str, generator: str, version: int) -> str:
    """The name under which the monitor knows a version."""
    return f"{site}/{generator}@{version}"
