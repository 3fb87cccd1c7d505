"""From a whole representation to what one client asked of it: 304, 412, 206, 416, or all of it (RFC 9110 sections 13 and 14).

Decisions are `policy`'s; this joins them with the body, stored or on its way. `respond` calls it.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import assert_never

from edgecache.policy.message import Request, Response
from edgecache.policy.partial import answerable, complete_head, cut, held
from edgecache.policy.problem import problem
from edgecache.policy.ranges import (
    FullBody,
    NotSatisfiable,
    Parts,
    body_length,
    closing,
    not_satisfiable,
    part_head,
    partial,
    select,
)
from edgecache.policy.validation import Precondition, evaluate, not_modified
from edgecache.serve.answer import SliceBody, instead
from edgecache.serve.file_body import FileBody, FileSpan, whole
from edgecache.source import Body
from edgecache.store import StoredBody

_CONDITIONAL = ("If-None-Match", "If-Modified-Since", "Range", "If-Match", "If-Unmodified-Since")


def is_plain(request: Request) -> bool:
    """Whether the request asks for the representation as it is."""
    headers = request.headers
    return not any(map(headers.__contains__, _CONDITIONAL))


def shape_stored(
    request: Request, response: Response, body: bytes | StoredBody, max_parts: int
) -> tuple[Response, bytes | FileBody, int | None]:
    """Head, body and its length (None: no Content-Length) for this request."""
    if (instead_of := _by_precondition(request, response)) is not None:
        return instead_of
    match select(request, response, len(body), max_parts=max_parts):
        case FullBody():
            return response, body if isinstance(body, bytes) else whole(body), len(body)
        case NotSatisfiable(length):
            return not_satisfiable(response, length), b"", 0
        case Parts() as parts:
            boundary = secrets.token_hex(16)
            contents = [_piece(body, first, last) for first, last in parts.spans]
            pieces = _framed(parts, contents, boundary) if parts.multipart else contents
            head = partial(response, parts, boundary)
            if isinstance(body, StoredBody):
                return head, FileBody(pieces), body_length(parts, boundary)
            content = b"".join(piece for piece in pieces if isinstance(piece, bytes))
            return head, content, len(content)
        case unreachable:
            assert_never(unreachable)


def shape_parts(request: Request, stored: Response, body: bytes, max_parts: int) -> tuple[Response, bytes, int | None]:
    """As `shape_stored` where only parts are stored. ValueError if they do not answer this request."""
    parts = held(stored, body)
    if parts is None:
        raise ValueError("the stored head and body are not those of parts")
    head = complete_head(stored, parts.length)
    if (instead_of := _by_precondition(request, head)) is not None:
        return instead_of
    match answerable(request, stored, max_parts):
        case None:
            raise ValueError("the stored parts do not answer this request")
        case NotSatisfiable(length):
            return not_satisfiable(head, length), b"", 0
        case Parts() as asked:
            boundary = secrets.token_hex(16)
            contents: list[bytes | FileSpan] = [cut(parts, span) for span in asked.spans]
            pieces = _framed(asked, contents, boundary) if asked.multipart else contents
            content = b"".join(piece for piece in pieces if isinstance(piece, bytes))
            return partial(head, asked, boundary), content, len(content)
        case unreachable:
            assert_never(unreachable)


def shape_stream(request: Request, response: Response, body: Body, length: int | None) -> tuple[Response, Body, int | None]:
    """As `shape_stored` for a body on its way. What is answered without the body still holds it, to close it.

    Several ranges are answered with the whole body: the stream passes once.
    """
    match evaluate(request, response):
        case Precondition.NOT_MODIFIED:
            return not_modified(response), instead(b"", body), None
        case Precondition.FAILED:
            head, document = problem(412, "the current representation does not meet the precondition")
            return head, instead(document, body), len(document)
        case Precondition.NONE:
            pass
        case other:
            assert_never(other)
    if length is None or request.method == "HEAD":
        return response, body, length
    match select(request, response, length, max_parts=1):
        case Parts(spans=((first, last),)) as parts:
            return partial(response, parts, ""), SliceBody(body, first, last), last - first + 1
        case NotSatisfiable():
            return not_satisfiable(response, length), instead(b"", body), 0
        case FullBody() | Parts():
            return response, body, length
        case unreachable:
            assert_never(unreachable)


def _by_precondition(request: Request, response: Response) -> tuple[Response, bytes, int | None] | None:
    """What answers instead of the representation (RFC 9110 section 13.2.2); None: nothing does."""
    match evaluate(request, response):
        case Precondition.NOT_MODIFIED:
            return not_modified(response), b"", None
        case Precondition.FAILED:
            head, document = problem(412, "the stored representation does not meet the precondition")
            return head, document, len(document)
        case Precondition.NONE:
            return None
        case other:
            assert_never(other)


def _piece(body: bytes | StoredBody, first: int, last: int) -> bytes | FileSpan:
    return body[first : last + 1] if isinstance(body, bytes) else FileSpan(body, first, last - first + 1)


def _framed(parts: Parts, contents: Sequence[bytes | FileSpan], boundary: str) -> list[bytes | FileSpan]:
    pieces: list[bytes | FileSpan] = []
    for index, content in enumerate(contents):
        pieces += (part_head(parts, index, boundary), content)
    pieces.append(closing(boundary))
    return pieces
