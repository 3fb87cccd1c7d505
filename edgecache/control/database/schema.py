"""The tables of the SQLite state, as migrations: step N brings a database from user_version N to N + 1.

A step that was released is never changed; what must differ is a further step. `sqlite_state` runs them.
"""

from __future__ import annotations

import sqlite3
from typing import Final

_STEPS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE sites (
        name TEXT PRIMARY KEY,
        definition BLOB               -- NULL: defined in the configuration file
    ) WITHOUT ROWID;
    CREATE TABLE tokens (
        id TEXT PRIMARY KEY,
        sha256 BLOB NOT NULL CHECK (length(sha256) = 32),
        site TEXT REFERENCES sites ON DELETE CASCADE,
        verbs TEXT NOT NULL,
        created REAL NOT NULL,
        expires REAL,
        note TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX tokens_by_site ON tokens (site);
    CREATE TABLE generators (
        id INTEGER PRIMARY KEY,
        site TEXT NOT NULL REFERENCES sites ON DELETE CASCADE,
        name TEXT NOT NULL,
        active BLOB NOT NULL DEFAULT x'5b5d',
        latest INTEGER NOT NULL DEFAULT 0,
        kv_bytes INTEGER NOT NULL DEFAULT 0,
        kv_entries INTEGER NOT NULL DEFAULT 0,
        UNIQUE (site, name)
    );
    CREATE TABLE versions (
        generator INTEGER NOT NULL REFERENCES generators ON DELETE CASCADE,
        version INTEGER NOT NULL,
        digest TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        manifest BLOB NOT NULL,
        created REAL NOT NULL,
        verified BLOB,
        PRIMARY KEY (generator, version),
        UNIQUE (generator, digest)
    ) WITHOUT ROWID;
    CREATE TABLE splits (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        generator INTEGER NOT NULL REFERENCES generators ON DELETE CASCADE,
        split BLOB NOT NULL
    );
    CREATE INDEX splits_by_generator ON splits (generator, id);
    CREATE TABLE stored_values (
        generator INTEGER NOT NULL REFERENCES generators ON DELETE CASCADE,
        key BLOB NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY (generator, key)
    ) WITHOUT ROWID;
    """,
    """
    CREATE TABLE clusters (
        name TEXT PRIMARY KEY,
        weight INTEGER NOT NULL,
        cap INTEGER                   -- percent of one CPU; NULL: none
    ) WITHOUT ROWID;
    """,
)

VERSION: Final = len(_STEPS)


class NewerSchema(Exception):
    """The database was written by a later version of this software."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the database to VERSION, each step in a transaction of its own. Raises NewerSchema, sqlite3.Error."""
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found > VERSION:
        raise NewerSchema(f"the database has schema {found}, this version of edgecache knows {VERSION}")
    for number in range(found, VERSION):
        connection.executescript(f"BEGIN IMMEDIATE;\n{_STEPS[number]}\nPRAGMA user_version = {number + 1};\nCOMMIT;")
