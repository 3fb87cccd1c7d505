"""A new operator's token, where the old one was lost, in the state of an edge that is stopped. `cli.tokens` calls it."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from edgecache.control.database.sqlite_state import DATABASE, SqliteState
from edgecache.control.settings import ControlSettings
from edgecache.control.state import Failure, StateError
from edgecache.control.tokens import Tokens


async def reset_operator(directory: Path) -> tuple[Path, int]:
    """Revoke every operator's token in the state `directory` and write a new one there; its path, and how many were revoked.

    A reset that breaks off is made good by the next one, or by the edge's next start. Raises StateError (no state there,
    somebody else's, an edge runs with it), OSError (the file cannot be written).
    """
    _check(directory / DATABASE)
    # However many tokens there are, the operator's must fit.
    state = SqliteState(ControlSettings(state_dir=directory, tokens=sys.maxsize))
    try:
        await state.open()
        tokens = Tokens(state, time.time)
        await tokens.load()
        return await tokens.reset_operator(directory)
    finally:
        await state.close()


def _check(database: Path) -> None:
    """A mistyped directory must not become a new state, nor the edge's files another user's. Raises StateError."""
    try:
        owner = database.stat().st_uid
    except OSError as error:
        detail = f"{database.parent} is no edge's state directory: {DATABASE}: {error.strerror}"
        raise StateError(Failure.UNAVAILABLE, detail) from error
    if owner != os.geteuid():
        detail = f"{database} belongs to the user with number {owner}, and this is {os.geteuid()}: do it as that user"
        raise StateError(Failure.UNAVAILABLE, detail)
