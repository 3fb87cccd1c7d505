"""A site's origins and its `upstream` in the words of configuration files and the API: read from YAML, taken from JSON, printed.

Tables of words, and the functions that obey them; no I/O. Whether files of certificates can be used is the callers' to see.
"""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from edgecache import units
from edgecache.policy.upstream import (
    DEFAULT_UPSTREAM,
    MAX_ORIGIN_WEIGHT,
    Balance,
    BreakerRule,
    EjectionRule,
    HealthRule,
    HedgeRule,
    Origin,
    RetryOn,
    RetryRule,
    Timeouts,
    TlsRule,
    UpstreamRule,
)
from edgecache.siteform import origin_problem
from edgecache.yamlform import Node, Problems

_PATHS: Final = ("ca", "certificate", "key")
_PATH_CHARACTERS: Final = r"/[\x20-\x7e]{1,1000}"
_HOST: Final = r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?(:[0-9]{1,5})?|\[[0-9A-Fa-f:.]+\](:[0-9]{1,5})?"
_TARGET: Final = r"/[!-~]{0,1000}"


@dataclass(frozen=True, slots=True)
class Word:
    """One key. `read` raises FormError, `take` ValueError with what is wrong; `show` prints what `take` takes."""

    read: Callable[[Node], Any]
    take: Callable[[object], Any]
    show: Callable[[Any], object] = lambda value: value


@dataclass(frozen=True, slots=True)
class Section:
    """Keys that fill one rule. `optional`: without the section, or with null in its place, that rule is off."""

    rule: type[Any]
    words: Mapping[str, Word]
    optional: bool = False
    required: tuple[str, ...] = ()


def _duration(low: float, high: float) -> Word:
    def take(value: object) -> float:
        if not isinstance(value, str):
            raise ValueError(f"must be text with a unit, such as 2s, not {_shown(value)}")  # noqa: TRY004 - the client's value
        seconds = units.parse_duration(value) / 1e9
        if not low <= seconds <= high:
            raise ValueError(f"must be from {units.format_seconds(low)} to {units.format_seconds(high)}, not {value}")
        return seconds

    return Word(lambda node: node.seconds(low, high), take, units.format_seconds)


def _count(low: int, high: int) -> Word:
    def take(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}, not {_shown(value)}")
        return value

    return Word(lambda node: node.integer(low, high), take)


def _share() -> Word:
    def take(value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
            raise ValueError(f"must be a number from 0 to 1, not {_shown(value)}")
        return float(value)

    return Word(lambda node: node.number(0, 1), take)


def _flag() -> Word:
    def take(value: object) -> bool:
        if not isinstance(value, bool):
            raise ValueError(f"must be true or false, not {_shown(value)}")  # noqa: TRY004 - the client's value, not our type
        return value

    return Word(lambda node: node.boolean(), take)


def _text(pattern: str, allowed: str) -> Word:
    def take(value: object) -> str:
        if not isinstance(value, str) or (value and not re.fullmatch(pattern, value)):
            raise ValueError(f"must be {allowed}, not {_shown(value)}")
        return value

    return Word(lambda node: node.text(pattern=pattern, allowed=allowed), take)


def _path() -> Word:
    """In a file relative to it, in the API absolute."""
    return dataclasses.replace(_text(_PATH_CHARACTERS, "the absolute path of a file"), read=lambda node: node.text(limit=1000))


def _choice(words: type[enum.StrEnum]) -> Word:
    def take(value: object) -> enum.StrEnum:
        if not isinstance(value, str) or value not in set(words):
            raise ValueError(f"must be one of {', '.join(words)}, not {_shown(value)}")
        return words(value)

    return Word(lambda node: node.enum(words), take, str)


def _several(word: Word, limit: int) -> Word:
    """A list without repetitions."""

    def read(node: Node) -> tuple[Any, ...]:
        found = tuple(word.read(item) for item in node.sequence(0, limit))
        if len(set(found)) < len(found):
            raise node.error("names a value twice")
        return found

    def take(value: object) -> tuple[Any, ...]:
        if not isinstance(value, list) or len(value) > limit:
            raise ValueError(f"must be a list of at most {limit} values, not {_shown(value)}")
        found = tuple(word.take(item) for item in value)
        if len(set(found)) < len(found):
            raise ValueError("names a value twice")
        return found

    return Word(read, take, lambda value: [word.show(item) for item in value])


def _or_null(word: Word) -> Word:
    return Word(
        lambda node: None if node.null else word.read(node),
        lambda value: None if value is None else word.take(value),
        lambda value: None if value is None else word.show(value),
    )


def _statuses() -> Word:
    """`200-399` or `204`."""

    def take(value: object) -> tuple[int, int]:
        text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
        match = re.fullmatch(r"([1-5][0-9]{2})(?:-([1-5][0-9]{2}))?", text) if isinstance(text, str) else None
        if match is None or int(match[1]) > int(match[2] or match[1]):
            raise ValueError(f"must be a status or a range of them, such as 200-399, not {_shown(value)}")
        return int(match[1]), int(match[2] or match[1])

    def read(node: Node) -> tuple[int, int]:
        try:
            return take(node.text(limit=20))
        except ValueError as error:
            raise node.error(str(error)) from error

    return Word(read, take, lambda value: f"{value[0]}-{value[1]}")


_HEALTH: Final[Mapping[str, Word]] = {
    "path": _text(_TARGET, "a path that begins with /, query included"),
    "host": _text(_HOST, "a host, with its port if it has one"),
    "interval": _duration(0.1, 3600),
    "timeout": _duration(0.01, 600),
    "expect": _statuses(),
    "rise": _count(1, 100),
    "fall": _count(1, 100),
}
_EJECTION: Final[Mapping[str, Word]] = {"errors": _count(1, 1000), "time": _duration(0.01, 3600), "max_share": _share()}
_BREAKER: Final[Mapping[str, Word]] = {
    "max_connections": _or_null(_count(1, 100_000)),
    "max_pending": _count(0, 100_000),
    "max_failures": _or_null(_count(1, 100_000)),
    "pause": _duration(0.01, 3600),
}
_RETRIES: Final[Mapping[str, Word]] = {
    "attempts": _count(0, 10),
    "budget": _share(),
    "on": _several(_choice(RetryOn), len(RetryOn)),
    "statuses": _several(_count(400, 599), 32),
}
_TIMEOUTS: Final[Mapping[str, Word]] = {
    "connect": _or_null(_duration(0.01, 600)),
    "first_byte": _or_null(_duration(0.01, 3600)),
    "between_bytes": _or_null(_duration(0.01, 3600)),
}
_TLS: Final[Mapping[str, Word]] = {
    **dict.fromkeys(_PATHS, _path()),
    "server_name": _text(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?", "a host name"),
    "insecure_skip_verify": _flag(),
}
_BALANCE: Final = _or_null(_choice(Balance))
SECTIONS: Final[Mapping[str, Section]] = {
    "health": Section(HealthRule, _HEALTH, optional=True),
    "ejection": Section(EjectionRule, _EJECTION, optional=True),
    "breaker": Section(BreakerRule, _BREAKER),
    "retries": Section(RetryRule, _RETRIES),
    "hedge": Section(HedgeRule, {"after": _duration(0.001, 600)}, optional=True),
    "timeouts": Section(Timeouts, _TIMEOUTS),
    "tls": Section(TlsRule, _TLS),
}
_ORIGIN: Final[Mapping[str, Word]] = {
    "weight": _count(1, MAX_ORIGIN_WEIGHT),
    "backup": _flag(),
    "proxy_protocol": _count(0, 2),
}


def read_upstream(node: Node, directory: Path) -> UpstreamRule:
    """A site's `upstream` in a file; paths start at `directory`. Raises FormError with every mistake."""
    problems = Problems()
    known = ("balance", *SECTIONS)
    problems.check(lambda: node.mapping(known))
    entries = {key: value for key, value in node.value.items() if key in known} if isinstance(node.value, Mapping) else {}
    changes: dict[str, Any] = {}
    if "balance" in entries:
        changes["balance"] = problems.attempt(partial(_BALANCE.read, entries.pop("balance")), None)
    for key, value in entries.items():
        changes[key] = problems.attempt(partial(_read_section, value, SECTIONS[key]), getattr(DEFAULT_UPSTREAM, key))
    problems.raise_any()
    rule = dataclasses.replace(DEFAULT_UPSTREAM, **changes)
    paths: dict[str, Any] = {
        name: str(directory / Path(path).expanduser()) for name in _PATHS if (path := getattr(rule.tls, name))
    }
    rule = dataclasses.replace(rule, tls=dataclasses.replace(rule.tls, **paths))
    if (wrong := _contradiction(rule)) is not None:
        raise entries[wrong[0]].error(wrong[1])
    return rule


def _read_section(node: Node, section: Section) -> Any:
    if node.null:
        return None if section.optional else section.rule()
    problems = Problems()
    problems.check(lambda: node.mapping(section.words))
    entries = node.value if isinstance(node.value, Mapping) else {}
    changes = {
        key: problems.attempt(partial(section.words[key].read, value), None)
        for key, value in entries.items()
        if key in section.words
    }
    problems.raise_any()
    return section.rule(**changes)


def take_upstream(given: Mapping[str, object], base: UpstreamRule, where: str) -> UpstreamRule:
    """`base` with what the JSON object names; null sets a part back. Raises ValueError naming the member."""
    changes: dict[str, Any] = {}
    for key, value in given.items():
        at = f"{where}.{key}"
        if key == "balance":
            changes[key] = _taken(_BALANCE, value, at)
        elif key not in SECTIONS:
            raise ValueError(f"{where}: unknown key {key[:60]!r}; known here: balance, {', '.join(SECTIONS)}")
        elif value is None:
            changes[key] = getattr(DEFAULT_UPSTREAM, key)
        elif not isinstance(value, dict):
            raise ValueError(f"{at}: must be an object or null, not {_shown(value)}")
        else:
            section = SECTIONS[key]
            changes[key] = dataclasses.replace(getattr(base, key) or section.rule(), **_members(value, section.words, at))
    rule = dataclasses.replace(base, **changes)
    if (wrong := _contradiction(rule)) is not None:
        raise ValueError(f"{where}.{wrong[0]}: {wrong[1]}")
    return rule


def show_upstream(rule: UpstreamRule) -> dict[str, object]:
    """Everything but what the origins themselves show."""
    parts: dict[str, object] = {"balance": _BALANCE.show(rule.balance)}
    for key, section in SECTIONS.items():
        value = getattr(rule, key)
        parts[key] = None if value is None else {name: word.show(getattr(value, name)) for name, word in section.words.items()}
    return parts


def read_origin(node: Node) -> Origin:
    """An origin in a file: a URL, or a mapping with `url`. Raises FormError."""
    if not isinstance(node.value, Mapping):
        return Origin(_read_url(node))
    form = node.mapping(("url", *_ORIGIN), ("url",))
    problems = Problems()
    url = problems.attempt(partial(_read_url, form["url"]), "")
    said = {key: problems.attempt(partial(word.read, form[key]), None) for key, word in _ORIGIN.items() if key in form}
    problems.raise_any()
    return Origin(url, **said)


def _read_url(node: Node) -> str:
    text = node.text(limit=1024)
    if (problem := origin_problem(text)) is not None:
        raise node.error(problem)
    return text.removesuffix("/")


def take_origin(value: object, where: str) -> Origin:
    """An origin in JSON: a URL, or an object with `url`. Raises ValueError naming the member."""
    said: Mapping[str, object] = value if isinstance(value, dict) else {"url": value}
    url = said.get("url")
    if not isinstance(url, str):
        raise ValueError(f"{where}: must be a URL, or an object with the member url")  # noqa: TRY004 - as above
    at = f"{where}.url" if isinstance(value, dict) else where
    problem = origin_problem(url) if len(url) <= 1024 else "is longer than 1024 characters"
    if problem is not None:
        raise ValueError(f"{at}: {problem}")
    rest = {key: member for key, member in said.items() if key != "url"}
    return Origin(url.removesuffix("/"), **_members(rest, _ORIGIN, where))


def show_origin(origin: Origin) -> object:
    """A URL alone where nothing more is said."""
    said = {key: word.show(getattr(origin, key)) for key, word in _ORIGIN.items() if getattr(origin, key)}
    return {"url": origin.url, **said} if said else origin.url


def plain(origin: Origin) -> bool:
    return origin == Origin(origin.url)


def _members(given: Mapping[str, object], words: Mapping[str, Word], where: str) -> dict[str, Any]:
    for key in given:
        if key not in words:
            raise ValueError(f"{where}: unknown key {key[:60]!r}; known here: {', '.join(words)}")
    return {key: _taken(words[key], value, f"{where}.{key}") for key, value in given.items()}


def _taken(word: Word, value: object, where: str) -> Any:
    try:
        return word.take(value)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def _contradiction(rule: UpstreamRule) -> tuple[str, str] | None:
    """Key of a section and what in it cannot be meant."""
    if rule.tls.key and not rule.tls.certificate:
        return "tls", "key without certificate: name the certificate that it belongs to"
    if rule.tls.insecure_skip_verify and rule.tls.ca:
        return "tls", "ca and insecure_skip_verify: verify against the authorities, or do not"
    if rule.health is not None and rule.health.timeout > rule.health.interval:
        return "health", "timeout is above interval: a check would last longer than the time between two"
    return None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
