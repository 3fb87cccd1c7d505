"""The statements of the SQLite state: one function a question, each given the connection, inside a transaction where it writes.

Values go in and out as records; JSON columns hold records as msgspec writes them. `sqlite_state` alone calls it, on its thread.
"""

from __future__ import annotations

import sqlite3
from typing import Final

import msgspec

from edgecache.control.bundle.manifest import Manifest
from edgecache.control.records import Draft, Generator, Split, Token, Verb, Verified, Version
from edgecache.control.settings import StoredValueLimits
from edgecache.control.state import Exists, Missing, TooMany
from edgecache.sites import Cluster, Site

_NO_SPLIT: Final = b"[]"
_SITE: Final = msgspec.json.Decoder(Site)
_SPLIT: Final = msgspec.json.Decoder(Split)
_MANIFEST: Final = msgspec.json.Decoder(Manifest)
_VERIFIED: Final = msgspec.json.Decoder(Verified)

_VERSIONS: Final = """
    SELECT v.version, v.digest, v.size_bytes, v.manifest, v.created, v.verified
    FROM versions v JOIN generators g ON g.id = v.generator
    WHERE g.site = :site AND g.name = :name AND (:version IS NULL OR v.version = :version)
    ORDER BY v.version DESC
"""
_THIS_VERSION: Final = "generator = (SELECT id FROM generators WHERE site = ? AND name = ?) AND version = ?"


def changed(cursor: sqlite3.Cursor) -> None:
    """Raises Missing where a statement found no row."""
    if cursor.rowcount == 0:
        raise Missing


def all_sites(connection: sqlite3.Connection) -> tuple[Site, ...]:
    """Those that were added through the API; names that the configuration has declared are not."""
    found = connection.execute("SELECT definition FROM sites WHERE definition IS NOT NULL ORDER BY name")
    return tuple(_SITE.decode(definition) for (definition,) in found)


def put_site(connection: sqlite3.Connection, name: str, definition: bytes, *, new: bool, limit: int) -> None:
    """`definition` is a `Site` as JSON. Raises TooMany (of `limit`), Exists; where it is not new, Missing."""
    if not new:
        changed(
            connection.execute("UPDATE sites SET definition = ? WHERE name = ? AND definition IS NOT NULL", (definition, name))
        )
        return
    _room(connection, "SELECT count(*) FROM sites", (), limit, "sites")
    insert = """
        INSERT INTO sites (name, definition) VALUES (?, ?)
        ON CONFLICT (name) DO UPDATE SET definition = excluded.definition WHERE definition IS NULL
    """
    if connection.execute(insert, (name, definition)).rowcount == 0:
        raise Exists


def all_clusters(connection: sqlite3.Connection) -> tuple[Cluster, ...]:
    """By name."""
    return tuple(Cluster(*row) for row in connection.execute("SELECT name, weight, cap FROM clusters ORDER BY name"))


def put_cluster(connection: sqlite3.Connection, cluster: Cluster, limit: int) -> None:
    """Add or replace. Raises TooMany."""
    others = "SELECT count(*) FROM clusters WHERE name <> ?"
    _room(connection, others, (cluster.name,), limit, "clusters")
    upsert = """
        INSERT INTO clusters VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET weight = excluded.weight, cap = excluded.cap
    """
    connection.execute(upsert, (cluster.name, cluster.weight, cluster.cap))


def all_tokens(connection: sqlite3.Connection) -> tuple[Token, ...]:
    """Oldest first, expired ones too."""
    found = connection.execute("SELECT id, sha256, site, verbs, created, expires, note FROM tokens ORDER BY created, id")
    return tuple(
        Token(
            id=token_id,
            sha256=sha256,
            site=site,
            verbs=frozenset(map(Verb, verbs.split())),
            created=created,
            expires=expires,
            note=note,
        )
        for token_id, sha256, site, verbs, created, expires, note in found
    )


def add_token(connection: sqlite3.Connection, token: Token, limit: int) -> None:
    """Add it; tokens that had expired when it was made are removed. Raises TooMany."""
    connection.execute("DELETE FROM tokens WHERE expires <= ?", (token.created,))
    _room(connection, "SELECT count(*) FROM tokens", (), limit, "tokens")
    values = (token.id, token.sha256, token.site, " ".join(sorted(token.verbs)), token.created, token.expires, token.note)
    connection.execute("INSERT INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?)", values)


def generators(connection: sqlite3.Connection, site: str, name: str | None = None) -> tuple[Generator, ...]:
    """Those of the site by name, or the one called `name`."""
    found = connection.execute(
        "SELECT name, active, latest FROM generators WHERE site = :site AND (:name IS NULL OR name = :name) ORDER BY name",
        {"site": site, "name": name},
    )
    return tuple(Generator(site=site, name=name, active=_SPLIT.decode(active), latest=latest) for name, active, latest in found)


def serving(connection: sqlite3.Connection, site: str) -> tuple[tuple[Generator, tuple[Version, ...]], ...]:
    """Generators that have traffic, each with the versions that have it."""
    return tuple(
        (generator, tuple(versions(connection, site, generator.name, portion.version)[0] for portion in generator.active))
        for generator in generators(connection, site)
        if generator.active
    )


def bundle_bytes(connection: sqlite3.Connection, site: str, but: str) -> int:
    """Of all bundles that versions of the site have, each counted once, except the one with the digest `but`."""
    select = """
        SELECT coalesce(sum(size_bytes), 0) FROM (
            SELECT DISTINCT v.digest, v.size_bytes FROM versions v JOIN generators g ON g.id = v.generator
            WHERE g.site = ? AND v.digest <> ?
        )
    """
    found: tuple[int] = connection.execute(select, (site, but)).fetchone()
    return found[0]


def versions(connection: sqlite3.Connection, site: str, name: str, version: int | None = None) -> tuple[Version, ...]:
    """Latest first, or the one `version`."""
    found = connection.execute(_VERSIONS, {"site": site, "name": name, "version": version})
    return tuple(
        Version(
            site=site,
            generator=name,
            version=number,
            digest=digest,
            size_bytes=size_bytes,
            manifest=_MANIFEST.decode(manifest),
            created=created,
            verified=None if verified is None else _VERIFIED.decode(verified),
        )
        for number, digest, size_bytes, manifest, created, verified in found
    )


def add_version(connection: sqlite3.Connection, draft: Draft, limit: int) -> Version:
    """The new version, or the one of the same digest that was there. Raises Missing (the site), TooMany."""
    generator = _find(connection, draft.site, draft.generator)
    if generator is None:
        if connection.execute("SELECT 1 FROM sites WHERE name = ?", (draft.site,)).fetchone() is None:
            raise Missing
        _room(connection, "SELECT count(*) FROM generators WHERE site = ?", (draft.site,), limit, "generators of the site")
        insert = connection.execute("INSERT INTO generators (site, name) VALUES (?, ?)", (draft.site, draft.generator))
        generator = insert.lastrowid
    known = connection.execute("SELECT version FROM versions WHERE generator = ? AND digest = ?", (generator, draft.digest))
    row = known.fetchone()
    if row is None:
        (number,) = connection.execute(
            "UPDATE generators SET latest = latest + 1 WHERE id = ? RETURNING latest", (generator,)
        ).fetchone()
        manifest = msgspec.json.encode(draft.manifest)
        connection.execute(
            "INSERT INTO versions VALUES (?, ?, ?, ?, ?, ?, NULL)",
            (generator, number, draft.digest, draft.size_bytes, manifest, draft.created),
        )
    else:
        number = row[0]
    return versions(connection, draft.site, draft.generator, number)[0]


def mark_verified(connection: sqlite3.Connection, version: Version, verified: Verified) -> None:
    """Raises Missing."""
    update = f"UPDATE versions SET verified = ? WHERE {_THIS_VERSION} AND digest = ?"  # noqa: S608 - a constant
    this = (version.site, version.generator, version.version, version.digest)
    changed(connection.execute(update, (msgspec.json.encode(verified), *this)))


def remove_version(connection: sqlite3.Connection, site: str, name: str, version: int) -> None:
    """The generator goes with its last version. Raises Missing, and Exists where it has traffic or can be rolled back to."""
    generator = _known(connection, site, name)
    if version in _in_splits(connection, generator):
        raise Exists
    delete = f"DELETE FROM versions WHERE {_THIS_VERSION}"  # noqa: S608 - a constant
    changed(connection.execute(delete, (site, name, version)))
    never_worked = "DELETE FROM generators WHERE id = :id AND NOT EXISTS (SELECT 1 FROM versions WHERE generator = :id)"
    connection.execute(never_worked, {"id": generator})


def prune_versions(connection: sqlite3.Connection, site: str, name: str, keep: int) -> tuple[int, ...]:
    """Remove what is older than the latest `keep`, and not in use. Returns the numbers that were removed. Raises Missing."""
    generator = _known(connection, site, name)
    found = connection.execute("SELECT version FROM versions WHERE generator = ? ORDER BY version DESC", (generator,))
    used = _in_splits(connection, generator)
    old = [version for (version,) in found.fetchall()[keep:] if version not in used]
    connection.executemany("DELETE FROM versions WHERE generator = ? AND version = ?", [(generator, version) for version in old])
    return tuple(old)


def activate(connection: sqlite3.Connection, site: str, name: str, split: Split, depth: int) -> None:
    """What had the traffic before can be rolled back to, over `depth` such steps. Raises Missing."""
    generator = _known(connection, site, name)
    encoded = msgspec.json.encode(split)
    (before,) = connection.execute("SELECT active FROM generators WHERE id = ?", (generator,)).fetchone()
    if before == encoded:
        return
    if before != _NO_SPLIT:
        connection.execute("INSERT INTO splits (generator, split) VALUES (?, ?)", (generator, before))
    connection.execute("UPDATE generators SET active = ? WHERE id = ?", (encoded, generator))
    forget = """
        DELETE FROM splits WHERE generator = :id AND id NOT IN
            (SELECT id FROM splits WHERE generator = :id ORDER BY id DESC LIMIT :depth)
    """
    connection.execute(forget, {"id": generator, "depth": depth})


def roll_back(connection: sqlite3.Connection, site: str, name: str) -> Split | None:
    """What has the traffic now; None where there is nothing to go back to. Raises Missing."""
    generator = _known(connection, site, name)
    last = "SELECT id, split FROM splits WHERE generator = ? ORDER BY id DESC LIMIT 1"
    row = connection.execute(last, (generator,)).fetchone()
    if row is None:
        return None
    number, split = row
    connection.execute("DELETE FROM splits WHERE id = ?", (number,))
    connection.execute("UPDATE generators SET active = ? WHERE id = ?", (split, generator))
    return _SPLIT.decode(split)


def kv_get(connection: sqlite3.Connection, site: str, name: str, key: bytes) -> bytes | None:
    """None: there is no such key, or no such generator."""
    select = """
        SELECT s.value FROM stored_values s JOIN generators g ON g.id = s.generator WHERE g.site = ? AND g.name = ? AND s.key = ?
    """
    row: tuple[bytes] | None = connection.execute(select, (site, name, key)).fetchone()
    return row[0] if row else None


def kv_put(connection: sqlite3.Connection, owner: tuple[str, str], key: bytes, value: bytes, limits: StoredValueLimits) -> bool:
    """`owner` is site and generator. False where `limits` have no room, or there is no such generator."""
    if len(key) > limits.key_bytes or len(value) > limits.value_bytes:
        return False
    row = connection.execute("SELECT id, kv_bytes, kv_entries FROM generators WHERE site = ? AND name = ?", owner).fetchone()
    if row is None:
        return False
    generator, held_bytes, held_entries = row
    old = connection.execute(
        "SELECT length(value) FROM stored_values WHERE generator = ? AND key = ?", (generator, key)
    ).fetchone()
    held_bytes += len(value) - old[0] if old else len(key) + len(value)
    held_entries += 0 if old else 1
    if held_bytes > limits.total_bytes or held_entries > limits.entries:
        return False
    connection.execute("INSERT OR REPLACE INTO stored_values VALUES (?, ?, ?)", (generator, key, value))
    connection.execute("UPDATE generators SET kv_bytes = ?, kv_entries = ? WHERE id = ?", (held_bytes, held_entries, generator))
    return True


def _find(connection: sqlite3.Connection, site: str, name: str) -> int | None:
    row = connection.execute("SELECT id FROM generators WHERE site = ? AND name = ?", (site, name)).fetchone()
    return row[0] if row else None


def _known(connection: sqlite3.Connection, site: str, name: str) -> int:
    generator = _find(connection, site, name)
    if generator is None:
        raise Missing
    return generator


def _in_splits(connection: sqlite3.Connection, generator: int) -> set[int]:
    """Versions that have traffic or can be rolled back to."""
    query = "SELECT active FROM generators WHERE id = :id UNION ALL SELECT split FROM splits WHERE generator = :id"
    return {portion.version for (split,) in connection.execute(query, {"id": generator}) for portion in _SPLIT.decode(split)}


def _room(connection: sqlite3.Connection, count: str, values: tuple[str, ...], limit: int, what: str) -> None:
    (found,) = connection.execute(count, values).fetchone()
    if found >= limit:
        raise TooMany(f"there are {found} {what}, and {limit} are allowed")
