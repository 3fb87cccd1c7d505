"""One GET as a browser sends it, and what Cache-Status (RFC 9211) says of the answer. `tour` uses it, and `loadtests`."""

from __future__ import annotations

import http.client
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from urllib.parse import urlsplit

TIMEOUT_S = 20.0
MAX_BODY_BYTES = 16 << 20


@dataclass(frozen=True)
class Visit:
    """An answer, whole."""

    target: str
    status: int
    headers: Message
    body: bytes
    seconds: float

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace")

    @property
    def cache(self) -> str:
        """The edge's member of Cache-Status, as it stands."""
        return (self.headers.get("Cache-Status") or "").rpartition(",")[2].strip()

    @property
    def hit(self) -> bool:
        return "hit" in parameters(self.cache)

    @property
    def age(self) -> int:
        """Age in seconds; -1 where the answer has none."""
        return int(self.headers.get("Age") or -1)


def get(edge: str, target: str, headers: Mapping[str, str] | None = None) -> Visit:
    """GET `target` from the edge at the base URL `edge`. Raises OSError, http.client.HTTPException."""
    parts = urlsplit(edge)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    started = time.perf_counter()
    try:
        connection.request("GET", target, headers=dict(headers or {}))
        with connection.getresponse() as response:
            body = response.read(MAX_BODY_BYTES)
            return Visit(target, response.status, response.headers, body, time.perf_counter() - started)
    finally:
        connection.close()


def parameters(member: str) -> dict[str, str]:
    """Parameters of one Cache-Status member: `edge; hit; ttl=5` gives hit and ttl. Quoted values hold no semicolon here."""
    pairs = (part.strip().partition("=") for part in member.split(";")[1:])
    return {name: value.strip('"') for name, _, value in pairs}
