"""What an operator or a site wants out of the cache, as a value, and which stored responses that means.

No store and no authority to purge here. Called by control to build the value and by the store for each entry in question.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

from edgecache.policy.authority import DEFAULT_PORTS, authority_of, host_of, is_authority, without_root


@dataclass(frozen=True, slots=True, kw_only=True)
class Purge:
    """Conditions that an entry must all meet; at least one is given, and `everything` is said in so many words.

    A token of one site sets `site` beside any other condition. Raises ValueError for no condition or an impossible URL.
    """

    urls: tuple[str, ...] = ()
    """Whole URIs, query included; every variant of them."""
    tag: str | None = None
    prefix: str | None = None
    """The beginning of a URI, from its scheme on."""
    site: str | None = None
    host: str | None = None
    """A host name, with any port, or host and port."""
    everything: bool = False
    soft: bool = False
    """Mark as stale instead of removing: the entry may still answer as stale content may."""
    refresh: bool = False
    """Fetch anew instead of removing: the entry answers as before meanwhile, for as long as it would have been fresh."""

    def __post_init__(self) -> None:
        if not (self.urls or self.tag or self.prefix or self.site or self.host or self.everything):
            raise ValueError("a purge needs urls, a tag, a prefix, a site, a host, or everything")
        if self.soft and self.refresh:
            raise ValueError("a purge is soft or refreshes, not both")
        object.__setattr__(self, "urls", tuple(map(purge_uri, self.urls)))
        if self.prefix is not None:
            object.__setattr__(self, "prefix", purge_uri(self.prefix))
        if self.host is not None:
            object.__setattr__(self, "host", without_root(self.host.lower().removesuffix(":")))


class Purgeable(Protocol):
    """What a purge looks at in a stored response."""

    @property
    def uri(self) -> str: ...
    @property
    def site(self) -> str: ...
    @property
    def tags(self) -> AbstractSet[str]: ...


def matches(purge: Purge, entry: Purgeable) -> bool:
    """Whether the purge concerns this entry."""
    if purge.site is not None and entry.site != purge.site:
        return False
    if purge.tag is not None and purge.tag not in entry.tags:
        return False
    if purge.urls and entry.uri not in purge.urls:
        return False
    if purge.prefix is not None and not entry.uri.startswith(purge.prefix):
        return False
    return purge.host is None or purge.host in _authorities(entry.uri)


def purge_uri(text: str) -> str:
    """The key that a URL written by a person means: scheme and authority in normal form, a path of at least `/`, no fragment.

    Raises ValueError if `text` is no absolute http or https URL.
    """
    url = text.partition("#")[0].strip()
    scheme, separator, rest = url.partition("://")
    end = min((i for i in (rest.find("/"), rest.find("?")) if i >= 0), default=len(rest))
    scheme, authority, target = scheme.lower(), rest[:end], rest[end:]
    if separator and scheme in DEFAULT_PORTS and is_authority(authority):
        authority = authority_of(authority, scheme)
        if authority:
            return f"{scheme}://{authority}{target if target.startswith('/') else '/' + target}"
    raise ValueError(f"not an absolute http or https URL: {text!r}")


def _authorities(uri: str) -> tuple[str, str]:
    """The host with its port, said or not, and the host alone."""
    scheme, _, rest = uri.partition("://")
    authority = rest.partition("/")[0]
    host = host_of(authority)
    return authority if host != authority else f"{host}:{DEFAULT_PORTS.get(scheme)}", host
