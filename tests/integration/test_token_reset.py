"""A lost operator's token: `edgecache token reset` on the state of an edge that is stopped, as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from demo.processes import started
from demo.stage import EDGE_READY
from edgecache.control.database.sqlite_state import SqliteState
from edgecache.control.records import Verb
from edgecache.control.settings import ControlSettings
from edgecache.control.tokens import Tokens

SERVE = ["-m", "edgecache", "serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--state"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in {"EDGECACHE_TOKEN", "EDGECACHE_URL"}}
    command = [sys.executable, "-m", "edgecache", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)


def test_a_lost_token_is_replaced_and_opens_nothing_any_more(tmp_path: Path) -> None:
    state = tmp_path / "state"
    file = state / "operator.token"
    with started("the edge", [*SERVE, str(state)], EDGE_READY, tmp_path / "log") as edge:
        url = ("--url", edge.ready[2])
        lost = file.read_text().strip()
        made = run("token", "create", "--operator", *url, "--token", lost)
        reader = run("token", "create", "--verbs", "read", *url, "--token", lost).stdout.strip()
        assert made.returncode == 0 and reader
    file.unlink()

    done = run("token", "reset", "--state", str(state))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"the operator's token is in {file}; 2 earlier ones are revoked\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.read_text().strip() != lost

    with started("the edge", [*SERVE, str(state)], EDGE_READY, tmp_path / "log") as edge:
        url = ("--url", edge.ready[2])
        assert "first start" not in (tmp_path / "log").read_text()
        assert run("token", "list", *url, "--state", str(state)).stdout.count("(operator)") == 1
        assert run("site", "add", "shop", "--host", "shop.test", *url, "--state", str(state)).returncode == 0
        for old in (lost, made.stdout.strip()):
            assert run("site", "list", *url, "--token", old).returncode == 1
        assert run("site", "list", *url, "--token", reader).returncode == 0


def test_it_refuses_while_an_edge_runs(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with started("the edge", [*SERVE, str(state)], EDGE_READY, tmp_path / "log") as edge:
        before = (state / "operator.token").read_text()
        done = run("token", "reset", "--state", str(state))
        assert (done.returncode, done.stdout) == (1, "")
        assert f"was not reset: an edge runs with {state}\n  What to do: stop it first" in done.stderr
        assert (state / "operator.token").read_text() == before
        assert run("token", "list", "--url", edge.ready[2], "--token", before.strip()).returncode == 0


async def test_a_full_table_has_room_for_the_operator(tmp_path: Path) -> None:
    """Even where every operator's token has expired, and so frees no place."""
    now = 1_000.0
    state = SqliteState(ControlSettings(state_dir=tmp_path, tokens=2))
    await state.open()
    tokens = Tokens(state, lambda: now)
    for _ in range(2):
        await tokens.create(site=None, verbs=frozenset({Verb.READ}), lifetime=None, note="")
    await state.close()
    assert run("token", "reset", "--state", str(tmp_path)).returncode == 0
    state = SqliteState(ControlSettings(state_dir=tmp_path))
    await state.open()
    assert sum(token.operator for token in await state.tokens()) == 1
    await state.close()


async def test_what_breaks_off_is_made_good(tmp_path: Path) -> None:
    """A disk that fills up between the two writes leaves no operator, and the next start or reset makes one."""
    state = SqliteState(ControlSettings(state_dir=tmp_path))
    await state.open()
    tokens = Tokens(state, lambda: 1_000.0)
    lost = (await tokens.create(site=None, verbs=frozenset(Verb), lifetime=None, note="")).text
    with pytest.raises(OSError, match="absent"):
        await tokens.reset_operator(tmp_path / "absent")
    assert tokens.authenticate(lost) is None
    path, revoked = await tokens.reset_operator(tmp_path)
    assert revoked == 0
    assert tokens.authenticate(path.read_text().strip()) is not None
    await state.close()


async def test_a_database_that_is_none_and_one_of_somebody_else_are_told(tmp_path: Path) -> None:
    database = tmp_path / "state.sqlite"
    database.write_bytes(b"no database" * 1000)
    done = run("token", "reset", "--state", str(tmp_path))
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "not a database" in done.stderr and not (tmp_path / "operator.token").exists()
    if os.geteuid() == 0:
        os.chown(database, 4242, 4242)
        done = run("token", "reset", "--state", str(tmp_path))
        assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
        assert "belongs to the user with number 4242" in done.stderr
