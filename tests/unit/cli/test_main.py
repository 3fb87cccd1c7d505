"""The command line as a whole: help, exit codes, and no traceback, ever."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edgecache import cli
from tests.unit.cli.conftest import Run

COMMANDS = ["serve", "check", "generator", "site", "token", "purge", "status", "top"]
SUBCOMMANDS = {
    "generator": ["init", "build", "run", "push", "list", "show", "promote", "rollback", "logs", "remove"],
    "site": ["add", "list", "show", "set", "remove"],
    "token": ["create", "list", "revoke"],
}


def test_help_names_every_command(run: Run) -> None:
    result = run("--help")
    assert result.code == 0
    assert all(f"  {name} " in result.out for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run: Run, command: str) -> None:
    result = run(command, "--help")
    assert result.code == 0
    assert all(f"  {name} " in result.out for name in SUBCOMMANDS.get(command, []))


def test_an_unknown_command_is_a_usage_error_that_names_the_known(run: Run) -> None:
    result = run("sevre")
    assert result.code == 2
    assert "no such command 'sevre'" in result.err
    assert "serve" in result.err


def test_an_unknown_option_is_a_usage_error(run: Run) -> None:
    assert run("status", "--nonsense").code == 2


def test_help_loads_neither_server_nor_sandbox() -> None:
    loaded = "bool({'aiohttp', 'yaml', 'unicorn', 'rich'} & set(sys.modules))"
    code = f"import sys\nfrom edgecache.cli import main\nmain(['--help'])\nsys.exit({loaded})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def test_a_bug_is_told_without_a_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "_COMMANDS", {"status": ("edgecache.cli.absent", "status", "")})
    result = run("status")
    assert result.code == 1
    assert result.err.startswith("edgecache: internal error: ModuleNotFoundError")


def test_python_dash_m_is_the_same_command() -> None:
    done = subprocess.run([sys.executable, "-m", "edgecache", "--version"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("edgecache ")


def test_a_reader_that_leaves_is_no_error_worth_a_word() -> None:
    pipeline = f"'{sys.executable}' -m edgecache --help | true"
    done = subprocess.run(["sh", "-c", pipeline], capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        (("statis",), "no such command 'statis'; did you mean status? there are: serve, check,"),
        (("generator", "versions"), "no such command 'versions'; there are: build, init,"),
        (("token", "lst"), "no such command 'lst'; did you mean list? there are: create, list, reset, revoke"),
    ],
)
def test_an_unknown_command_is_answered_with_those_that_there_are(run: Run, asked: tuple[str, ...], told: str) -> None:
    result = run(*asked)
    assert result.code == 2
    assert told in result.err


def test_the_list_of_commands_has_whole_sentences(run: Run) -> None:
    for group in ("generator", "site", "cluster", "token"):
        said = " ".join(run(group, "--help").out.split())
        assert "..." not in said.partition("Commands:")[2]
    assert "Compile the C and C++ sources in the bundle's directory PATH (default: this one) to its program." in " ".join(
        run("generator", "--help").out.split()
    )
