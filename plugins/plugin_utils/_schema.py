# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The store's tables, how they are made in an empty database, and how an older store becomes one of today."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from ..module_utils._model import HostsealError

try:
    import sqlalchemy as sa
    from sqlalchemy.dialects.mysql import LONGTEXT
except ImportError:  # told by Action: documentation is read without it
    HAS_SQLALCHEMY = False
else:
    HAS_SQLALCHEMY = True

SCHEMA = 3


class OutdatedError(HostsealError):
    """A store of an older schema, which may only be read."""


class _Column(NamedTuple):
    table: str
    name: str
    kind: str


if HAS_SQLALCHEMY:
    metadata = sa.MetaData()
    # Ciphertext has up to 1.4 MiB, an envelope 15 MiB; MySQL's TEXT ends at 64 KiB.
    _LONG = sa.Text().with_variant(LONGTEXT(), "mysql")

    def _table(name: str, *columns: Any) -> sa.Table:
        # Names differ by case.
        return sa.Table(
            name, metadata, *columns, mysql_engine="InnoDB", mysql_charset="utf8mb4", mysql_collate="utf8mb4_bin"
        )

    meta = _table(
        "hostseal_store",
        sa.Column("schema_version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    environment = _table(
        "environment",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("backend", sa.String(16), nullable=False),
        sa.Column("key_name", sa.String(63), nullable=False),
        sa.Column("engine_mount_point", sa.String(255)),
        sa.Column("signing_key", sa.Text, nullable=False),
        sa.Column("signing_kid", sa.String(64), nullable=False),
        sa.Column("key_set", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    # A row outlives its versions: numbers go on from last_number even after a delete.
    secret = _table(
        "secret",
        sa.Column("environment", sa.ForeignKey("environment.name"), primary_key=True),
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("last_number", sa.Integer, nullable=False),
        # NULL: the newest.
        sa.Column("current_number", sa.Integer),
    )
    version = _table(
        "secret_version",
        sa.Column("environment", sa.String(63), primary_key=True),
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("id", sa.String(32), nullable=False, unique=True),
        sa.Column("ciphertext", _LONG, nullable=False),
        sa.Column("fingerprint", sa.String(128), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["environment", "name"], ["secret.environment", "secret.name"]),
    )
    host = _table(
        "host",
        sa.Column("environment", sa.ForeignKey("environment.name"), primary_key=True),
        sa.Column("name", sa.String(253), primary_key=True),
        sa.Column("kid", sa.String(64), nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("enrolled_at", sa.BigInteger, nullable=False),
        sa.Column("pinned_at", sa.BigInteger),
    )
    # The row outlives its envelope: issue times of a mount only ever grow.
    envelope = _table(
        "envelope",
        sa.Column("environment", sa.ForeignKey("environment.name"), primary_key=True),
        sa.Column("host", sa.String(253), primary_key=True),
        sa.Column("mount", sa.String(128), primary_key=True),
        sa.Column("last_issued_at", sa.BigInteger, nullable=False),
        sa.Column("issued_at", sa.BigInteger),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("state_digest", sa.String(64)),
        sa.Column("text", _LONG),
    )
    receipt = _table(
        "receipt",
        sa.Column("environment", sa.ForeignKey("environment.name"), primary_key=True),
        sa.Column("host", sa.String(253), primary_key=True),
        sa.Column("mount", sa.String(128), primary_key=True),
        sa.Column("issued_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("state_digest", sa.String(64), nullable=False),
        sa.Column("secrets", sa.JSON, nullable=False),
        sa.Column("delivered_at", sa.BigInteger, nullable=False),
        sa.Column("signing_kid", sa.String(64)),
    )
    # What pull mode has published for a host, and its newest manifest. It outlives the host's retirement.
    publication = _table(
        "publication",
        sa.Column("environment", sa.ForeignKey("environment.name"), primary_key=True),
        sa.Column("host", sa.String(253), primary_key=True),
        sa.Column("issued_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("mounts", sa.JSON, nullable=False),
        sa.Column("text", _LONG, nullable=False),
    )
    # No foreign key: it outlives what it tells of.
    audit = _table(
        "audit",
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("user", sa.String(128), nullable=False),
        sa.Column("job", sa.String(64)),
        sa.Column("action", sa.String(32), nullable=False),
        sa.Column("environment", sa.String(63), nullable=False),
        sa.Column("host", sa.String(253)),
        sa.Column("mount", sa.String(128)),
        sa.Column("secrets", sa.JSON, nullable=False),
        sa.Column("delivery", sa.String(512)),
        sa.Column("result", sa.Text, nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("hash", sa.String(64), nullable=False),
    )
# The audit log can be added to, and nothing else. MySQL's TRUNCATE fires no trigger: it needs the privilege DROP.
_REFUSAL = "the audit log is append-only"
_APPEND_ONLY = {
    "sqlite": [
        f"CREATE TRIGGER IF NOT EXISTS audit_no_{verb.lower()} BEFORE {verb} ON audit"
        f" BEGIN SELECT RAISE(ABORT, '{_REFUSAL}'); END"
        for verb in ("UPDATE", "DELETE")
    ],
    "mysql": [
        f"CREATE TRIGGER IF NOT EXISTS audit_no_{verb.lower()} BEFORE {verb} ON audit"
        f" FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = '{_REFUSAL}'"
        for verb in ("UPDATE", "DELETE")
    ],
    "postgresql": [
        "CREATE OR REPLACE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql"
        f" AS $$ BEGIN RAISE EXCEPTION '{_REFUSAL}'; END $$",
        "CREATE OR REPLACE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit"
        " FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only()",
    ],
}

# What turns a store of that schema version into one of the next, beside tables that are missing. All of it may be done
# again: in MySQL no transaction holds it together.
_NEW_COLUMNS = {
    1: [
        _Column("environment", "engine_mount_point", "VARCHAR(255)"),
        _Column("secret", "current_number", "INTEGER"),
        _Column("host", "pinned_at", "BIGINT"),
        _Column("receipt", "signing_kid", "VARCHAR(64)"),
    ],
    2: [],
}
_UPDATES = {
    1: [
        "UPDATE receipt SET signing_kid ="
        " (SELECT environment.signing_kid FROM environment WHERE environment.name = receipt.environment)",
    ],
    2: [],
}


def prepare(connection: sa.Connection, label: str, create: bool, read_only: bool) -> tuple[int | None, int | None]:
    """Have a store of this schema in the database: made with CREATE, upgraded unless READ_ONLY.

    The schema version that was found and the one that is there now; None is an empty database.
    """
    before = found = _version(connection, label)
    if found == SCHEMA or (found is None and not create):
        return before, found
    if found in _UPDATES and read_only:
        raise OutdatedError(
            f"store {label} has schema version {found}, this collection knows {SCHEMA}, and here it is only read:"
            " a task that changes something upgrades it"
        )
    with _alone(connection):
        # Another run may have been faster.
        before = found = _version(connection, label)
        if found is None:
            _create(connection)
            found = SCHEMA
        while found in _UPDATES:
            _upgrade(connection, found)
            found += 1
    if found != SCHEMA:
        advice = "upgrade this collection" if found > SCHEMA else "it is damaged: restore a backup"
        raise HostsealError(f"store {label} has schema version {found}, this collection knows {SCHEMA}: {advice}")
    return before, found


def lock(connection: sa.Connection) -> int | None:
    """Let no other writer in until the transaction ends; the schema version that is there now."""
    version: int | None = connection.execute(sa.select(meta.c.schema_version).with_for_update()).scalar()
    return version


def _version(connection: sa.Connection, label: str) -> int | None:
    """The schema version, None where nothing is yet."""
    tables = set(sa.inspect(connection).get_table_names())
    if not tables:
        return None
    if meta.name not in tables:
        raise HostsealError(f"{label} is a database of something else, not a hostseal store")
    found: int | None = connection.execute(sa.select(sa.func.max(meta.c.schema_version))).scalar()
    # In MySQL each table is for good at once: without the row, which comes last, the making was cut off.
    if found is None and connection.dialect.name != "mysql":
        raise HostsealError(f"store {label} has no schema version: it is damaged: restore a backup")
    return found


def _create(connection: sa.Connection) -> None:
    metadata.create_all(connection, tables=[meta])
    metadata.create_all(connection)
    _protect_audit(connection)
    connection.execute(meta.insert().values(schema_version=SCHEMA, created_at=time.time_ns() // 1_000_000))


def _upgrade(connection: sa.Connection, version: int) -> None:
    there = sa.inspect(connection)
    for column in _NEW_COLUMNS[version]:
        if column.name not in {found["name"] for found in there.get_columns(column.table)}:
            connection.execute(sa.text(f"ALTER TABLE {column.table} ADD COLUMN {column.name} {column.kind}"))
    for statement in _UPDATES[version]:
        connection.execute(sa.text(statement))
    metadata.create_all(connection)
    _protect_audit(connection)
    connection.execute(meta.update().values(schema_version=version + 1))


def _protect_audit(connection: sa.Connection) -> None:
    for statement in _APPEND_ONLY[connection.dialect.name]:
        connection.exec_driver_sql(statement)


@contextlib.contextmanager
def _alone(connection: sa.Connection) -> Iterator[None]:
    """No other process changes the schema meanwhile. SQLite's transaction is enough for that."""
    kind = connection.dialect.name
    if kind == "postgresql":
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(4857325140)")
    if kind != "mysql":
        yield
        return
    # What was read so far would hide what others have done.
    connection.exec_driver_sql("COMMIT")
    name = "CONCAT('hostseal.', SHA1(DATABASE()))"
    if connection.exec_driver_sql(f"SELECT GET_LOCK({name}, 60)").scalar() != 1:
        raise HostsealError("another run has been changing the store's schema for over a minute; nothing was changed")
    try:
        yield
    finally:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql(f"SELECT RELEASE_LOCK({name})")
