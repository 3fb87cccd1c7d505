"""The knobs that make an answer slow, wrong or broken, from a query string or an admin call. Values only; `server` obeys them."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from edgecache.units import parse_duration, parse_size

MAX_WAIT_SECONDS: Final = 600.0
MAX_SIZE_BYTES: Final = 1 << 40
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")


class Breakage(enum.StrEnum):
    """Answers that are not HTTP, or not safe HTTP: each must be refused by whoever stands in front."""

    GARBAGE = "garbage"
    """Bytes that are no status line."""
    BARE_LF = "bare-lf"
    """Lines of the head end in LF alone (RFC 9112 section 2.2)."""
    OBS_FOLD = "obs-fold"
    """A field line folded over two lines (RFC 9112 section 5.2)."""
    LENGTH_AND_CHUNKED = "length-and-chunked"
    """Content-Length and Transfer-Encoding together (RFC 9112 section 6.3)."""
    TWO_LENGTHS = "two-lengths"
    """Two Content-Length fields that differ (RFC 9112 section 6.3)."""
    BAD_CHUNK = "bad-chunk"
    """A chunk size that is no hexadecimal number (RFC 9112 section 7.1)."""
    HUGE_HEAD = "huge-head"
    """A field value of a megabyte."""
    ENDLESS_HEAD = "endless-head"
    """Field lines until the reader leaves."""
    CLOSE_IN_HEAD = "close-in-head"
    """The connection ends before the head does."""
    NO_ANSWER = "no-answer"
    """The connection ends at once."""


class FaultError(ValueError):
    """A knob that does not exist, or a value it does not take. The message says what is right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What to do to one answer. Times in seconds, sizes in bytes."""

    delay: float = 0.0
    """Wait before the head."""
    status: int | None = None
    cc: str | None = None
    """Cache-Control in place of the page's own; empty: none at all."""
    size: int | None = None
    """A body of this size in place of the page's own."""
    chunked: bool = False
    reset_at: int | None = None
    """Reset the connection after this many body bytes."""
    stall_at: int | None = None
    """Send nothing more after this many body bytes, and keep the connection."""
    drip: float = 0.0
    """Wait before each piece of `drip_bytes`."""
    drip_bytes: int = 1024
    error_rate: float = 0.0
    """This part of the answers is a 500, evenly spread."""
    cl_lie: int = 0
    """Added to the true Content-Length."""
    header: tuple[tuple[str, str], ...] = ()
    """Field lines that are added."""
    no_validators: bool = False
    """Neither ETag nor Last-Modified, and no 304."""
    gzip: bool = False
    """Compress for clients that accept it, with Vary: Accept-Encoding."""
    broken: Breakage | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Knobs set by an admin call for all paths with a prefix; `left` counts the requests that it still applies to."""

    prefix: str
    knobs: tuple[tuple[str, str], ...]
    left: int | None = None


def parse(pairs: Iterable[tuple[str, str]]) -> Faults:
    """Faults from knobs by name, with or without the leading `_`. Raises FaultError."""
    values: dict[str, Any] = {}
    for raw_name, text in pairs:
        name = raw_name.removeprefix("_")
        if (read := _READERS.get(name)) is None:
            near = difflib.get_close_matches(name, _READERS, n=1)
            hint = f"did you mean _{near[0]}?" if near else "there are " + ", ".join(f"_{known}" for known in _READERS)
            raise FaultError(f"unknown knob {raw_name[:60]!r}; {hint}")
        try:
            value = read(text)
        except ValueError as error:
            raise FaultError(f"_{name}: {error}") from error
        values[name] = (*values.get("header", ()), value) if name == "header" else value
    return Faults(**values)


def knobs_of(query: Iterable[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """The knobs among a query's parameters: the names that begin with `_`."""
    return tuple((name, value) for name, value in query if name.startswith("_"))


class FaultBook:
    """The admin's rules, at most 100. The longest prefix wins, then the newest; a request's own knobs are laid over it."""

    def __init__(self) -> None:
        self._rules: list[Rule] = []

    def set(self, prefix: str, knobs: tuple[tuple[str, str], ...], times: int | None) -> None:
        """Replace what is set for `prefix`; no knobs remove it. Raises FaultError."""
        parse(knobs)
        if not prefix.startswith("/"):
            raise FaultError(f"prefix must begin with /, not {prefix[:60]!r}")
        if times is not None and times < 1:
            raise FaultError("times must be at least 1")
        kept = [rule for rule in self._rules if rule.prefix != prefix]
        if len(kept) >= 100:
            raise FaultError("at most 100 prefixes can have faults")
        self._rules = [*kept, Rule(prefix, knobs, times)] if knobs else kept

    def clear(self) -> None:
        self._rules = []

    def rules(self) -> tuple[Rule, ...]:
        return tuple(self._rules)

    def take(self, path: str, own: tuple[tuple[str, str], ...]) -> Faults:
        """The faults of one request; counts it against a rule with `times`."""
        matching = [rule for rule in self._rules if path.startswith(rule.prefix)]
        if not matching:
            return parse(own)
        rule = max(matching, key=lambda candidate: len(candidate.prefix))
        named = {name.removeprefix("_") for name, _ in own}
        faults = parse((*(pair for pair in rule.knobs if pair[0].removeprefix("_") not in named), *own))
        if rule.left is not None:
            spent = dataclasses.replace(rule, left=rule.left - 1)
            self._rules = [spent if known is rule else known for known in self._rules if known is not rule or spent.left]
        return faults


def _wait(text: str) -> float:
    seconds = parse_duration(text) / 1e9
    if not 0 <= seconds <= MAX_WAIT_SECONDS:
        raise ValueError(f"must be from 0s to {MAX_WAIT_SECONDS:g}s, not {text[:40]!r}")
    return seconds


def _bytes(text: str) -> int:
    size = int(text) if text.isascii() and text.isdigit() and len(text) < 16 else parse_size(text)
    if not 0 <= size <= MAX_SIZE_BYTES:
        raise ValueError(f"must be at most 1TiB, not {text[:40]!r}")
    return size


def _positive_bytes(text: str) -> int:
    if (size := _bytes(text)) < 1:
        raise ValueError("must be at least 1")
    return size


def _status(text: str) -> int:
    if re.fullmatch(r"[2-5][0-9]{2}", text) is None:
        raise ValueError(f"must be a status from 200 to 599, not {text[:40]!r}")
    return int(text)


def _signed(text: str) -> int:
    if re.fullmatch(r"[+\- ]?[0-9]{1,12}", text) is None:
        raise ValueError(f"must be a number such as +10 or -10, not {text[:40]!r}")
    return int(text)


def _flag(text: str) -> bool:
    if text not in {"0", "1", "true", "false"}:
        raise ValueError(f"must be 1 or 0, not {text[:40]!r}")
    return text in {"1", "true"}


def _rate(text: str) -> float:
    if re.fullmatch(r"0(\.[0-9]{1,9})?|1(\.0{1,9})?", text) is None:
        raise ValueError(f"must be from 0 to 1, not {text[:40]!r}")
    return float(text)


def _field_value(text: str) -> str:
    if not text.isprintable() or not text.isascii():
        raise ValueError("must be printable ASCII")
    return text


def _field_line(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or _TOKEN.fullmatch(name) is None:
        raise ValueError(f"must be Name:value, not {text[:40]!r}")
    return name, _field_value(value.strip())


def _breakage(text: str) -> Breakage:
    if text not in set(Breakage):
        raise ValueError(f"must be one of {', '.join(Breakage)}, not {text[:40]!r}")
    return Breakage(text)


_READERS: Final[dict[str, Callable[[str], Any]]] = {
    "delay": _wait,
    "status": _status,
    "cc": _field_value,
    "size": _bytes,
    "chunked": _flag,
    "reset_at": _bytes,
    "stall_at": _bytes,
    "drip": _wait,
    "drip_bytes": _positive_bytes,
    "error_rate": _rate,
    "cl_lie": _signed,
    "header": _field_line,
    "no_validators": _flag,
    "gzip": _flag,
    "broken": _breakage,
}
