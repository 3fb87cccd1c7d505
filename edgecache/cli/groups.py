"""Groups of commands: an unknown one is answered with those that there are, and their list has whole sentences."""

from __future__ import annotations

import difflib
from collections.abc import Collection

import click


class CommandGroup(click.Group):
    """A group that names its commands where an unknown one is asked for, and lists them with whole sentences."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-"):
            check_known(ctx, args[0], self.list_commands(ctx))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        named = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(1000)) for name, command in named if command is not None])


def check_known(ctx: click.Context, name: str, known: Collection[str]) -> None:
    """Raises click.UsageError unless `name` is one of them."""
    if name in known:
        return
    close = difflib.get_close_matches(name, list(known), n=1)
    meant = f"; did you mean {close[0]}?" if close else ";"
    ctx.fail(f"no such command {name!r}{meant} there are: {', '.join(known)}")
