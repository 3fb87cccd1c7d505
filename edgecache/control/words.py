"""Limits and cache rules in the words of manifests and the API: read from a YAML form, taken from JSON, printed again.

Tables, no I/O. A word's value carries its unit where it has one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, Literal

from edgecache import units
from edgecache.policy.rule import CacheRule
from edgecache.yamlform import Node, Problems
from sandbox import Limits

FIELD_NAME: Final = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,100}"
"""A header field's name (RFC 9110 section 5.6.2)."""
TAG: Final = r"[!-+\--~]{1,200}"
"""A cache tag: visible ASCII without a comma."""
MAX_LIST: Final = 64


@dataclass(frozen=True, slots=True)
class LimitWord:
    """One limit: the field it fills, what kind of value it takes, and its least and largest value."""

    field: str
    kind: Literal["duration", "size", "count"]
    low: int
    high: int

    def read(self, node: Node) -> int:
        match self.kind:
            case "duration":
                return node.duration(self.low, self.high)
            case "size":
                return node.size(self.low, self.high)
            case "count":
                return node.integer(self.low, self.high)

    def take(self, value: str | int) -> int:
        """From JSON. Raises ValueError."""
        number = self._parse(value)
        if not self.low <= number <= self.high:
            raise ValueError(f"must be from {self.show(self.low)} to {self.show(self.high)}, not {self.show(number)}")
        return number

    def show(self, value: int) -> str | int:
        match self.kind:
            case "duration":
                return units.format_duration(value)
            case "size":
                return units.format_size(value)
            case "count":
                return value

    def _parse(self, value: str | int) -> int:
        if self.kind == "count":
            if not isinstance(value, int) or isinstance(value, bool):
                raise ValueError(f"must be a whole number, not {value!r}")
            return value
        if not isinstance(value, str):
            raise ValueError(f"must be text with a unit, not {value!r}")  # noqa: TRY004 - the client's value, not our type
        return units.parse_duration(value) if self.kind == "duration" else units.parse_size(value)


_MILLISECOND: Final = 10**6
_DAY: Final = 86_400 * 10**9

LIMIT_WORDS: Final[Mapping[str, LimitWord]] = {
    "cpu": LimitWord("cpu_ns", "duration", _MILLISECOND, _DAY),
    "wall": LimitWord("wall_ns", "duration", _MILLISECOND, _DAY),
    "memory": LimitWord("memory_bytes", "size", 1 << 20, 1 << 40),
    "output": LimitWord("output_bytes", "size", 1, 1 << 40),
    "log": LimitWord("log_bytes", "size", 0, 1 << 30),
    "edge_calls": LimitWord("edge_calls", "count", 0, 10**9),
    "sub_requests": LimitWord("sub_requests", "count", 0, 10**9),
    "system_calls": LimitWord("system_calls", "count", 1, 10**12),
    "boot_cpu": LimitWord("boot_cpu_ns", "duration", _MILLISECOND, _DAY),
    "vms": LimitWord("vms", "count", 1, 100_000),
    "queue": LimitWord("queue", "count", 0, 10**6),
    "output_rate": LimitWord("output_rate", "size", 1, 1 << 40),
    "log_rate": LimitWord("log_rate", "size", 1, 1 << 40),
    "edge_call_rate": LimitWord("edge_call_rate", "count", 1, 10**9),
    "sub_request_rate": LimitWord("sub_request_rate", "count", 1, 10**9),
    "rate_burst": LimitWord("rate_burst_ns", "duration", _MILLISECOND, 3_600 * 10**9),
    "cpu_share": LimitWord("cpu_share", "count", 1, 100),
}
_WORD_OF: Final[Mapping[str, str]] = {limit.field: word for word, limit in LIMIT_WORDS.items()}

_LIFETIME_WORDS: Final = ("default_ttl", "heuristic", "stale_while_revalidate", "stale_if_error", "stale_if_unreachable")
CACHE_WORDS: Final = (*_LIFETIME_WORDS, "vary", "tags", "max_object")
"""What a manifest may say under `cache`."""


def read_limits(node: Node | None, base: Limits) -> Limits:
    """`base` with what the form names. Raises FormError with every mistake."""
    if node is None:
        return base
    problems = Problems()
    form = problems.attempt(partial(node.mapping, LIMIT_WORDS), _known(node, LIMIT_WORDS))
    changes: dict[str, int] = {}
    for word, value in form.items():
        limit = LIMIT_WORDS[word]
        changes[limit.field] = problems.attempt(partial(limit.read, value), 0)
    if changes.get("memory_bytes", 0) % 4096:
        problems.add(form["memory"].error("must be a multiple of 4KiB, the size of a page"))
    problems.raise_any()
    return replace(base, **changes)


def take_limits(given: Mapping[str, str | int], base: Limits, where: str) -> Limits:
    """`base` with what the JSON object names. Raises ValueError naming the member."""
    changes: dict[str, int] = {}
    for word, value in given.items():
        limit = LIMIT_WORDS[word]
        try:
            changes[limit.field] = limit.take(value)
        except ValueError as error:
            raise ValueError(f"{where}.{word}: {error}") from error
    if changes.get("memory_bytes", 0) % 4096:
        raise ValueError(f"{where}.memory: must be a multiple of 4KiB, the size of a page")
    return replace(base, **changes)


def show_limits(limits: Limits) -> dict[str, object]:
    return {word: limit.show(getattr(limits, limit.field)) for word, limit in LIMIT_WORDS.items()}


def exceeding(limits: Limits, ceiling: Limits) -> tuple[tuple[str, object, object], ...]:
    """Word, asked value and ceiling of each limit above `ceiling`."""
    named = ((_WORD_OF[field], field) for field in limits.exceeding(ceiling))
    return tuple(
        (word, LIMIT_WORDS[word].show(getattr(limits, field)), LIMIT_WORDS[word].show(getattr(ceiling, field)))
        for word, field in named
    )


def within(limits: Limits, ceiling: Limits) -> Limits:
    """`limits` with each field that is above `ceiling` lowered to it."""
    return replace(limits, **{field: getattr(ceiling, field) for field in limits.exceeding(ceiling)})


def read_rule(node: Node | None, base: CacheRule, also: Collection[str] = ()) -> CacheRule:
    """`base` with what a manifest's `cache` names. Raises FormError with every mistake.

    Words of `also` are the caller's to read: they are known here, and left alone.
    """
    if node is None:
        return base
    problems = Problems()
    form = problems.attempt(partial(node.mapping, (*CACHE_WORDS, *also)), _known(node, CACHE_WORDS))
    rule = base
    if ttl := form.get("default_ttl"):
        rule = replace(rule, default_ttl=None if ttl.null else problems.attempt(ttl.seconds, 0.0))
    if heuristic := form.get("heuristic"):
        rule = replace(rule, heuristic=problems.attempt(heuristic.boolean, False))
    if revalidate := form.get("stale_while_revalidate"):
        rule = replace(rule, stale_while_revalidate=problems.attempt(revalidate.seconds, 0.0))
    if stale := form.get("stale_if_error"):
        rule = replace(rule, stale_if_error=problems.attempt(stale.seconds, 0.0))
    if unreachable := form.get("stale_if_unreachable"):
        rule = replace(rule, stale_if_unreachable=problems.attempt(unreachable.seconds, 0.0))
    if size := form.get("max_object"):
        rule = replace(rule, max_object_bytes=problems.attempt(partial(size.size, 1), 1))
    if vary := form.get("vary"):
        rule = replace(rule, vary=_texts(vary, FIELD_NAME, "a header field's name", problems))
    if tags := form.get("tags"):
        rule = replace(rule, tags=_texts(tags, TAG, "visible ASCII without a comma", problems))
    problems.raise_any()
    return rule


def show_rule(rule: CacheRule) -> dict[str, object]:
    return {
        "default_ttl": None if rule.default_ttl is None else units.format_seconds(rule.default_ttl),
        "heuristic": rule.heuristic,
        "stale_while_revalidate": units.format_seconds(rule.stale_while_revalidate),
        "stale_if_error": units.format_seconds(rule.stale_if_error),
        "stale_if_unreachable": units.format_seconds(rule.stale_if_unreachable),
        "prefetch": rule.prefetch,
        "vary": list(rule.vary),
        "tags": list(rule.tags),
        "max_object": units.format_size(rule.max_object_bytes),
        "store_set_cookie": rule.store_set_cookie,
        "honour_client_reload": rule.honour_client_reload,
        "forward_ranges": rule.forward_ranges,
        "esi": rule.esi,
        "esi_undeclared": rule.esi_undeclared,
        "compress": [str(coding) for coding in rule.compress],
    }


def _known(node: Node, words: Collection[str]) -> Mapping[str, Node]:
    """The entries that can be read although others cannot, so that one push tells every mistake."""
    return {key: value for key, value in node.value.items() if key in words} if isinstance(node.value, Mapping) else {}


def _texts(node: Node, pattern: str, allowed: str, problems: Problems) -> tuple[str, ...]:
    nothing: tuple[Node, ...] = ()
    items = problems.attempt(partial(node.sequence, 0, MAX_LIST), nothing)
    return tuple(problems.attempt(partial(item.text, pattern=pattern, allowed=allowed), "") for item in items)
