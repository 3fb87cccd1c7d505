"""generator.yaml: what a bundle says about itself, read into a frozen Manifest. No I/O: the bundle's files are given.

`deploy` calls it at push, and keeps the Manifest; what is read here was written by a stranger.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from edgecache.control import words
from edgecache.control.bundle.bundles import Bundle
from edgecache.policy.rule import CacheRule
from edgecache.sites import OnError
from edgecache.yamlform import FormError, Node, Problem, Problems, load
from sandbox import DEFAULT_LIMITS, Convention, Limits, Program

T = TypeVar("T")
_NONE: Final[tuple[str, ...]] = ()

FILE_NAME: Final = "generator.yaml"
NAME: Final = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
NAME_WORDS: Final = "1 to 63 of a-z, 0-9 and -, neither first nor last a -"

_KEYS: Final = ("name", "program", "args", "convention", "routes", "files", "env", "limits", "cache", "on_error", "sample")
_REQUIRED: Final = ("name", "program", "convention", "routes")
_MAX_MANIFEST: Final = 64 * 1024
_MAX_ROUTES: Final = 64
_MAX_ARGS: Final = 64
_MAX_ENV: Final = 64
_ROUTE: Final = r"/[!$%&'()*+,\-./0-9:;=@A-Z_a-z~]{0,255}"
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_REQUEST_VARIABLE: Final = re.compile(
    "AUTH_TYPE|CONTENT_.*|GATEWAY_INTERFACE|HTTP_.*|PATH_(INFO|TRANSLATED)|QUERY_STRING|REMOTE_.*|REQUEST_.*|SCGI|SCRIPT_NAME|SERVER_.*"
)
"""Set from the request (RFC 3875 section 4.1): a manifest that sets them would be shadowed or would shadow them."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The request a pushed version is tried on."""

    path: str
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """generator.yaml with everything that was left out filled in."""

    name: str
    program: str
    convention: Convention
    routes: tuple[str, ...]
    limits: Limits
    sample: Sample
    args: tuple[str, ...] = ()
    files: tuple[str, ...] = ("**",)
    env: tuple[tuple[str, str], ...] = ()
    rule: CacheRule = field(default_factory=CacheRule)
    on_error: tuple[OnError, ...] = tuple(OnError)

    def program_of(self, bundle: Bundle) -> Program:
        """What the sandbox is to run. The bundle is the one this manifest came from."""
        image = bundle.content(self.program)
        if image is None:
            raise ValueError(f"{self.program} is not in the bundle")
        files = tuple((path, content) for path, content in bundle.files if any(matches(path, glob) for glob in self.files))
        return Program(image, self.convention, self.program, self.args, self.env, files)

    def shown(self) -> dict[str, object]:
        """As the API prints it, in the manifest's own words."""
        return {
            "name": self.name,
            "program": self.program,
            "args": list(self.args),
            "convention": str(self.convention),
            "routes": list(self.routes),
            "files": list(self.files),
            "env": dict(self.env),
            "limits": words.show_limits(self.limits),
            "cache": words.show_rule(self.rule),
            "on_error": [str(word) for word in self.on_error],
            "sample": {"path": self.sample.path, "headers": dict(self.sample.headers)},
        }


def read_manifest(bundle: Bundle, ceiling: Limits) -> Manifest:
    """The manifest at the bundle's root. Raises FormError with every mistake.

    Limits that it does not name are the defaults, lowered to `ceiling`; limits that it names may be above: the caller decides.
    """
    text = _text(bundle)
    root = load(text, FILE_NAME)
    problems = Problems()
    form = problems.attempt(lambda: root.mapping(_KEYS, _REQUIRED), root.entries())

    def take(key: str, read: Callable[[Node], T], fallback: T) -> T:
        node = form.get(key)
        return fallback if node is None else problems.attempt(lambda: read(node), fallback)

    routes: tuple[str, ...] = take("routes", _routes, _NONE)
    manifest = Manifest(
        name=take("name", lambda node: node.text(pattern=NAME, allowed=NAME_WORDS), ""),
        program=take("program", lambda node: _program(node, bundle), ""),
        convention=take("convention", lambda node: node.enum(Convention), Convention.CGI),
        routes=routes,
        limits=take("limits", lambda node: words.read_limits(node, _defaults(ceiling)), _defaults(ceiling)),
        sample=take("sample", _sample, Sample(_literal_prefix(routes))),
        args=take("args", lambda node: _texts(node, _MAX_ARGS), _NONE),
        files=take("files", lambda node: _globs(node, bundle), ("**",)),
        env=take("env", _env, ()),
        rule=take("cache", lambda node: words.read_rule(node, CacheRule()), CacheRule()),
        on_error=take("on_error", _on_error, tuple(OnError)),
    )
    problems.raise_any()
    return manifest


def matches(path: str, glob: str) -> bool:
    """Whether `path` is matched: `*` and `?` within one part, `**` as a part for any number of parts."""
    return _matches(path.split("/"), glob.split("/"))


def _matches(path: Sequence[str], glob: Sequence[str]) -> bool:
    """Row by row, so that no pattern costs more than parts times parts."""
    reached = [True] + [False] * len(path)
    for part in glob:
        if part == "**":
            first = next((i for i, here in enumerate(reached) if here), len(reached))
            reached = [i >= first for i in range(len(reached))]
        else:
            reached = [False] + [reached[i] and fnmatch.fnmatchcase(path[i], part) for i in range(len(path))]
    return reached[-1]


def _text(bundle: Bundle) -> str:
    data = bundle.content(FILE_NAME)
    if data is None:
        shown = ", ".join(bundle.paths[:5])
        raise _whole(f"is not at the root of the bundle, which holds {shown}; pack the directory's contents, not the directory")
    if len(data) > _MAX_MANIFEST:
        raise _whole(f"is {len(data)} bytes long; at most {_MAX_MANIFEST} are read")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise _whole("is not UTF-8 text") from error


def _whole(message: str) -> FormError:
    return FormError([Problem(FILE_NAME, 0, 0, "", message)])


def _defaults(ceiling: Limits) -> Limits:
    return words.within(DEFAULT_LIMITS, ceiling)


def _program(node: Node, bundle: Bundle) -> str:
    path = node.text(limit=255).removeprefix("./")
    if bundle.content(path) is None:
        raise node.error(f"{path!r} is not in the bundle; build it first, or correct the path")
    return path


def _routes(node: Node) -> tuple[str, ...]:
    allowed = "a path that begins with / and may hold * for any run of characters; ? [ ] and # are not taken"
    found = tuple(item.text(pattern=_ROUTE, allowed=allowed) for item in node.sequence(1, _MAX_ROUTES))
    for item, route in zip(node.sequence(), found, strict=True):
        if found.count(route) > 1:
            raise item.error(f"{route!r} is given twice")
        if route.count("*") > 8:
            raise item.error("at most 8 * are taken in one route")
    return found


def _texts(node: Node, limit: int) -> tuple[str, ...]:
    return tuple(item.text() for item in node.sequence(0, limit))


def _globs(node: Node, bundle: Bundle) -> tuple[str, ...]:
    globs = tuple(item.text(limit=255).removeprefix("./") for item in node.sequence(0, _MAX_ROUTES))
    for item, glob in zip(node.sequence(), globs, strict=True):
        if not any(matches(path, glob) for path in bundle.paths):
            raise item.error(f"{glob!r} matches no file of the bundle")
    return globs


def _env(node: Node) -> tuple[tuple[str, str], ...]:
    for name, value in node.entries(_MAX_ENV).items():
        if not _ENV_NAME.fullmatch(name):
            raise value.error("is not a variable's name: letters, digits and _, not first a digit")
        if _REQUEST_VARIABLE.fullmatch(name):
            raise value.error("is set from each request; choose another name")
    return tuple((name, value.text()) for name, value in node.entries().items())


def _on_error(node: Node) -> tuple[OnError, ...]:
    found = tuple(item.enum(OnError) for item in node.sequence(1, len(OnError)))
    if len(set(found)) < len(found):
        raise node.error("names a word twice")
    return found


def _sample(node: Node) -> Sample:
    form = node.mapping(("path", "headers"), ("path",))
    path = form["path"].text(pattern=r"/[!-~]{0,2047}", allowed="a path that begins with /, with or without a query")
    fields = form["headers"].entries(32) if "headers" in form else {}
    for name, value in fields.items():
        if not re.fullmatch(words.FIELD_NAME, name):
            raise value.error("is not a header field's name")
    return Sample(path, tuple((name, value.text()) for name, value in fields.items()))


def _literal_prefix(routes: tuple[str, ...]) -> str:
    """The first route up to its first `*`."""
    return routes[0].partition("*")[0] if routes else "/"
