"""Tokens: made, shown once, kept as SHA-256, found by their public part, compared in constant time.

Held in memory besides `state`, so that a broken database does not lock the operator out. No secret is logged or in an exception.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edgecache.control.durable import write_durably
from edgecache.control.records import Token, Verb
from edgecache.control.state import State

OPERATOR_FILE: Final = "operator.token"
_FORM: Final = re.compile(r"ec_(?P<id>[0-9a-f]{12})_(?P<secret>[A-Za-z0-9_-]{43})")
_SECRET_BYTES: Final = 32
_ID_BYTES: Final = 6
_NOBODY: Final = hashlib.sha256(secrets.token_bytes(_SECRET_BYTES)).digest()
"""Compared with where there is no such token, so that both cases take the same time."""


@dataclass(frozen=True, slots=True)
class Minted:
    """A new token: what is kept, and the text that is shown once."""

    token: Token
    text: str

    def __repr__(self) -> str:
        return f"Minted({self.token.id})"


def mint(*, site: str | None, verbs: frozenset[Verb], now: float, expires: float | None = None, note: str = "") -> Minted:
    """A token of 256 random bits. `site` None: the operator's, or with `READER` one that reads every site."""
    token_id = secrets.token_hex(_ID_BYTES)
    text = f"ec_{token_id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
    token = Token(id=token_id, sha256=_sha256(text), site=site, verbs=verbs, created=now, expires=expires, note=note)
    return Minted(token, text)


class Tokens:
    """All tokens of this edge."""

    def __init__(self, state: State, now: Callable[[], float]) -> None:
        self._state = state
        self._now = now
        self._by_id: dict[str, Token] = {}
        self.loaded = False
        """Whether the tokens of state are known. Until then nobody is."""

    async def load(self) -> None:
        """Raises StateError."""
        self._by_id = {token.id: token for token in await self._state.tokens()}
        self.loaded = True

    def authenticate(self, text: str) -> Token | None:
        """The valid token that `text` is; None for any other text."""
        form = _FORM.fullmatch(text)
        token = self._by_id.get(form["id"]) if form else None
        same = hmac.compare_digest(token.sha256 if token else _NOBODY, _sha256(text))
        return token if token is not None and same and not token.expired(self._now()) else None

    async def create(self, *, site: str | None, verbs: frozenset[Verb], lifetime: float | None, note: str) -> Minted:
        """`lifetime` in seconds. Tokens that have expired are removed: those with short lives must not fill the room for good.

        Raises Missing where there is no such site, TooMany, StateError.
        """
        now = self._now()
        minted = mint(site=site, verbs=verbs, now=now, expires=None if lifetime is None else now + lifetime, note=note)
        await self._state.add_token(minted.token)
        valid = [token for token in self._by_id.values() if not token.expired(now)]
        self._by_id = {token.id: token for token in (*valid, minted.token)}
        return minted

    async def revoke(self, token_id: str) -> None:
        """Raises Missing, StateError."""
        await self._state.remove_token(token_id)
        self._by_id.pop(token_id, None)

    def forget_site(self, site: str) -> None:
        """Its tokens went from `state` with the site."""
        self._by_id = {token.id: token for token in self._by_id.values() if token.site != site}

    def listed(self, site: str | None = None) -> tuple[Token, ...]:
        """All, or one site's; oldest first."""
        return tuple(token for token in self._by_id.values() if site is None or token.site == site)

    async def ensure_operator(self, directory: Path) -> Path | None:
        """At first start write the operator's token to `directory`, mode 0600; its path, or None where there was one.

        Raises OSError, StateError, TooMany.
        """
        if any(token.operator and not token.expired(self._now()) for token in self._by_id.values()):
            return None
        return await self._write_operator(directory, "written at first start")

    async def reset_operator(self, directory: Path) -> tuple[Path, int]:
        """Revoke every operator's token and write a new one as `ensure_operator` does; its path, and how many were revoked.

        They go first: what breaks off then leaves no operator, and `ensure_operator` makes one. Raises as that does.
        """
        old = [token.id for token in self._by_id.values() if token.operator]
        for token_id in old:
            await self.revoke(token_id)
        return await self._write_operator(directory, "written by a reset"), len(old)

    async def _write_operator(self, directory: Path, note: str) -> Path:
        """The file comes first: a crash between the two leaves a file that the next start replaces."""
        minted = mint(site=None, verbs=frozenset(Verb), now=self._now(), note=note)
        path = directory / OPERATOR_FILE
        write_durably(path, [minted.text.encode() + b"\n"], mode=0o600)
        await self._state.add_token(minted.token)
        self._by_id[minted.token.id] = minted.token
        return path


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
