"""Reading requests and writing answers: bounded bodies, strict JSON, known query parameters, problem documents.

The one place where exceptions become responses. No resource is known here.
"""

from __future__ import annotations

import asyncio
import difflib
import enum
import logging
import re
from collections.abc import Callable, Collection
from typing import Final, TypeVar, get_args, get_type_hints

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler

from edgecache import units
from edgecache.control.problems import CONTENT_TYPE, Code, Problem
from edgecache.control.settings import ControlSettings
from edgecache.control.state import Failure, Missing, StateError

S = TypeVar("S", bound=msgspec.Struct)

_log: Final = logging.getLogger(__name__)
_COMMON: Final = {"Server": "edgecache", "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_PLACE: Final = re.compile(r"(?P<message>.*?) - at `(?P<place>.*)`", re.DOTALL)
_UNKNOWN_FIELD: Final = re.compile(r"Object contains unknown field `(?P<field>.*)`", re.DOTALL)
_OTHER_TYPE: Final = re.compile(r"Expected `(?P<wanted>[^`]*)`, got `(?P<got>[^`]*)`")
_JSON_TYPES: Final = {
    "int": "a whole number",
    "str": "text",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
}
_ARCHIVE_TYPES: Final = frozenset(
    {"application/x-tar", "application/gzip", "application/x-gzip", "application/x-gtar", "application/octet-stream"}
)
READMIT: Final[web.RequestKey[Callable[[], object]]] = web.RequestKey("readmit")
"""What a request holds under this name is called once its body has come: whoever was let in at the head may have lost that right
while it was on its way. Raises Problem."""
_FULL_ADVICE: Final = "free space on the disk of the edge's state directory; the edge serves on meanwhile"
_STATE_ADVICE: Final = "the operator should look at the edge's log and state directory; the edge serves on meanwhile"


def answer(value: object, *, status: int = 200, location: str | None = None) -> web.Response:
    """A JSON answer."""
    headers = _COMMON if location is None else {**_COMMON, "Location": location}
    body = msgspec.json.encode(value) + b"\n"
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


def no_content() -> web.Response:
    return web.Response(status=204, headers=_COMMON)


async def read_json(request: web.Request, shape: type[S], settings: ControlSettings, *, optional: bool = False) -> S:
    """The body as `shape`; with `optional`, none is like `{}`. Raises Problem."""
    larger = Problem(Code.BODY_TOO_LARGE, f"the body is larger than {settings.body_bytes} bytes", "send less")
    body = await _read(request, settings.body_bytes, settings.body_seconds, larger)
    if optional and not body:
        body = b"{}"
    elif request.content_type != "application/json":
        detail = f"the body's Content-Type is {request.content_type[:80]}"
        raise Problem(Code.UNSUPPORTED_MEDIA_TYPE, detail, "send application/json")
    try:
        return msgspec.json.decode(body, type=shape)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), shape) from error
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        said = str(error) if isinstance(error, msgspec.DecodeError) else "it is nested too deep or not UTF-8"
        raise Problem(Code.BAD_JSON, f"the body is not JSON: {said}", "send one JSON object in UTF-8") from error


async def read_archive_body(request: web.Request, settings: ControlSettings) -> bytes:
    """The body of a push. Raises Problem."""
    if "Content-Type" in request.headers and request.content_type not in _ARCHIVE_TYPES:
        detail = f"the body's Content-Type is {request.content_type[:80]}"
        raise Problem(Code.UNSUPPORTED_MEDIA_TYPE, detail, "send application/x-tar or application/gzip")
    most = settings.bundles.upload_bytes
    larger = Problem(
        Code.BODY_TOO_LARGE,
        f"the archive is larger than {units.format_size(most)}",
        "leave out of the bundle what the program does not need, or have the operator raise `control.bundle.bundles.upload`",
    )
    return await _read(request, most, settings.body_seconds, larger)


def parameters(request: web.Request, known: Collection[str]) -> dict[str, str]:
    """Query parameters, each known and given once. Raises Problem."""
    found: dict[str, str] = {}
    for name, value in request.query.items():
        if name not in known:
            advice = f"known here: {', '.join(known)}" if known else "there are none here"
            raise Problem(Code.BAD_PARAMETER, f"unknown parameter{_nearest(name, known)}", advice, where=name[:100])
        if name in found:
            raise Problem(Code.BAD_PARAMETER, "the parameter is given twice", "give it once", where=name)
        found[name] = value
    return found


def number(text: str, where: str, low: int, high: int) -> int:
    """A decimal number from `low` to `high`. Raises Problem."""
    value = int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else None
    if value is None or not low <= value <= high:
        raise Problem(Code.BAD_PARAMETER, f"{text[:40]!r} is not a number from {low} to {high}", "correct it", where=where)
    return value


def flag(text: str | None, where: str) -> bool:
    """`true` or `false`; absent is false. Raises Problem."""
    if text not in {None, "true", "false"}:
        raise Problem(Code.BAD_PARAMETER, f"{str(text)[:40]!r} is neither true nor false", "write one of them", where=where)
    return text == "true"


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every refusal as a problem document; what is our own fault goes to the log, and only its name to the client."""
    try:
        return await handler(request)
    except Problem as problem:
        return refusal(problem)
    except StateError as error:
        _log.warning("%s %s: %s", request.method, request.path, error)
        return refusal(_state_problem(error))
    except Missing:
        detail = "what this was about was removed meanwhile"
        return refusal(Problem(Code.NOT_FOUND, detail, "look at what is there now"))
    except web.HTTPException as error:
        return refusal(_http_problem(error, request))
    except Exception:
        _log.exception("%s %s failed", request.method, request.path)
        detail = "the edge made a mistake; it is in its log"
        return refusal(Problem(Code.INTERNAL, detail, "report it with the log's lines of this moment"))


def refusal(problem: Problem) -> web.Response:
    headers = {**_COMMON, **dict(problem.headers)}
    response = web.Response(body=problem.encoded() + b"\n", status=problem.status, content_type=CONTENT_TYPE, headers=headers)
    if problem.code in {Code.BODY_TOO_LARGE, Code.BODY_TIMEOUT}:
        response.force_close()
    return response


async def _read(request: web.Request, limit: int, seconds: float, too_large: Problem) -> bytes:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Problem(
            Code.UNSUPPORTED_MEDIA_TYPE, "the body has a Content-Encoding", "send it as it is; a bundle may be a .tar.gz"
        )
    if request.content_length is not None and request.content_length > limit:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(seconds):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > limit:
                    raise too_large
    except TimeoutError as error:
        detail = f"the body had not arrived after {seconds:g} s"
        raise Problem(Code.BODY_TIMEOUT, detail, "send it again, whole") from error
    except ConnectionError as error:
        raise Problem(Code.BAD_REQUEST, "the connection ended inside the body", "send it again, whole") from error
    except web.HTTPException:
        raise
    except (ValueError, web.RequestPayloadError) as error:
        raise Problem(
            Code.BAD_REQUEST, "the body could not be read", "send it as its Content-Encoding and framing say"
        ) from error
    if READMIT in request:
        request[READMIT]()
    return bytes(body)


def _invalid(said: str, shape: type[msgspec.Struct]) -> Problem:
    match = _PLACE.fullmatch(said)
    message, place = (match["message"], match["place"]) if match else (said, "$")
    if unknown := _UNKNOWN_FIELD.fullmatch(message):
        field = unknown["field"]
        message = f"unknown key {field[:60]!r}"
        if (inner := _shape_at(place, shape)) is not None:
            known = inner.__struct_encode_fields__
            message += _nearest(field, known) or (f"; known here: {', '.join(known)}" if known else "; there are none here")
        place = f"{place}.{field[:60]}"
    elif message.startswith("Invalid enum value"):
        message += _choices(place, shape)
    elif other := _OTHER_TYPE.fullmatch(message):
        message = f"must be {_kinds(other['wanted'])}, not {_kinds(other['got'])}"
    return Problem(Code.BAD_REQUEST, f"{place}: {message}", "correct the body; /v1/openapi.json says what is right", where=place)


def _kinds(types: str) -> str:
    """`str | null` in words that a reader of JSON and one of the command line share."""
    return " or ".join(_JSON_TYPES.get(name, name) for name in types.split(" | "))


def _shape_at(place: str, shape: type[msgspec.Struct]) -> type[msgspec.Struct] | None:
    """The form of the object at `place`, such as `$.upstream.health`; None where it is no one form."""
    for name in place.removeprefix("$").replace("[...]", "").split("."):
        if not name:
            continue
        known = get_type_hints(shape).get(re.sub(r"\[\d*\]$", "", name))
        kinds = [known, *get_args(known), *(inner for kind in get_args(known) for inner in get_args(kind))]
        forms = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, msgspec.Struct)]
        if len(forms) != 1:
            return None
        shape = forms[0]
    return shape


def _choices(place: str, shape: type[msgspec.Struct]) -> str:
    """What the member at `place`, such as `$.cache.compress[0]`, takes, where that is a few words."""
    parent, _, member = place.rpartition(".")
    form = _shape_at(parent, shape)
    known = get_type_hints(form).get(member.partition("[")[0]) if form is not None else None
    kinds = [known, *get_args(known), *(inner for kind in get_args(known) for inner in get_args(kind))]
    words = [str(word) for kind in kinds if isinstance(kind, type) and issubclass(kind, enum.Enum) for word in kind]
    return f"; choose from {', '.join(words)}" if words else ""


def _nearest(word: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(word[:64], list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _state_problem(error: StateError) -> Problem:
    if error.failure is Failure.FULL:
        return Problem(Code.STATE_FULL, "the edge has no room to remember this; nothing was changed", _FULL_ADVICE)
    detail = f"the edge's state cannot be used ({error.failure}); nothing was changed"
    if error.failure is Failure.BUSY:
        detail = "the edge's state did not answer in time; look whether the change was made"
    return Problem(Code.STATE_UNAVAILABLE, detail, _STATE_ADVICE, headers=(("Retry-After", "5"),))


def _http_problem(error: web.HTTPException, request: web.Request) -> Problem:
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        detail = f"{request.method} is not for {request.path[:200]}"
        return Problem(Code.METHOD_NOT_ALLOWED, detail, f"use {allowed}", headers=(("Allow", allowed),))
    if error.status == 404:
        return Problem(Code.NOT_FOUND, f"there is nothing at {request.path[:200]}", "see /v1/openapi.json")
    if error.status == 413:
        return Problem(Code.BODY_TOO_LARGE, "the request is too large", "send less")
    return Problem(Code.BAD_REQUEST, error.reason, "see /v1/openapi.json")
