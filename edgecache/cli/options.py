"""Options that many commands share: which edge to talk to, with which token, and whether a script reads the answer."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import click
from click.core import ParameterSource

from edgecache.cli.client import DEFAULT_URL, ControlClient, is_loopback_url
from edgecache.cli.errors import CommandFailed

P = ParamSpec("P")
R = TypeVar("R")

TOKEN_FILE = "operator.token"  # noqa: S105 (a file's name)


class Filled(click.types.StringParamType):
    """Text of UTF-8, but not none: a shell's variable that is not set must not widen what a command is about."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(super().convert(value, param, ctx))
        if not text.strip():
            self.fail("it is empty: a variable of the shell that is not set?", param, ctx)
        if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
            self.fail("it is not UTF-8", param, ctx)
        return text


class FilledPath(click.Path):
    """A path, but not none: `--state "$STATE"` of a variable that is not set must not mean the directory one happens to be in.

    What may not be read is the command's to tell: it was typed rightly.
    """

    def __init__(self, *, allow_dash: bool = False) -> None:
        super().__init__(readable=False, allow_dash=allow_dash, path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not os.fspath(value):
            self.fail("it is empty: a variable of the shell that is not set?", param, ctx)
        return super().convert(value, param, ctx)


class WholeNumber(click.IntRange):
    """A range of integers that usage and errors call a whole number."""

    name = "whole number"

    def get_metavar(self, param: click.Parameter, ctx: click.Context | None = None) -> str:
        return "N" if isinstance(param, click.Option) else (param.name or "n").upper()


FILLED = Filled()
FILLED_PATH = FilledPath()


def with_client(command: Callable[Concatenate[ControlClient, P], R]) -> Callable[..., R]:
    """Add --url, --token and --state; pass the client as first argument."""

    @click.option(
        "--url", envvar="EDGECACHE_URL", default=DEFAULT_URL, show_default=True, help="Control API  [env: EDGECACHE_URL]"
    )
    @click.option("--token", envvar="EDGECACHE_TOKEN", help="Token to show  [env: EDGECACHE_TOKEN]")
    @click.option(
        "--state",
        type=FILLED_PATH,
        help="The edge's state directory: take the operator's token from there  [default: .edgecache, for an edge on loopback]",
    )
    @functools.wraps(command)
    def wrapper(*args: Any, url: str, token: str | None, state: Path | None, **kwargs: Any) -> R:
        shown, source = _token(token, state, url)
        return command(ControlClient(url.rstrip("/"), shown, source), *args, **kwargs)

    return wrapper


def _token(token: str | None, state: Path | None, url: str) -> tuple[str | None, str]:
    """The token to show, and where it is from. What was typed goes before the environment, and both before this directory's."""
    from_environment = click.get_current_context().get_parameter_source("token") is ParameterSource.ENVIRONMENT
    if token and not (from_environment and state):
        return token.strip(), "EDGECACHE_TOKEN" if from_environment else "--token"
    directory = state or _state_here(url)
    return _operator_token(directory), str(directory / TOKEN_FILE) if directory else ""


def _state_here(url: str) -> Path | None:
    """What `edgecache serve` made in this directory; its token is for an edge on this machine and no other."""
    from edgecache.config import DEFAULT_STATE  # noqa: PLC0415 (slow to import: `edgecache --help` must not wait)

    if not is_loopback_url(url):
        return None
    try:
        (DEFAULT_STATE / TOKEN_FILE).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:
        pass  # Another user's: whoever reads it says so.
    return DEFAULT_STATE


def _operator_token(state: Path | None) -> str | None:
    if state is None:
        return None
    path = state / TOKEN_FILE
    try:
        text = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise CommandFailed(
            f"cannot read the operator's token from {path}: {reason}",
            advice="name the directory that `edgecache serve --state` was given, as the same user;"
            " `edgecache token reset` replaces a lost token",
        ) from error
    return text or None


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts")
site_option = click.option("--site", type=FILLED, required=True, metavar="SITE", help="The site that owns it")


def print_json(document: object) -> None:
    click.echo(json.dumps(document, indent=2, ensure_ascii=False))
