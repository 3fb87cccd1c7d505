"""Response heads as bytes. Framing fields depend on the connection: `head_block` alone writes them.

`keeping` prepares the lines of a stored response once; `writer` has the others made as they are sent.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

from edgecache.policy.fields import encode_lines
from edgecache.policy.message import Response
from edgecache.serve.answer import Answer

_FRAMING = frozenset({"content-length", "connection", "keep-alive", "transfer-encoding"})
CLOSE = b"Connection: close\r\n"
KEEP_ALIVE_10 = b"Connection: keep-alive\r\n"
"""What an HTTP/1.0 client has to be told."""
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


def head_block(answer: Answer, *, length: int | None, chunked: bool, keep_alive: bool, http10: bool) -> bytes:
    """The head with its framing fields and the empty line."""
    parts = [answer.head or encode_head(answer.response), encode_fields(answer.extra)]
    if chunked:
        parts.append(b"Transfer-Encoding: chunked\r\n")
    elif length is not None and not answer.head:
        parts.append(b"Content-Length: %d\r\n" % length)
    if not keep_alive:
        parts.append(CLOSE)
    elif http10:
        parts.append(KEEP_ALIVE_10)
    parts.append(b"\r\n")
    return b"".join(parts)
