"""The command line: `edgecache`. Top of the stack; nothing imports it.

One module for each group of commands, imported when its command is asked for, so that `edgecache --help` answers at once.
Exit codes: 0 done, 1 failed, 2 usage.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

import click

from edgecache.cli.groups import check_known

_COMMANDS: Final[Mapping[str, tuple[str, str, str]]] = {
    "serve": ("edgecache.cli.serve", "serve", "Run an edge."),
    "check": ("edgecache.cli.serve", "check", "Check a configuration file."),
    "generator": ("edgecache.cli.generator", "generator", "Write, build, run, push and watch generators."),
    "site": ("edgecache.cli.sites", "site", "Add, list, change and remove sites."),
    "cluster": ("edgecache.cli.clusters", "cluster", "Divide the CPU between groups of sites."),
    "token": ("edgecache.cli.tokens", "token", "Create, list and revoke tokens; reset the operator's."),
    "purge": ("edgecache.cli.purge", "purge", "Remove from the cache, or mark stale."),
    "status": ("edgecache.cli.status", "status", "Show what the edge is and does."),
    "top": ("edgecache.cli.top", "top", "Watch the edge, live."),
}
"""Name of each command: its module, its object there, its line in the help."""


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, name, _ = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), name)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module}.{name} is no command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in _COMMANDS.items()])

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        # The base class compares the name with loaded commands; ours need not be loaded to be suggested.
        if args and not args[0].startswith("-"):
            check_known(ctx, args[0], _COMMANDS)
        return super().resolve_command(ctx, args)


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(None, "--version", package_name="edgecache", prog_name="edgecache", message="%(prog)s %(version)s")
def cli() -> None:
    """A content-delivery edge cache that runs its origins' own code.

    Clients read EDGECACHE_URL (default http://127.0.0.1:8081) and EDGECACHE_TOKEN.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. A user never sees a traceback, unless EDGECACHE_DEBUG is set."""
    try:
        result = cli.main(args=None if arguments is None else list(arguments), prog_name="edgecache", standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.Abort:
        unanswered = sys.stdin is None or not sys.stdin.isatty()
        click.echo("edgecache: " + ("nobody was there to say yes: give --yes" if unanswered else "interrupted"), err=True)
        return 1
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has left.
        _drop_output()
        return 1
    except Exception as error:
        if os.environ.get("EDGECACHE_DEBUG"):
            raise
        click.echo(_told(error), err=True)
        if isinstance(error, OSError) and error.filename is None:
            _drop_output()
        return 1
    return result if isinstance(result, int) else 0


def _drop_output() -> None:
    """What could not be written Python would try to write once more at exit, and end with a status of its own, 120."""
    if sys.stdout is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _told(error: Exception) -> str:
    """What the machine refuses (a file, a full disk) is no mistake of the program; all else that comes so far is."""
    if isinstance(error, OSError) and error.strerror:
        if not isinstance(error.filename, str | bytes):
            return f"edgecache: {error.strerror}"
        advice = "see that it is there, and that this user may use it"
        return f"edgecache: {os.fsdecode(error.filename)}: {error.strerror}\n  What to do: {advice}"
    return (
        f"edgecache: internal error: {type(error).__name__}: {error}\n"
        "  This is a bug. Set EDGECACHE_DEBUG=1 to see where it happened, and report it."
    )
