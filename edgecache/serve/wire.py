"""Response heads as bytes. Framing fields are not written here: they depend on the connection, and `writer` adds them.

`keeping` prepares the block of a stored response once; `writer` makes the others as they are sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from edgecache.policy.fields import encode_lines
from edgecache.policy.message import Response

_FRAMING = frozenset({"content-length", "connection", "keep-alive", "transfer-encoding"})
_REASONS = {status.value: status.phrase for status in HTTPStatus}


def encode_head(response: Response, without: frozenset[str] = frozenset()) -> bytes:
    """Status line and field lines, each ended, without framing fields and those (lower case) in `without`.

    Raises ValueError where a value would break the framing: sources are checked before, so that is a defect.
    """
    dropped = _FRAMING | without
    reason = response.reason or _REASONS.get(response.status, "")
    lines = [f"HTTP/1.1 {response.status} {reason}"]
    lines += [f"{name}: {value}" for name, value in response.headers.items() if name.lower() not in dropped]
    return encode_lines(lines)


def encode_fields(fields: Iterable[tuple[str, str]]) -> bytes:
    """Field lines alone. Raises ValueError as `encode_head` does."""
    lines = [f"{name}: {value}" for name, value in fields]
    return encode_lines(lines) if lines else b""
