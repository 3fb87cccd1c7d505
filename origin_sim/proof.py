"""What lets a reader tell that a body is the right one, whole, and belongs to the URL asked for.

The digest is RFC 9530's `Repr-Digest`; the target stands in `X-Origin-Target`. Pure; `server` writes both, load tests check them.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Final

BLOCK_BYTES: Final = 64 << 10
DIGEST_LIMIT_BYTES: Final = 64 << 20
"""Larger bodies carry no digest: they are made as they are sent."""
TARGET_FIELD: Final = "X-Origin-Target"


def digest(body: bytes) -> str:
    """The value of `Repr-Digest` for a body (RFC 9530 section 3)."""
    return _field(hashlib.sha256(body).digest())


def filler(target: str, size_bytes: int) -> Iterator[bytes]:
    """A body of `size_bytes` that says in every 64 KiB which target and block it belongs to."""
    tail = (hashlib.sha256(target.encode()).hexdigest() + "\n").encode()
    tail *= BLOCK_BYTES // len(tail) + 1
    for number in range(-(-size_bytes // BLOCK_BYTES)):
        head = f"{target[:1024]} block {number}\n".encode()
        wanted = min(BLOCK_BYTES, size_bytes - number * BLOCK_BYTES)
        yield (head + tail[: BLOCK_BYTES - len(head)])[:wanted]


@lru_cache(maxsize=256)
def filler_digest(target: str, size_bytes: int) -> str:
    """`Repr-Digest` of `filler`'s body; takes as long as hashing it."""
    running = hashlib.sha256()
    for block in filler(target, size_bytes):
        running.update(block)
    return _field(running.digest())


def mismatch(target: str, headers: Mapping[str, str], body: bytes) -> str | None:
    """Why this body does not answer a GET of `target`; None when it does. `headers` must find names in any case."""
    if (said := headers.get(TARGET_FIELD)) != target:
        return f"asked for {target}, got the body of {said}"
    if (expected := headers.get("Repr-Digest")) is not None and expected != digest(body):
        return f"the body of {target} ({len(body)} bytes) does not match its digest"
    return None


def _field(sha256: bytes) -> str:
    return f"sha-256=:{base64.b64encode(sha256).decode()}:"
