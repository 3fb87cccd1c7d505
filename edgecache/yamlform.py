"""YAML as a form to be filled in: every value knows its line, column and key path, and every error names them.

No schema here and no YAML types: a reader (`text`, `integer`, …) says what a scalar must be, so `no` is no boolean by surprise.
Anchors, aliases, tags, duplicate keys and further documents are refused. `config` and the reader of bundles' manifests call it.
"""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import yaml

from edgecache import units

E = TypeVar("E", bound=enum.StrEnum)
T = TypeVar("T")

MAX_TEXT: Final = 1 << 20
"""Characters of one file."""
MAX_DEPTH: Final = 16
MAX_NODES: Final = 50_000

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_INTEGER: Final = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})")
_BOOLEAN: Final = re.compile("true|false")
_NUMBER: Final = re.compile(r"[+-]?(0|[1-9][0-9]{0,17})(\.[0-9]{1,18})?")


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with a file. Line and column count from 1; line 0: the file as a whole."""

    source: str
    line: int
    column: int
    key: str
    message: str

    def __str__(self) -> str:
        place = f"{self.source}:{self.line}:{self.column}" if self.line else self.source
        key = f"{self.key}: " if self.key else ""
        return f"{place}: {key}{self.message}"


class FormError(Exception):
    """A file is not what it should be. `problems` holds at least one; the text has one line for each."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))


class Problems:
    """Gathers FormErrors, so that one run names everything that is wrong."""

    def __init__(self) -> None:
        self._found: list[Problem] = []

    def add(self, error: FormError) -> None:
        self._found.extend(error.problems)

    def check(self, read: Callable[[], object]) -> bool:
        """Whether `read` passed; the FormError that it raised is kept."""
        try:
            read()
        except FormError as error:
            self.add(error)
            return False
        return True

    def attempt(self, read: Callable[[], T], fallback: T) -> T:
        """What `read` returns; `fallback` when it raises FormError, which is kept."""
        try:
            return read()
        except FormError as error:
            self.add(error)
            return fallback

    def raise_any(self) -> None:
        """Raise FormError for all that was gathered, in the file's order, each once."""
        if self._found:
            ordered = sorted(dict.fromkeys(self._found), key=lambda problem: (problem.source, problem.line, problem.column))
            raise FormError(ordered)


@dataclass(frozen=True, slots=True)
class Node:
    """One value of a file: a scalar, a sequence or a mapping, with its place. Readers raise FormError."""

    source: str
    line: int
    column: int
    key: str
    """Path from the root: `sites[0].hosts`; empty for the root."""
    value: str | tuple[Node, ...] | Mapping[str, Node]
    plain: bool = False
    """A scalar without quotes."""
    keys: Mapping[str, tuple[int, int]] | None = None
    """Line and column of each key, of a mapping."""

    def error(self, message: str) -> FormError:
        """An error about this value. The message must hold no secret."""
        return FormError([Problem(self.source, self.line, self.column, self.key, message)])

    @property
    def null(self) -> bool:
        """Left empty, or `null`, or `~`."""
        return self.plain and self.value in _NULL

    def text(self, *, pattern: str | None = None, allowed: str = "", limit: int = 4096) -> str:
        """A scalar as written. `pattern` must match all of it; `allowed` says in words what is right."""
        if not isinstance(self.value, str) or self.null:
            raise self.error(f"must be text, not {self._kind()}")
        if len(self.value) > limit:
            raise self.error(f"must be at most {limit} characters long, not {len(self.value)}")
        if "\0" in self.value or not self.value.isprintable():
            raise self.error("must hold no control characters")
        if pattern is not None and re.fullmatch(pattern, self.value) is None:
            raise self.error(f"must be {allowed or f'of the form {pattern}'}, not {_shown(self.value)}")
        return self.value

    def integer(self, low: int = 0, high: int = 2**62) -> int:
        """A whole decimal number from `low` to `high`, both included."""
        text = self._plain_match(_INTEGER, f"a whole number from {low} to {high}")
        if not low <= int(text) <= high:
            raise self.error(f"must be a whole number from {low} to {high}, not {text}")
        return int(text)

    def number(self, low: float = 0.0, high: float = 1e15) -> float:
        """A decimal number from `low` to `high`, both included."""
        text = self._plain_match(_NUMBER, f"a number from {low:g} to {high:g}")
        if not low <= float(text) <= high:
            raise self.error(f"must be a number from {low:g} to {high:g}, not {text}")
        return float(text)

    def boolean(self) -> bool:
        """`true` or `false`, and none of YAML 1.1's other words for them."""
        return self._plain_match(_BOOLEAN, "true or false") == "true"

    def duration(self, low_ns: int = 0, high_ns: int = 366 * 86_400 * 10**9) -> int:
        """A duration with its unit (`250ms`, `2s`), in nanoseconds."""
        return self._measure(units.parse_duration, "a duration such as 50ms, 2s or 5m", low_ns, high_ns)

    def seconds(self, low: float = 0.0, high: float = 366 * 86_400.0) -> float:
        """A duration with its unit, in seconds."""
        return self.duration(round(low * 1e9), round(high * 1e9)) / 1e9

    def size(self, low: int = 0, high: int = 1 << 60) -> int:
        """A size with its unit (`64KiB`, `2GB`), in bytes."""
        return self._measure(units.parse_size, "a size such as 64KiB, 8MiB or 2GiB", low, high)

    def enum(self, words: type[E]) -> E:
        """One of the words of a StrEnum."""
        return words(self.choice([member.value for member in words]))

    def choice(self, words: Collection[str]) -> str:
        """One of `words`."""
        if not isinstance(self.value, str) or self.value not in words:
            shown = _shown(self.value) if isinstance(self.value, str) else self._kind()
            hint = _nearest(self.value, words) if isinstance(self.value, str) else ""
            raise self.error(f"must be one of {', '.join(words)}, not {shown}{hint}")
        return self.value

    def sequence(self, low: int = 0, high: int = 10_000) -> tuple[Node, ...]:
        """A list of `low` to `high` values."""
        if not isinstance(self.value, tuple):
            raise self.error(f"must be a list, not {self._kind()}")
        if not low <= len(self.value) <= high:
            wanted = f"at least {low}" if len(self.value) < low else f"at most {high}"
            raise self.error(f"must hold {wanted} values, not {len(self.value)}")
        return self.value

    def mapping(self, known: Collection[str], required: Collection[str] = ()) -> Mapping[str, Node]:
        """A mapping whose keys are all `known`, with all that are `required`. Names every unknown and missing key at once."""
        entries = self.entries()
        problems = [self._unknown(key, known) for key in entries if key not in known]
        missing = [key for key in required if key not in entries]
        if missing:
            keys = "key" if len(missing) == 1 else "keys"
            problems.append(Problem(self.source, self.line, self.column, self.key, f"needs the {keys} {', '.join(missing)}"))
        if problems:
            raise FormError(problems)
        return entries

    def entries(self, limit: int = 10_000) -> Mapping[str, Node]:
        """A mapping with free keys, at most `limit` of them."""
        if not isinstance(self.value, Mapping):
            raise self.error(f"must be a mapping (key: value), not {self._kind()}")
        if len(self.value) > limit:
            raise self.error(f"must hold at most {limit} keys, not {len(self.value)}")
        return self.value

    def _unknown(self, key: str, known: Collection[str]) -> Problem:
        line, column = (self.keys or {}).get(key, (self.line, self.column))
        hint = _nearest(key, known) or f"; known here: {', '.join(known)}"
        return Problem(self.source, line, column, _joined(self.key, key), f"unknown key{hint}")

    def _plain_match(self, pattern: re.Pattern[str], allowed: str) -> str:
        if not isinstance(self.value, str):
            raise self.error(f"must be {allowed}, not {self._kind()}")
        if self.null:
            raise self.error(f"must be {allowed}, not empty")
        if not self.plain or pattern.fullmatch(self.value) is None:
            quoted = "" if self.plain else " in quotes"
            raise self.error(f"must be {allowed}, not {_shown(self.value)}{quoted}")
        return self.value

    def _measure(self, parse: Callable[[str], int], allowed: str, low: int, high: int) -> int:
        if not isinstance(self.value, str) or self.null:
            raise self.error(f"must be {allowed}, not {self._kind()}")
        try:
            value = parse(self.value)
        except ValueError as error:
            raise self.error(str(error)) from error
        if not low <= value <= high:
            shown = units.format_duration if parse is units.parse_duration else units.format_size
            raise self.error(f"must be from {shown(low)} to {shown(high)}, not {_shown(self.value)}")
        return value

    def _kind(self) -> str:
        if isinstance(self.value, str):
            return "empty" if self.null else _shown(self.value)
        return "a list" if isinstance(self.value, tuple) else "a mapping"


def load(text: str, source: str) -> Node:
    """The one document of `text`; `source` names it in errors. Raises FormError."""
    if len(text) > MAX_TEXT:
        raise _whole(source, f"is {len(text)} characters long; at most {MAX_TEXT} are read")
    try:
        return _Builder(source, yaml.parse(text, Loader=_LOADER)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, column = (mark.line + 1, mark.column + 1) if mark else (0, 0)
        raise FormError([Problem(source, line, column, "", _not_yaml(text, error))]) from error
    except yaml.YAMLError as error:
        raise _whole(source, "is not YAML: it holds characters that YAML does not allow") from error


def _not_yaml(text: str, error: yaml.MarkedYAMLError) -> str:
    """What a person who knows no parsers would look for."""
    mark, begun = error.problem_mark, error.context_mark
    if mark is not None:
        line = "".join(text.split("\n")[mark.line : mark.line + 1])
        if "\t" in line[: len(line) - len(line.lstrip())]:
            return "is not YAML: the line is indented with a tab; indent with spaces"
    context = error.context
    if context and begun is not None and mark is not None and begun.line < mark.line:
        context += f" that begins in line {begun.line + 1}"
    return "is not YAML: " + ", ".join(part for part in (context, error.problem) if part)


def load_file(path: Path) -> Node:
    """The one document of a file in UTF-8. Raises FormError, also when it cannot be read."""
    source = str(path)
    try:
        with path.open("rb") as file:
            data = file.read(4 * MAX_TEXT + 1)
        return load(data.decode(), source)
    except OSError as error:
        raise _whole(source, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        column = error.start - error.object.rfind(b"\n", 0, error.start)
        raise FormError([Problem(source, line, column, "", "is not UTF-8 text")]) from error


class _Builder:
    """Events into nodes. Recursion is bounded by MAX_DEPTH."""

    def __init__(self, source: str, events: Iterator[yaml.Event]) -> None:
        self._source = source
        self._events = events
        self._nodes = 0

    def document(self) -> Node:
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                root = self._node(next(self._events), "", 0)
                self._only(root)
                return root
        return Node(self._source, 1, 1, "", "", plain=True)

    def _only(self, root: Node) -> None:
        for event in self._events:
            if isinstance(event, yaml.DocumentStartEvent):
                raise self._refused(event, root.key, "must be one document: remove what follows `---`")

    def _node(self, event: yaml.Event, key: str, depth: int) -> Node:
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise self._refused(event, key, f"holds more than {MAX_NODES} values")
        if depth > MAX_DEPTH:
            raise self._refused(event, key, f"is nested more than {MAX_DEPTH} deep")
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise self._refused(event, key, "anchors (&) and aliases (*) are not taken here: write the value out or quote it")
        if getattr(event, "tag", None) is not None:
            raise self._refused(event, key, "tags (!) are not taken here: write the value without, or put it in quotes")
        line, column = _place(event)
        if isinstance(event, yaml.ScalarEvent):
            return Node(self._source, line, column, key, event.value, plain=event.style in {None, ""})
        if isinstance(event, yaml.SequenceStartEvent):
            return Node(self._source, line, column, key, self._sequence(key, depth))
        entries, places = self._mapping(key, depth)
        return Node(self._source, line, column, key, entries, keys=places)

    def _sequence(self, key: str, depth: int) -> tuple[Node, ...]:
        values: list[Node] = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            values.append(self._node(event, f"{key}[{len(values)}]", depth + 1))
        return tuple(values)

    def _mapping(self, key: str, depth: int) -> tuple[dict[str, Node], dict[str, tuple[int, int]]]:
        entries: dict[str, Node] = {}
        places: dict[str, tuple[int, int]] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            name = self._node(event, key, depth + 1)
            if not isinstance(name.value, str) or name.null:
                raise name.error("a key must be text")
            if name.value in entries:
                first, _ = places[name.value]
                path = _joined(key, name.value)
                raise FormError(
                    [Problem(self._source, name.line, name.column, path, f"the key is given twice, first in line {first}")]
                )
            places[name.value] = (name.line, name.column)
            entries[name.value] = self._node(next(self._events), _joined(key, name.value), depth + 1)
        return entries, places

    def _refused(self, event: yaml.Event, key: str, message: str) -> FormError:
        line, column = _place(event)
        return FormError([Problem(self._source, line, column, key, message)])


def _place(event: yaml.Event) -> tuple[int, int]:
    mark = event.start_mark
    return (mark.line + 1, mark.column + 1) if mark else (1, 1)


def _whole(source: str, message: str) -> FormError:
    return FormError([Problem(source, 0, 0, "", message)])


def _joined(path: str, key: str) -> str:
    shown = key if re.fullmatch(r"[\w-]{1,64}", key) else _shown(key)
    return f"{path}.{shown}" if path else shown


def _nearest(word: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(word[:64], known, n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def _shown(value: str) -> str:
    return repr(value if len(value) <= 60 else value[:57] + "...")
