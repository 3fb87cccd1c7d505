"""Response heads as bytes. Framing fields are not written here: they depend on the connection, and `writer` adds them.

The pipeline prepares the block of a stored response once; `writer` makes the others as they are sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus

from edgecache.policy.message import Response

_FRAMING = frozenset({"content-length", "connection", "keep-alive", "transfer-encoding"})
_UNSAFE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_REASONS = {status.value: status.phrase for status in HTTPStatus}


def encode_head(response: Response, without: frozenset[str] = frozenset()) -> bytes:
    """Status line and field lines, each ended, without framing fields and those (lower case) in `without`.

    Raises ValueError where a value would break the framing: sources are checked before, so that is a defect.
    """
    dropped = _FRAMING | without
    reason = response.reason or _REASONS.get(response.status, "")
    return _encode(
        f"HTTP/1.1 {response.status} {reason}",
        ((name, value) for name, value in response.headers.items() if name.lower() not in dropped),
    )


def encode_fields(fields: Iterable[tuple[str, str]]) -> bytes:
    """Field lines alone. Raises ValueError as `encode_head` does."""
    return b"".join(_safe(f"{name}: {value}") for name, value in fields)


def _encode(status_line: str, fields: Iterable[tuple[str, str]]) -> bytes:
    return _safe(status_line) + encode_fields(fields)


def _safe(line: str) -> bytes:
    if _UNSAFE.search(line):
        raise ValueError("a control character in a response head")
    return line.encode("utf-8", "surrogateescape") + b"\r\n"
