"""HTTP messages as values: what the policy decides over. No I/O, no clock; bodies are elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

from multidict import CIMultiDictProxy
from mypy_extensions import mypyc_attr

Headers = CIMultiDictProxy[str]
"""Field lines in the order received, names case-insensitive, repeated names kept apart (RFC 9110 section 5.3)."""


@mypyc_attr(acyclic=True)
@dataclass(frozen=True, slots=True)
class Request:
    """A request as the client sent it, target kept byte for byte."""

    method: str
    scheme: str
    authority: str
    """Host, and port where it is not the scheme's own, in the form of `policy.authority` (RFC 9110 section 7.2)."""
    target: str
    """Origin form: raw path and query (RFC 9112 section 3.2.1)."""
    headers: Headers
    version: str = "1.1"
    """Of HTTP, as it was received here: what Via says (RFC 9110 section 7.6.3)."""
    unsized: bool = False
    """Content follows, and no field says so, as in HTTP/2 (RFC 9113 section 8.1)."""

    @property
    def uri(self) -> str:
        """The target URI (RFC 9110 section 7.1): the primary cache key."""
        return f"{self.scheme}://{self.authority}{self.target}"


@mypyc_attr(acyclic=True)
@dataclass(frozen=True, slots=True)
class Response:
    """Status line and header section of a response."""

    status: int
    reason: str
    headers: Headers


@mypyc_attr(acyclic=True)
@dataclass(frozen=True, slots=True)
class Timed:
    """A response with the two instants that RFC 9111 section 4.2.3 needs, in seconds since the epoch."""

    response: Response
    request_time: float
    response_time: float
