"""Origins and how they are asked, as options of the command line: text into the API's JSON. What is right, the API says."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import click

ORIGIN_HELP: Final = (
    "Base URL of an origin, perhaps with ,weight=N ,backup ,proxy_protocol=1|2 after it; repeat it for more, tried in order"
)
UPSTREAM_HELP: Final = (
    "How origins are asked, such as health.path=/ready, retries.on=reset,timeout or ejection=on; PART=null sets a part back"
)
_LISTS: Final = frozenset({"on", "statuses"})
_WORDS: Final = {"true": True, "false": False, "null": None}


def origins_of(texts: Iterable[str]) -> list[object]:
    """`URL[,weight=N][,backup][,proxy_protocol=N]`, each as the API takes it. Raises UsageError."""
    found: list[object] = []
    for text in texts:
        url, *traits = text.split(",")
        said: dict[str, object] = {}
        for trait in traits:
            key, equals, value = trait.strip().partition("=")
            if key not in {"weight", "backup", "proxy_protocol"} or (key != "backup" and not equals):
                raise click.UsageError(f"--origin {text!r}: {trait!r} is none of weight=N, backup, proxy_protocol=1 or 2")
            said[key] = _value(value) if equals else True
        found.append({"url": url, **said} if said else url)
    return found


def upstream_of(pairs: Iterable[str]) -> dict[str, Any]:
    """`PART.KEY=VALUE`, `balance=VALUE` or `PART=null` as the API's `upstream`. Raises UsageError."""
    found: dict[str, Any] = {}
    for pair in pairs:
        path, equals, value = pair.partition("=")
        part, dot, key = path.partition(".")
        if not equals or not part or (dot and not key):
            raise click.UsageError(f"--upstream {pair!r} is not PART.KEY=VALUE, such as --upstream health.path=/ready")
        if not dot:
            found[part] = {} if value == "on" else _value(value)
        elif isinstance(members := found.setdefault(part, {}), dict):
            members[key] = [_value(item) for item in value.split(",") if item] if key in _LISTS else _value(value, key)
        else:
            raise click.UsageError(f"--upstream {pair!r}: {part} has been set as a whole already")
    return found


def texts_of(origins: Iterable[object]) -> list[object]:
    """What the API shows of origins, as `origins_of` reads them."""
    return [_text(origin) if isinstance(origin, dict) else origin for origin in origins]


def _text(origin: dict[str, object]) -> str:
    traits = (key if value is True else f"{key}={value}" for key, value in origin.items() if key != "url")
    return ",".join((str(origin["url"]), *traits))


def urls_of(origins: Iterable[object]) -> list[object]:
    """What the API shows of origins, for a table."""
    return [origin["url"] if isinstance(origin, dict) else origin for origin in origins]


def _value(text: str, key: str = "") -> object:
    if key == "expect":
        return text
    if text.isascii() and text.isdigit():
        return int(text)
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return float(text)
    return _WORDS.get(text, text)
