"""What a command says when it fails: what was wrong, where, and what to do.

Exit code 1: it was asked for rightly, and failed; so do files that are not there or hold what is wrong. Exit code 2: what was
typed cannot be right, which click finds, or `WrongUse` says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import IO, Any

import click


class CommandFailed(click.ClickException):
    """A failure told in one to a few lines. `where` and `advice` may be empty; `lines` are single mistakes, one a line."""

    def __init__(self, what: str, *, where: str = "", advice: str = "", lines: tuple[str, ...] = ()) -> None:
        super().__init__(what)
        self.where = where
        self.advice = advice
        self.lines = lines

    def format_message(self) -> str:
        place = f" ({self.where})" if self.where and self.where not in self.message else ""
        told = [f"{self.message}{place}", *(f"  {line}" for line in self.lines)]
        if self.advice:
            told.append(f"  What to do: {self.advice}")
        return "\n".join(told)

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(f"edgecache: {self.format_message()}", file=file, err=file is None)


class WrongUse(CommandFailed):
    """As CommandFailed, where an option's or an argument's value is at fault, whatever else is so."""

    exit_code = 2


@contextlib.contextmanager
def from_form(what: str = "the configuration cannot be used", kind: type[CommandFailed] = CommandFailed) -> Iterator[None]:
    """Tell a FormError's mistakes, one a line with file, line and column, as CommandFailed or another `kind`."""
    from edgecache.yamlform import FormError  # noqa: PLC0415 (brings YAML, which few commands need)

    try:
        yield
    except FormError as error:
        raise kind(what, lines=tuple(str(problem) for problem in error.problems)) from error
