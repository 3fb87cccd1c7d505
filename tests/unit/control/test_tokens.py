"""Tokens: shown once, kept hashed, valid until revoked or expired, and the operator's written for its owner's eyes alone."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from edgecache.control.database.sqlite_state import DATABASE, SqliteState
from edgecache.control.records import Verb
from edgecache.control.settings import ControlSettings
from edgecache.control.state import Missing, TooMany
from edgecache.control.tokens import Tokens, mint


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def state(tmp_path: Path) -> AsyncIterator[SqliteState]:
    opened = SqliteState(ControlSettings(state_dir=tmp_path))
    await opened.open()
    await opened.declare(["shop"])
    yield opened
    await opened.close()


async def test_a_token_is_found_again_also_after_a_restart(state: SqliteState) -> None:
    tokens = Tokens(state, Clock())
    made = await tokens.create(site="shop", verbs=frozenset({Verb.PUSH}), lifetime=None, note="ci")
    assert tokens.authenticate(made.text) == made.token
    restarted = Tokens(state, Clock())
    await restarted.load()
    assert restarted.authenticate(made.text) == made.token


async def test_the_secret_is_kept_nowhere(state: SqliteState, tmp_path: Path) -> None:
    made = await Tokens(state, Clock()).create(site="shop", verbs=frozenset({Verb.PUSH}), lifetime=None, note="")
    secret = made.text.rpartition("_")[2] if made.text.count("_") == 2 else made.text[16:]
    await state.close()
    for path in tmp_path.iterdir():
        assert secret.encode() not in path.read_bytes()
    assert secret not in repr(made) + repr(made.token)
    assert (tmp_path / DATABASE).stat().st_mode & 0o077 == 0


async def test_any_other_text_is_nobody(state: SqliteState) -> None:
    tokens = Tokens(state, Clock())
    made = await tokens.create(site="shop", verbs=frozenset({Verb.PUSH}), lifetime=None, note="")
    other = mint(site=None, verbs=frozenset(), now=0.0)
    swapped = f"ec_{made.token.id}_{other.text[16:]}"
    for text in ("", "x", made.text[:-1], made.text + "x", other.text, swapped, made.text.upper(), "ec_" + "\udcff"):
        assert tokens.authenticate(text) is None


async def test_a_token_ends_when_it_expires(state: SqliteState) -> None:
    clock = Clock()
    tokens = Tokens(state, clock)
    made = await tokens.create(site="shop", verbs=frozenset({Verb.PUSH}), lifetime=10.0, note="")
    clock.now += 9.9
    assert tokens.authenticate(made.text)
    clock.now += 0.1
    assert tokens.authenticate(made.text) is None


async def test_tokens_that_have_expired_leave_room_for_others(tmp_path: Path) -> None:
    clock = Clock()
    state = SqliteState(ControlSettings(state_dir=tmp_path, tokens=2))
    await state.open()
    try:
        tokens = Tokens(state, clock)
        for_ever = await tokens.create(site=None, verbs=frozenset({Verb.READ}), lifetime=None, note="")
        for _ in range(5):
            brief = await tokens.create(site=None, verbs=frozenset({Verb.READ}), lifetime=10.0, note="")
            with pytest.raises(TooMany):
                await tokens.create(site=None, verbs=frozenset({Verb.READ}), lifetime=10.0, note="")
            assert set(tokens.listed()) == {for_ever.token, brief.token} == set(await state.tokens())
            clock.now += 10.0
        assert tokens.authenticate(for_ever.text)
    finally:
        await state.close()


async def test_a_revoked_token_ends_at_once(state: SqliteState) -> None:
    tokens = Tokens(state, Clock())
    made = await tokens.create(site="shop", verbs=frozenset({Verb.PUSH}), lifetime=None, note="")
    await tokens.revoke(made.token.id)
    assert tokens.authenticate(made.text) is None
    with pytest.raises(Missing):
        await tokens.revoke(made.token.id)


async def test_the_operators_token_is_written_once_for_its_owner_alone(state: SqliteState, tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        tokens = Tokens(state, Clock())
        path = await tokens.ensure_operator(tmp_path)
    finally:
        os.umask(previous)
    assert path is not None
    assert path.stat().st_mode & 0o777 == 0o600
    token = tokens.authenticate(path.read_text().strip())
    assert token is not None
    assert token.operator
    assert await tokens.ensure_operator(tmp_path) is None
    assert not list(tmp_path.glob(".operator*"))


async def test_a_start_that_broke_off_is_made_good(state: SqliteState, tmp_path: Path) -> None:
    (tmp_path / "operator.token").write_text("a token that was never stored")
    tokens = Tokens(state, Clock())
    path = await tokens.ensure_operator(tmp_path)
    assert path is not None
    assert tokens.authenticate(path.read_text().strip())


async def test_a_link_in_its_place_is_replaced_and_not_followed(state: SqliteState, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("untouched")
    (tmp_path / "operator.token").symlink_to(elsewhere)
    await Tokens(state, Clock()).ensure_operator(tmp_path)
    assert elsewhere.read_text() == "untouched"
    assert not (tmp_path / "operator.token").is_symlink()
