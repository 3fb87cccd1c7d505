"""State in one SQLite file: write-ahead log, a full sync a commit, every statement on one thread apart from the event loop.

Implements `state.State`. What it returned from is durable, also when the process is killed (https://sqlite.org/wal.html,
PRAGMA synchronous=FULL).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final, TypeVar

import msgspec

from edgecache.control.database import rows
from edgecache.control.database.schema import NewerSchema, migrate
from edgecache.control.records import Draft, Generator, Split, Token, Verified, Version
from edgecache.control.settings import ControlSettings
from edgecache.control.state import Failure, Missing, StateError
from edgecache.sites import Cluster, Site

T = TypeVar("T")

_BUSY_MS: Final = 5_000
_MAX_WAITING: Final = 1_000
"""Calls that wait for the thread; guests' stored values come through here too."""
_LEAST_FREE_BYTES: Final = 1 << 20
_FAILURES: Final = {
    sqlite3.SQLITE_FULL: Failure.FULL,
    sqlite3.SQLITE_READONLY: Failure.READ_ONLY,
    sqlite3.SQLITE_PERM: Failure.READ_ONLY,
    sqlite3.SQLITE_CORRUPT: Failure.CORRUPT,
    sqlite3.SQLITE_NOTADB: Failure.CORRUPT,
    sqlite3.SQLITE_BUSY: Failure.BUSY,
    sqlite3.SQLITE_LOCKED: Failure.BUSY,
}
DATABASE: Final = "state.sqlite"


class SqliteState:
    """`State` in `settings.state_dir`, which one edge at a time may use."""

    def __init__(self, settings: ControlSettings) -> None:
        self._settings = settings
        self._path = settings.state_dir / DATABASE
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="edgecache-state")
        self._waiting = 0
        self._connection: sqlite3.Connection | None = None
        self._lock: int | None = None
        self._closed = False

    async def open(self) -> None:
        """Make or migrate the database. Raises StateError."""
        await self._run(self._open)

    async def give_away(self) -> None:
        """Let another edge open this state. From here on only guests' stored values may be written, which SQLite orders."""
        await self._run(self._unlock)

    async def take_back(self) -> None:
        """After `give_away`. Raises StateError where another edge has it."""
        await self._run(self._lock_again)

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown()

    async def check(self) -> None:
        await self._write(lambda c: self._room())

    async def sites(self) -> tuple[Site, ...]:
        return await self._read(rows.all_sites)

    async def declare(self, names: Iterable[str]) -> None:
        given = [(name,) for name in names]
        await self._write(lambda c: c.executemany("INSERT INTO sites (name) VALUES (?) ON CONFLICT DO NOTHING", given))

    async def put_site(self, site: Site, *, new: bool) -> None:
        definition = msgspec.json.encode(replace(site, generators=(), from_config=False))
        await self._write(lambda c: rows.put_site(c, site.name, definition, new=new, limit=self._settings.sites))

    async def remove_site(self, name: str) -> None:
        await self._write(lambda c: rows.changed(c.execute("DELETE FROM sites WHERE name = ?", (name,))))

    async def clusters(self) -> tuple[Cluster, ...]:
        return await self._read(rows.all_clusters)

    async def put_cluster(self, cluster: Cluster) -> None:
        await self._write(lambda c: rows.put_cluster(c, cluster, self._settings.clusters))

    async def remove_cluster(self, name: str) -> None:
        await self._write(lambda c: rows.changed(c.execute("DELETE FROM clusters WHERE name = ?", (name,))))

    async def tokens(self) -> tuple[Token, ...]:
        return await self._read(rows.all_tokens)

    async def add_token(self, token: Token) -> None:
        await self._write(lambda c: rows.add_token(c, token, self._settings.tokens))

    async def remove_token(self, token_id: str) -> None:
        await self._write(lambda c: rows.changed(c.execute("DELETE FROM tokens WHERE id = ?", (token_id,))))

    async def generators(self, site: str) -> tuple[Generator, ...]:
        return await self._read(lambda c: rows.generators(c, site))

    async def serving(self, site: str) -> tuple[tuple[Generator, tuple[Version, ...]], ...]:
        return await self._read(lambda c: rows.serving(c, site))

    async def generator(self, site: str, name: str) -> Generator | None:
        found = await self._read(lambda c: rows.generators(c, site, name))
        return found[0] if found else None

    async def versions(self, site: str, generator: str) -> tuple[Version, ...]:
        return await self._read(lambda c: rows.versions(c, site, generator))

    async def version(self, site: str, generator: str, version: int) -> Version | None:
        found = await self._read(lambda c: rows.versions(c, site, generator, version))
        return found[0] if found else None

    async def add_version(self, draft: Draft) -> Version:
        return await self._write(lambda c: rows.add_version(c, draft, self._settings.generators_per_site))

    async def mark_verified(self, version: Version, verified: Verified) -> None:
        await self._write(lambda c: rows.mark_verified(c, version, verified))

    async def remove_version(self, site: str, generator: str, version: int) -> None:
        await self._write(lambda c: rows.remove_version(c, site, generator, version))

    async def prune_versions(self, site: str, generator: str, keep: int) -> tuple[int, ...]:
        return await self._write(lambda c: rows.prune_versions(c, site, generator, keep))

    async def activate(self, site: str, generator: str, split: Split) -> None:
        await self._write(lambda c: rows.activate(c, site, generator, split, self._settings.rollback_depth))

    async def roll_back(self, site: str, generator: str) -> Split | None:
        return await self._write(lambda c: rows.roll_back(c, site, generator))

    async def remove_generator(self, site: str, generator: str) -> None:
        delete = "DELETE FROM generators WHERE site = ? AND name = ?"
        await self._write(lambda c: rows.changed(c.execute(delete, (site, generator))))

    async def digests(self) -> frozenset[str]:
        return await self._read(lambda c: frozenset(digest for (digest,) in c.execute("SELECT DISTINCT digest FROM versions")))

    async def bundle_bytes(self, site: str, but: str) -> int:
        return await self._read(lambda c: rows.bundle_bytes(c, site, but))

    async def kv_get(self, site: str, generator: str, key: bytes) -> bytes | None:
        return await self._read(lambda c: rows.kv_get(c, site, generator, key))

    async def kv_put(self, site: str, generator: str, key: bytes, value: bytes) -> bool:
        return await self._write(lambda c: rows.kv_put(c, (site, generator), key, value, self._settings.values))

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._run(lambda: work(self._opened()))

    async def _write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return await self._run(lambda: _commit(self._opened(), work))

    async def _run(self, work: Callable[[], T]) -> T:
        """`work` on the thread, within the time allowed. Raises StateError for whatever SQLite or the disk says."""
        if self._closed:
            raise StateError(Failure.CLOSED, "the edge is stopping")
        if self._waiting >= _MAX_WAITING:
            raise StateError(Failure.BUSY, f"{_MAX_WAITING} calls are waiting already")
        self._waiting += 1
        future = asyncio.get_running_loop().run_in_executor(self._thread, work)
        future.add_done_callback(self._done)
        try:
            async with asyncio.timeout(self._settings.state_seconds):
                return await asyncio.shield(future)
        except TimeoutError as error:
            raise StateError(Failure.BUSY, f"no answer within {self._settings.state_seconds:g} s") from error
        except sqlite3.Error as error:
            raise self._mapped(error) from error
        except (msgspec.DecodeError, ValueError, IndexError) as error:
            raise StateError(Failure.CORRUPT, f"{self._path} holds what was not written by this version: {error}") from error
        except OSError as error:
            raise StateError(Failure.UNAVAILABLE, f"{self._path}: {error.strerror}") from error

    def _done(self, future: asyncio.Future[T]) -> None:
        self._waiting -= 1
        if not future.cancelled():
            future.exception()  # one that nobody waits for any more is not an error of the loop's

    def _mapped(self, error: sqlite3.Error) -> StateError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        return StateError(_FAILURES.get(code, Failure.UNAVAILABLE), f"{self._path}: {error}")

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StateError(Failure.UNAVAILABLE, f"{self._path} could not be opened when the edge started")
        return self._connection

    def _open(self) -> None:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = self._locked()
        self._path.touch(mode=0o600)
        connection = sqlite3.connect(self._path, timeout=_BUSY_MS / 1000, isolation_level=None, check_same_thread=True)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA trusted_schema = OFF")
            migrate(connection)
        except NewerSchema as error:
            connection.close()
            raise StateError(
                Failure.UNAVAILABLE, f"{self._path}: {error}; start that version, or another state directory"
            ) from error
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def _locked(self) -> int:
        """A lock that goes with the process. Two edges in one directory would remove each other's bundles."""
        path = self._path.parent / "lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            detail = f"{path} is held by another edge; stop it, or start with another state directory"
            raise StateError(Failure.IN_USE, detail) from error
        return descriptor

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _lock_again(self) -> None:
        if self._lock is None and self._connection is not None:
            self._lock = self._locked()

    def _room(self) -> None:
        disk = os.statvfs(self._path.parent)
        if disk.f_bavail * disk.f_frsize < _LEAST_FREE_BYTES:
            raise StateError(Failure.FULL, f"{self._path.parent} has less than {_LEAST_FREE_BYTES} bytes free")

    def _close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._unlock()


def _commit(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    with _transaction(connection):
        return work(connection)


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        if isinstance(error, sqlite3.IntegrityError):
            raise Missing(str(error)) from error
        raise
