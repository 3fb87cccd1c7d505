"""Errors as problem documents (RFC 9457): what a client sees when nothing else can answer. Never a trace, never internals.

Called by serve; the control API has `control.problems`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Final

from edgecache.policy.fields import freeze
from edgecache.policy.message import Response

MEDIA_TYPE: Final = "application/problem+json"
_MEMBERS: Final = frozenset({"type", "title", "status", "detail", "instance"})

JsonValue = str | int | float | bool | None | list[str]


def problem(
    status: int,
    detail: str = "",
    *,
    title: str | None = None,
    type_uri: str = "about:blank",
    instance: str | None = None,
    extensions: Mapping[str, JsonValue] | None = None,
) -> tuple[Response, bytes]:
    """Head and body of an error answer, not to be stored by anybody.

    `detail` is for people and says what to do; `extensions` are further members of the document; they cannot replace those of
    RFC 9457 section 3.1. Raises ValueError unless `status` is an error's.
    """
    if not 400 <= status <= 599:
        raise ValueError(f"not a status of an error: {status}")
    reason = reason_of(status)
    document: dict[str, JsonValue] = {"type": type_uri, "title": title or reason, "status": status}
    if detail:
        document["detail"] = detail
    if instance is not None:
        document["instance"] = instance
    document.update((name, value) for name, value in (extensions or {}).items() if name not in _MEMBERS)
    body = json.dumps(document, ensure_ascii=True).encode() + b"\n"
    fields = (("Content-Type", MEDIA_TYPE), ("Content-Length", str(len(body))), ("Cache-Control", "no-store"))
    return Response(status, reason, freeze(fields)), body


def reason_of(status: int) -> str:
    """The standard's phrase for `status`."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"
