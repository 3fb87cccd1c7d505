"""What the control API says when it says no: RFC 9457 problem documents with stable codes. No I/O, no aiohttp.

Every handler raises `Problem`; `api.messages` turns it into a response.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import msgspec

CONTENT_TYPE: Final = "application/problem+json"
_TYPE_PREFIX: Final = "urn:edgecache:problem:"


class Code(enum.StrEnum):
    """Stable names; scripts may depend on them."""

    BAD_JSON = "bad-json"
    BAD_REQUEST = "bad-request"
    BAD_PARAMETER = "bad-parameter"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not-found"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    BODY_TIMEOUT = "body-timeout"
    EXISTS = "exists"
    HOST_TAKEN = "host-taken"
    ROUTE_TAKEN = "route-taken"
    SITE_FROM_CONFIG = "site-from-config"
    NOT_VERIFIED = "not-verified"
    NOTHING_TO_ROLL_BACK = "nothing-to-roll-back"
    CONFLICT = "conflict"
    BODY_TOO_LARGE = "body-too-large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported-media-type"
    BAD_BUNDLE = "bad-bundle"
    BAD_MANIFEST = "bad-manifest"
    LIMITS_EXCEED_CEILING = "limits-exceed-ceiling"
    VERIFICATION_FAILED = "verification-failed"
    VERIFICATION_UNAVAILABLE = "verification-unavailable"
    TOO_MANY = "too-many"
    STATE_FULL = "state-full"
    STATE_UNAVAILABLE = "state-unavailable"
    INTERNAL = "internal"


_STATUS: Final[dict[Code, int]] = {
    Code.BAD_JSON: 400,
    Code.BAD_REQUEST: 400,
    Code.BAD_PARAMETER: 400,
    Code.UNAUTHENTICATED: 401,
    Code.FORBIDDEN: 403,
    Code.NOT_FOUND: 404,
    Code.METHOD_NOT_ALLOWED: 405,
    Code.BODY_TIMEOUT: 408,
    Code.EXISTS: 409,
    Code.HOST_TAKEN: 409,
    Code.ROUTE_TAKEN: 409,
    Code.SITE_FROM_CONFIG: 409,
    Code.NOT_VERIFIED: 409,
    Code.NOTHING_TO_ROLL_BACK: 409,
    Code.CONFLICT: 409,
    Code.BODY_TOO_LARGE: 413,
    Code.UNSUPPORTED_MEDIA_TYPE: 415,
    Code.BAD_BUNDLE: 422,
    Code.BAD_MANIFEST: 422,
    Code.LIMITS_EXCEED_CEILING: 422,
    Code.VERIFICATION_FAILED: 422,
    Code.VERIFICATION_UNAVAILABLE: 503,
    Code.TOO_MANY: 409,
    Code.STATE_FULL: 507,
    Code.STATE_UNAVAILABLE: 503,
    Code.INTERNAL: 500,
}


@dataclass(frozen=True, slots=True)
class Mistake:
    """One of several things wrong with a file. Line and column count from 1; 0: unknown."""

    message: str
    file: str = ""
    line: int = 0
    column: int = 0
    key: str = ""


class Problem(Exception):
    """A refusal: what was wrong, where (key, parameter or place), what to do. None of them may hold a secret."""

    def __init__(
        self,
        code: Code,
        detail: str,
        advice: str,
        *,
        where: str = "",
        mistakes: tuple[Mistake, ...] = (),
        outcome: str = "",
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.advice = advice
        self.where = where
        self.mistakes = mistakes
        self.outcome = outcome
        self.headers = headers

    @property
    def status(self) -> int:
        return _STATUS[self.code]

    def document(self) -> dict[str, object]:
        """The problem document's members (RFC 9457 section 3.1); empty ones are left out."""
        members: dict[str, object] = {
            "type": _TYPE_PREFIX + self.code,
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "code": str(self.code),
            "detail": self.detail,
            "advice": self.advice,
        }
        if self.where:
            members["where"] = self.where
        if self.mistakes:
            members["errors"] = [_mistake(mistake) for mistake in self.mistakes]
        if self.outcome:
            members["outcome"] = self.outcome
        return members

    def encoded(self) -> bytes:
        return msgspec.json.encode(self.document())


def _mistake(mistake: Mistake) -> dict[str, object]:
    named = {"message": mistake.message, "file": mistake.file, "line": mistake.line, "column": mistake.column, "key": mistake.key}
    return {name: value for name, value in named.items() if value}


def not_found(what: str) -> Problem:
    """Also the answer for what exists and belongs to somebody else: the two must not be told apart."""
    return Problem(Code.NOT_FOUND, f"there is no {what}", "check the name; list what the token may see")


def no_site(name: str) -> Problem:
    """`not_found` for a site; `name` is as the client wrote it."""
    return not_found(f"site {name[:64]!r}")
