"""Which request fields select a stored response, and the key they make (RFC 9111 section 4.1).

Called by storing for the names, and by the store for the secondary key of its variants.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from edgecache.policy.coding import IDENTITY, negotiated
from edgecache.policy.fields import names, split_list, weighted
from edgecache.policy.message import Request, Response
from edgecache.policy.rule import CacheRule

MAX_VARY_NAMES = 32
"""A response that varies on more fields is not stored."""

_KEY_LIMIT_CHARS = 256
"""Longer keys are replaced by their digest."""

_MEMO_LIMIT_CHARS = 256
"""Longer values are normalised each time, so that a hostile client cannot fill the memo with them."""

_BEHIND: Final = "behind a generator,"
"""Begins the keys of what generators get of their own URLs: no name of a field holds a space."""

_CREDENTIALS = frozenset({"authorization", "cookie", "proxy-authorization"})

_Reader = Callable[[tuple[str, ...]], str]


def vary_names(response: Response) -> tuple[str, ...] | None:
    """Lower-case field names of Vary, sorted; None if it holds `*`, which no later request matches."""
    listed = names(response.headers, "Vary")
    return None if "*" in listed else tuple(sorted(listed))


def selecting_names(vary_names: tuple[str, ...], rule: CacheRule) -> tuple[str, ...]:
    """Lower-case names of all request fields that select among stored responses, sorted: these and the rule's."""
    if not rule.vary:
        return vary_names
    return tuple(sorted({*vary_names, *(name.lower() for name in rule.vary)}))


def variant_key(request: Request, vary_names: tuple[str, ...], rule: CacheRule) -> str:
    """Equal for two requests if and only if the fields that `vary_names` and the rule name are equal after normalisation."""
    if not vary_names and not rule.vary:
        return _BEHIND if rule.behind else ""
    selecting = selecting_names(tuple(sorted({name.lower() for name in vary_names})), rule)
    key = ",".join(f"{name}={_selecting_value(request, name, rule)}" for name in selecting)
    if rule.behind:
        key = _BEHIND + key
    if len(key) <= _KEY_LIMIT_CHARS:
        return key
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def selected_fields(key: str) -> tuple[tuple[str, str], ...] | None:
    """The fields of a request that has this key, if the key tells: not where it is a digest or holds a client's credentials, nor
    where it is a generator that asks.

    Whoever uses them compares the key of the request that they make: some normalised values do not read as what they stand for.
    """
    if key.startswith(_BEHIND):
        return None
    found: list[tuple[str, str]] = []
    while key:
        name, equals, rest = key.partition("=")
        if not equals:
            return None
        if rest[:1] == "-":
            size, start = 0, 1
        else:
            digits, _, value = rest.partition(":")
            if not digits.isascii() or not digits.isdigit() or name in _CREDENTIALS:
                return None
            size, start = int(digits), len(digits) + 1
            found.append((name, value[:size]))
        key = rest[start + size :].removeprefix(",")
    return tuple(found)


def normalise(name: str, lines: list[str]) -> str:
    """One value for all lines of a field, without differences that its definition makes meaningless.

    Accept-Encoding: the set of acceptable codings. Accept, Accept-Charset, Accept-Language: what is wanted more than what; the
    order of those wanted alike means nothing (RFC 9110 section 12.5.4). Other fields: their members, joined (section 5.3).
    """
    read = _READERS.get(name.lower())
    if read is not None:
        memo = sum(map(len, lines)) <= _MEMO_LIMIT_CHARS
        return _remembered(read, tuple(lines)) if memo else read(tuple(lines))
    return ", ".join(member for line in lines for member in split_list(line))


def _selecting_value(request: Request, name: str, rule: CacheRule) -> str:
    """Unambiguous whatever the value holds; an absent field matches only absence (RFC 9111 section 4.1).

    Where this edge compresses, of Accept-Encoding only the outcome counts: it is all that sources get to see of it. Where it
    assembles and does not compress, they see nothing of it.
    """
    if name == "accept-encoding" and rule.esi and not rule.compress:
        return "0:"
    if name == "accept-encoding" and (coding := negotiated(request, rule.compress)) is not None:
        value = "" if coding == IDENTITY else coding
        return f"{len(value)}:{value}"
    lines = request.headers.getall(name, None)
    if lines is None:
        return "-"
    value = normalise(name, lines)
    return f"{len(value)}:{value}"


def _codings(lines: tuple[str, ...]) -> str:
    """RFC 9110 section 12.5.3. `identity` is acceptable unless it is refused."""
    acceptable: set[str] = set()
    for item, weight in weighted(lines):
        coding = item.removeprefix("x-") if item in ("x-gzip", "x-compress") else item
        if weight > 0:
            acceptable.add(coding)
        elif coding in ("identity", "*"):
            acceptable.add(f"!{coding}")
    return ",".join(sorted(acceptable - {"identity"}))


def _preferences(lines: tuple[str, ...]) -> str:
    """Items from most to least wanted, those wanted alike sorted; refused ones are marked."""
    ranks: dict[float, list[str]] = {}
    for item, weight in weighted(lines):
        ranks.setdefault(weight, []).append(item)
    wanted = ">".join(",".join(sorted(ranks[weight])) for weight in sorted(ranks, reverse=True) if weight > 0)
    refused = ",".join(sorted(ranks.get(0.0, ())))
    return f"{wanted}!{refused}" if refused else wanted


_READERS: Final[dict[str, _Reader]] = {
    "accept": _preferences,
    "accept-charset": _preferences,
    "accept-encoding": _codings,
    "accept-language": _preferences,
}


@lru_cache(maxsize=2048)
def _remembered(read: _Reader, lines: tuple[str, ...]) -> str:
    return read(lines)
