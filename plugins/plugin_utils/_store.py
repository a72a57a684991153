# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The store: ciphertext and records in an SQL database, and the transactions on them.

Nothing in it is in clear and nothing in it is trusted: values are bound to their place by the backend, host records and
key sets are signed, envelopes are verified by the host. What a person who may write here can do is to take rows away,
to bring back an older copy of the whole, and to have an unchanged mount delivered again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..module_utils._model import HostsealError
from ._audit import FIRST, Actor, Event, Record, chain
from ._paths import implicit_path

try:
    import sqlalchemy as sa
    from sqlalchemy.exc import SQLAlchemyError
    from sqlalchemy.pool import NullPool, StaticPool
except ImportError:  # told by Action: documentation is read without it
    HAS_SQLALCHEMY = False
else:
    HAS_SQLALCHEMY = True

SCHEMA = 2
_CHUNK = 400
_T = TypeVar("_T")

if HAS_SQLALCHEMY:
    _metadata = sa.MetaData()
    _meta = sa.Table(
        "hostseal_store",
        _metadata,
        sa.Column("schema_version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
    )
    _environment = sa.Table(
        "environment",
        _metadata,
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
    _secret = sa.Table(
        "secret",
        _metadata,
        sa.Column("environment", sa.ForeignKey("environment.name"), primary_key=True),
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("last_number", sa.Integer, nullable=False),
        # NULL: the newest.
        sa.Column("current_number", sa.Integer),
    )
    _version = sa.Table(
        "secret_version",
        _metadata,
        sa.Column("environment", sa.String(63), primary_key=True),
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("id", sa.String(32), nullable=False, unique=True),
        sa.Column("ciphertext", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.String(128), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.ForeignKeyConstraint(["environment", "name"], ["secret.environment", "secret.name"]),
    )
    _host = sa.Table(
        "host",
        _metadata,
        sa.Column("environment", sa.ForeignKey("environment.name"), primary_key=True),
        sa.Column("name", sa.String(253), primary_key=True),
        sa.Column("kid", sa.String(64), nullable=False),
        sa.Column("record", sa.Text, nullable=False),
        sa.Column("enrolled_at", sa.BigInteger, nullable=False),
        sa.Column("pinned_at", sa.BigInteger),
    )
    # The row outlives its envelope: issue times of a mount only ever grow.
    _envelope = sa.Table(
        "envelope",
        _metadata,
        sa.Column("environment", sa.ForeignKey("environment.name"), primary_key=True),
        sa.Column("host", sa.String(253), primary_key=True),
        sa.Column("mount", sa.String(128), primary_key=True),
        sa.Column("last_issued_at", sa.BigInteger, nullable=False),
        sa.Column("issued_at", sa.BigInteger),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("state_digest", sa.String(64)),
        sa.Column("text", sa.Text),
    )
    _receipt = sa.Table(
        "receipt",
        _metadata,
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
    # No foreign key: it outlives what it tells of.
    _audit = sa.Table(
        "audit",
        _metadata,
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
    for _verb in ("UPDATE", "DELETE"):
        sa.event.listen(
            _audit,
            "after_create",
            sa.DDL(  # type: ignore[no-untyped-call]
                f"CREATE TRIGGER audit_no_{_verb.lower()} BEFORE {_verb} ON audit"
                " BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END"
            ).execute_if(dialect="sqlite"),
        )

# What turns a store of that schema version into one of the next.
_UPGRADES = {
    1: (
        "ALTER TABLE environment ADD COLUMN engine_mount_point VARCHAR(255)",
        "ALTER TABLE secret ADD COLUMN current_number INTEGER",
        "ALTER TABLE host ADD COLUMN pinned_at BIGINT",
        "ALTER TABLE receipt ADD COLUMN signing_kid VARCHAR(64)",
        "UPDATE receipt SET signing_kid ="
        " (SELECT environment.signing_kid FROM environment WHERE environment.name = receipt.environment)",
    ),
}


@dataclass(frozen=True)
class Environment:
    """An environment's record. signing_key is its public JWK as JSON, key_set the signed set that hosts pin.

    engine_mount_point is the path of the Transit engine, None with local keys.
    """

    name: str
    backend: str
    key_name: str
    engine_mount_point: str | None
    signing_key: str
    signing_kid: str
    key_set: str


@dataclass(frozen=True)
class Version:
    """One stored version of a secret. id is random, created_at in milliseconds since the epoch."""

    environment: str
    name: str
    number: int
    id: str
    ciphertext: str
    fingerprint: str
    created_at: int


@dataclass(frozen=True)
class HostRecord:
    """A host enrolled in an environment: its key's thumbprint and the signed record of the key.

    pinned_at is the time of issue of the key set that the host has confirmed, None before the first.
    """

    environment: str
    name: str
    kid: str
    record: str
    pinned_at: int | None = None


@dataclass(frozen=True)
class StoredEnvelope:
    """The newest envelope of a mount for a host; text is the envelope itself."""

    environment: str
    host: str
    mount: str
    issued_at: int
    expires_at: int | None
    state_digest: str
    text: str


@dataclass(frozen=True)
class Receipt:
    """What a host last confirmed of a mount. secrets holds {"name", "version"} dicts."""

    environment: str
    host: str
    mount: str
    issued_at: int
    expires_at: int | None
    state_digest: str
    secrets: list[dict[str, Any]]
    delivered_at: int
    signing_kid: str | None


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class Store:
    """A database of ours, checked. Open it after the fork and close it before the task ends."""

    def __init__(self, location: str | None, create: bool, actor: Actor | None = None) -> None:
        """LOCATION is a path or a database URL. With CREATE false, a missing one is an empty one in memory.

        ACTOR is who the audit log names.
        """
        self._actor = actor or Actor.of({})
        url = _url(location)
        self.label = (
            url.render_as_string(hide_password=True) if url.drivername != "sqlite" else url.database or ":memory:"
        )
        self.exists = True
        if url.drivername == "sqlite":
            url, self.exists = _prepare_sqlite(url, create)
        with self._errors():
            self._engine = _engine(url)
            with self._engine.connect() as connection, connection.begin():
                self._check_schema(connection, create or url.database is None)

    def _check_schema(self, connection: sa.Connection, create: bool) -> None:
        tables = set(sa.inspect(connection).get_table_names())
        if _meta.name not in tables:
            if tables:
                raise HostsealError(f"{self.label} is a database of something else, not a hostseal store")
            if not create:
                raise HostsealError(f"{self.label} is empty, not a hostseal store")
            _metadata.create_all(connection)
            connection.execute(_meta.insert().values(schema_version=SCHEMA, created_at=now_ms()))
            return
        found = connection.execute(sa.select(sa.func.max(_meta.c.schema_version))).scalar()
        while found in _UPGRADES:
            for statement in _UPGRADES[found]:
                connection.execute(sa.text(statement))
            found += 1
            _metadata.create_all(connection)
            connection.execute(_meta.update().values(schema_version=found))
        if found != SCHEMA:
            advice = "upgrade this collection" if found and found > SCHEMA else "it is damaged: restore a backup"
            raise HostsealError(
                f"store {self.label} has schema version {found}, this collection knows {SCHEMA}: {advice}"
            )

    def close(self) -> None:
        """Give the connection back."""
        self._engine.dispose()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """All or nothing, alone: a second writer waits until this one is through."""
        with self._errors(), self._engine.connect() as connection, connection.begin():
            yield Transaction(connection, self.label, self._actor)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            # The library's text may quote parameters, so only the engine's own code is told.
            origin = getattr(error, "orig", None)
            code = getattr(origin, "sqlite_errorname", None) or type(origin or error).__name__
            raise HostsealError(f"store {self.label}: {_SQLITE_TROUBLE.get(code, code)}") from None


_SQLITE_TROUBLE = {
    "SQLITE_READONLY": "it is read-only (SQLITE_READONLY)",
    "SQLITE_READONLY_DIRECTORY": "its directory is read-only (SQLITE_READONLY_DIRECTORY)",
    "SQLITE_FULL": "the disk is full (SQLITE_FULL); nothing was changed",
    "SQLITE_BUSY": "another run has held it for over a minute (SQLITE_BUSY); nothing was changed",
    "SQLITE_NOTADB": "the file is not a store (SQLITE_NOTADB)",
    "SQLITE_CORRUPT": "the file is damaged (SQLITE_CORRUPT): restore a backup",
    "SQLITE_CANTOPEN": "the file can't be opened (SQLITE_CANTOPEN)",
    "SQLITE_IOERR": "the disk reports an error (SQLITE_IOERR)",
}


class Transaction:
    """What can be read and written in one transaction."""

    def __init__(self, connection: sa.Connection, label: str, actor: Actor) -> None:
        self._connection = connection
        self._label = label
        self._actor = actor

    # The audit log

    def record(self, events: Sequence[Event]) -> None:
        """Append events to the audit log; with the transaction they are there or not."""
        if not events:
            return
        newest = sa.select(_audit.c.number, _audit.c.hash).order_by(_audit.c.number.desc()).limit(1)
        last = self._connection.execute(newest).first()
        records = chain(events, last.number if last else 0, last.hash if last else FIRST, self._actor, now_ms())
        self._connection.execute(_audit.insert(), [vars(record) for record in records])

    def audit(self) -> list[Record]:
        """All records, oldest first."""
        return self._rows(Record, _audit.select().order_by(_audit.c.number))

    # Environments

    def environments(self) -> list[Environment]:
        """All environments by name."""
        return self._rows(Environment, _environment.select().order_by(_environment.c.name))

    def find_environment(self, name: str) -> Environment | None:
        """The environment NAME, or None."""
        rows = self._rows(Environment, _environment.select().where(_environment.c.name == name))
        return rows[0] if rows else None

    def environment(self, name: str) -> Environment:
        """The environment NAME; HostsealError when it was never declared."""
        found = self.find_environment(name)
        if found is None:
            known = ", ".join(environment.name for environment in self.environments()) or "none"
            raise HostsealError(
                f"environment {name!r} is not in store {self._label} (there: {known}):"
                " declare it with hostseal.secrets.environment"
            )
        return found

    def add_environment(self, environment: Environment) -> None:
        """Declare a new environment."""
        self._connection.execute(_environment.insert().values(**vars(environment), created_at=now_ms()))

    def put_environment(self, environment: Environment) -> None:
        """Change the record of a declared environment."""
        self._connection.execute(
            _environment.update().where(_environment.c.name == environment.name).values(**vars(environment))
        )

    def remove_environment(self, name: str) -> None:
        """Forget an environment with everything in it, its secrets' numbers too."""
        for table in (_receipt, _envelope, _host, _version, _secret):
            self._connection.execute(table.delete().where(table.c.environment == name))
        self._connection.execute(_environment.delete().where(_environment.c.name == name))

    # Secrets

    def last_numbers(self, environment: str, names: Sequence[str]) -> dict[str, int]:
        """The highest number ever given out, for those of NAMES that ever were."""
        columns = sa.select(_secret.c.name, _secret.c.last_number).where(_secret.c.environment == environment)
        return {row.name: row.last_number for row in self._among(columns, _secret.c.name, names)}

    def current_versions(self, environment: str, names: Sequence[str] | None = None) -> dict[str, Version]:
        """The current version of each of NAMES (None: of all) that has one: the newest, or one that was rolled back to."""
        newest = (
            sa.select(_version.c.name, sa.func.max(_version.c.number).label("number"))
            .where(_version.c.environment == environment)
            .group_by(_version.c.name)
            .subquery()
        )
        query = (
            sa.select(_version)
            .join(_secret, sa.and_(_version.c.environment == _secret.c.environment, _version.c.name == _secret.c.name))
            .join(
                newest,
                sa.and_(
                    _version.c.name == newest.c.name,
                    _version.c.number == sa.func.coalesce(_secret.c.current_number, newest.c.number),
                ),
            )
            .where(_version.c.environment == environment)
            .order_by(_version.c.name)
        )
        rows = self._connection.execute(query) if names is None else self._among(query, _version.c.name, names)
        return {row.name: _from_row(Version, row) for row in rows}

    def versions(self, environment: str, names: Sequence[str] | None = None) -> list[Version]:
        """All versions of NAMES (None: of all), by name and number."""
        query = (
            sa.select(_version)
            .where(_version.c.environment == environment)
            .order_by(_version.c.name, _version.c.number)
        )
        rows = self._connection.execute(query) if names is None else self._among(query, _version.c.name, names)
        return [_from_row(Version, row) for row in rows]

    def add_versions(self, versions: Sequence[Version]) -> None:
        """Store new versions, each of another secret and one number above its last."""
        if not versions:
            return
        environment = versions[0].environment
        known = self.last_numbers(environment, [version.name for version in versions])
        numbers = [
            {"key_name": version.name, "number": version.number} for version in versions if version.name in known
        ]
        if numbers:
            self._connection.execute(
                _secret.update()
                .where(_secret.c.environment == environment, _secret.c.name == sa.bindparam("key_name"))
                .values(last_number=sa.bindparam("number"), current_number=None),
                numbers,
            )
        fresh = [
            {"environment": environment, "name": version.name, "last_number": version.number}
            for version in versions
            if version.name not in known
        ]
        if fresh:
            self._connection.execute(_secret.insert(), fresh)
        self._connection.execute(_version.insert(), [vars(version) for version in versions])

    def replace_ciphertexts(self, replaced: Sequence[tuple[Version, Version]]) -> int:
        """Give stored versions, as (old, new), another ciphertext and fingerprint; how many were still the old one."""
        count = 0
        for old, new in replaced:
            done = self._connection.execute(
                _version.update()
                .where(
                    _version.c.environment == old.environment,
                    _version.c.name == old.name,
                    _version.c.number == old.number,
                    _version.c.ciphertext == old.ciphertext,
                )
                .values(ciphertext=new.ciphertext, fingerprint=new.fingerprint)
            )
            count += done.rowcount
        return count

    def make_current(self, environment: str, name: str, number: int) -> None:
        """Have the stored version NUMBER used where no other one is asked for, until a new version is added."""
        self._connection.execute(
            _secret.update()
            .where(_secret.c.environment == environment, _secret.c.name == name)
            .values(current_number=number)
        )

    def remove_versions(self, environment: str, names: Sequence[str]) -> None:
        """Delete every version of NAMES; their numbers stay used."""
        for chunk in _chunks(names):
            self._connection.execute(
                _version.delete().where(_version.c.environment == environment, _version.c.name.in_(chunk))
            )
            self._connection.execute(
                _secret.update()
                .where(_secret.c.environment == environment, _secret.c.name.in_(chunk))
                .values(current_number=None)
            )

    def prune_versions(self, versions: Sequence[Version]) -> None:
        """Delete single versions; none of them may be a current one."""
        for version in versions:
            self._connection.execute(_version.delete().where(_version.c.id == version.id))

    # Hosts

    def hosts(self, environment: str, names: Sequence[str] | None = None) -> dict[str, HostRecord]:
        """Enrolled hosts of an environment by name (NAMES None: all)."""
        query = sa.select(_host).where(_host.c.environment == environment).order_by(_host.c.name)
        rows = self._connection.execute(query) if names is None else self._among(query, _host.c.name, names)
        return {row.name: _from_row(HostRecord, row) for row in rows}

    def enrolments(self, name: str) -> list[HostRecord]:
        """The environments in which the host NAME is enrolled."""
        return self._rows(HostRecord, _host.select().where(_host.c.name == name).order_by(_host.c.environment))

    def put_host(self, record: HostRecord) -> None:
        """Enrol a host, in the place of an older record of it."""
        self._connection.execute(
            _host.delete().where(_host.c.environment == record.environment, _host.c.name == record.name)
        )
        self._connection.execute(_host.insert().values(**vars(record), enrolled_at=now_ms()))

    def confirm_key_set(self, environment: str, host: str, issued_at: int) -> None:
        """Record that a host has pinned the key set of that time of issue."""
        self._connection.execute(
            _host.update().where(_host.c.environment == environment, _host.c.name == host).values(pinned_at=issued_at)
        )

    def remove_host(self, environment: str, name: str) -> None:
        """Retire a host from an environment with its envelopes' text and receipts; issue times stay."""
        self._connection.execute(_host.delete().where(_host.c.environment == environment, _host.c.name == name))
        self._connection.execute(
            _receipt.delete().where(_receipt.c.environment == environment, _receipt.c.host == name)
        )
        self._connection.execute(
            _envelope.update()
            .where(_envelope.c.environment == environment, _envelope.c.host == name)
            .values(issued_at=None, expires_at=None, state_digest=None, text=None)
        )

    # Envelopes and receipts

    def envelopes(self, environment: str, hosts: Sequence[str]) -> dict[tuple[str, str], StoredEnvelope]:
        """The envelopes for HOSTS by (host, mount)."""
        query = sa.select(_envelope).where(_envelope.c.environment == environment, _envelope.c.text.is_not(None))
        return {
            (row.host, row.mount): _from_row(StoredEnvelope, row) for row in self._among(query, _envelope.c.host, hosts)
        }

    def issue_times(self, environment: str, mounts: Sequence[tuple[str, str]], floors: Sequence[int]) -> list[int]:
        """Take a new issue time for each (host, mount): the latest of now, its last + 1 and its floor + 1."""
        columns = sa.select(_envelope.c.host, _envelope.c.mount, _envelope.c.last_issued_at)
        query = columns.where(_envelope.c.environment == environment)
        rows = self._among(query, _envelope.c.host, sorted({host for host, _mount in mounts}))
        last = {(row.host, row.mount): row.last_issued_at for row in rows}
        now = now_ms()
        times = [max(now, last.get(mount, 0) + 1, floor + 1) for mount, floor in zip(mounts, floors, strict=True)]
        taken = [
            {"key_host": host, "key_mount": mount, "last": issued_at}
            for (host, mount), issued_at in zip(mounts, times, strict=True)
        ]
        old = [row for row in taken if (row["key_host"], row["key_mount"]) in last]
        new = [row for row in taken if (row["key_host"], row["key_mount"]) not in last]
        if old:
            self._connection.execute(self._one_envelope(environment).values(last_issued_at=sa.bindparam("last")), old)
        if new:
            self._connection.execute(
                _envelope.insert(),
                [
                    {
                        "environment": environment,
                        "host": row["key_host"],
                        "mount": row["key_mount"],
                        "last_issued_at": row["last"],
                    }
                    for row in new
                ],
            )
        return times

    def put_envelopes(self, envelopes: Iterable[StoredEnvelope]) -> None:
        """Store envelopes in the rows that issue_times made; one that was overtaken meanwhile is left out."""
        columns = ("issued_at", "expires_at", "state_digest", "text")
        by_environment: dict[str, list[dict[str, Any]]] = {}
        for envelope in envelopes:
            row = {f"new_{name}": getattr(envelope, name) for name in columns}
            row |= {"key_host": envelope.host, "key_mount": envelope.mount}
            by_environment.setdefault(envelope.environment, []).append(row)
        for environment, rows in by_environment.items():
            not_overtaken = sa.or_(
                _envelope.c.issued_at.is_(None), _envelope.c.issued_at < sa.bindparam("new_issued_at")
            )
            statement = self._one_envelope(environment).where(not_overtaken)
            self._connection.execute(statement.values({name: sa.bindparam(f"new_{name}") for name in columns}), rows)

    def remove_envelope(self, environment: str, host: str, mount: str) -> None:
        """Forget a mount of a host; its last issue time stays."""
        self._connection.execute(
            self._one_envelope(environment).values(issued_at=None, expires_at=None, state_digest=None, text=None),
            {"key_host": host, "key_mount": mount},
        )
        self._connection.execute(_receipt.delete().where(*_is_mount(_receipt, environment, host, mount)))

    def receipts(self, environment: str, hosts: Sequence[str] | None = None) -> list[Receipt]:
        """What hosts (None: all) last confirmed."""
        query = (
            sa.select(_receipt).where(_receipt.c.environment == environment).order_by(_receipt.c.host, _receipt.c.mount)
        )
        rows = self._connection.execute(query) if hosts is None else self._among(query, _receipt.c.host, hosts)
        return [_from_row(Receipt, row) for row in rows]

    def put_receipts(self, receipts: Iterable[Receipt]) -> None:
        """Record what a host confirmed, in the place of what it had confirmed before."""
        for receipt in receipts:
            where = _is_mount(_receipt, receipt.environment, receipt.host, receipt.mount)
            self._connection.execute(_receipt.delete().where(*where))
            self._connection.execute(_receipt.insert().values(**vars(receipt)))

    @staticmethod
    def _one_envelope(environment: str) -> sa.Update:
        return _envelope.update().where(
            *_is_mount(_envelope, environment, sa.bindparam("key_host"), sa.bindparam("key_mount"))
        )

    def _rows(self, kind: type[_T], query: sa.Executable) -> list[_T]:
        return [_from_row(kind, row) for row in self._connection.execute(query)]

    def _among(self, query: sa.Select[Any], column: sa.Column[Any], values: Sequence[str]) -> Iterator[sa.Row[Any]]:
        for chunk in _chunks(values):
            yield from self._connection.execute(query.where(column.in_(chunk)))


def new_version_id() -> str:
    """128 random bits in hexadecimal."""
    return secrets.token_hex(16)


def _from_row(kind: type[_T], row: sa.Row[Any]) -> _T:
    return kind(**{name: getattr(row, name) for name in kind.__dataclass_fields__})  # type: ignore[attr-defined]


def _is_mount(table: sa.Table, environment: str, host: Any, mount: Any) -> tuple[Any, ...]:
    return (table.c.environment == environment, table.c.host == host, table.c.mount == mount)


def _chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    """Databases limit how many parameters a statement may have."""
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]


def _url(location: str | None) -> sa.URL:
    if not location:
        path = implicit_path("XDG_DATA_HOME", ".local/share", "store.db", "store", "HOSTSEAL_STORE")
    elif "://" in location:
        try:
            url = sa.make_url(location)
        except SQLAlchemyError:
            raise HostsealError("the option store is not a path and not a database URL") from None
        if url.drivername != "sqlite":
            raise HostsealError(f"a store of kind {url.drivername!r} is not supported: use a path or sqlite:///PATH")
        path = Path(url.database or "")
    else:
        path = Path(location)
    path = Path(os.path.expanduser(path))
    if not path.is_absolute() or "\0" in str(path):
        raise HostsealError(f"store {str(path)!r} is not an absolute path")
    return sa.URL.create("sqlite", database=str(path))


def _prepare_sqlite(url: sa.URL, create: bool) -> tuple[sa.URL, bool]:
    path = Path(url.database or "")
    try:
        found = path.stat()
    except FileNotFoundError:
        if not create:
            return sa.URL.create("sqlite"), False
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # Two first runs may race here; SQLite's own lock parts them afterwards.
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise HostsealError(f"store {path} can't be made: {error.strerror}") from None
        return url, True
    except OSError as error:
        raise HostsealError(f"store {path} can't be opened: {error.strerror}") from None
    if not stat.S_ISREG(found.st_mode):
        raise HostsealError(f"store {path} is not a regular file")
    if not os.access(path, os.R_OK | os.W_OK):
        raise HostsealError(f"store {path} can't be read and written by this user")
    if found.st_size:
        with open(path, "rb") as file:
            if file.read(16) != b"SQLite format 3\0":
                raise HostsealError(f"{path} is a file of something else, not a hostseal store")
    return url, True


def _engine(url: sa.URL) -> sa.Engine:
    # hide_parameters: the library would quote them in its errors and logs.
    if url.database is None:
        engine = sa.create_engine(url, poolclass=StaticPool, hide_parameters=True)
    else:
        engine = sa.create_engine(url, poolclass=NullPool, hide_parameters=True, connect_args={"timeout": 60})

    @sa.event.listens_for(engine, "connect")
    def _connect(connection: Any, _record: Any) -> None:
        # The driver's own transaction handling would begin too late: we say BEGIN ourselves.
        connection.isolation_level = None
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA secure_delete = ON")

    @sa.event.listens_for(engine, "begin")
    def _begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine
