# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What can be read in a store and written to it: the same for every kind of store."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from ..module_utils._model import HostsealError
from ._audit import FIRST, Actor, Event, Record, chain
from ._records import Environment, HostRecord, Publication, Receipt, Sealed, StoredEnvelope, Summary, Version, now_ms
from ._schema import HAS_SQLALCHEMY

if HAS_SQLALCHEMY:
    import sqlalchemy as sa

    from ._schema import audit as _audit
    from ._schema import envelope as _envelope
    from ._schema import environment as _environment
    from ._schema import host as _host
    from ._schema import meta as _meta
    from ._schema import metadata as _metadata
    from ._schema import publication as _publication
    from ._schema import receipt as _receipt
    from ._schema import secret as _secret
    from ._schema import version as _version

_CHUNK = 400
_COPY_BYTES = 4 << 20
_SIZES = {
    "sqlite": "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()",
    "mysql": "SELECT sum(data_length + index_length) FROM information_schema.tables WHERE table_schema = database()",
    "postgresql": "SELECT pg_database_size(current_database())",
}
_T = TypeVar("_T")


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

    # The whole

    def summary(self) -> Summary:
        """What is told of a store as a whole."""
        dialect = self._connection.dialect
        made = self._connection.execute(sa.select(_meta.c.schema_version, _meta.c.created_at)).one()
        return Summary(
            engine=str((getattr(dialect, "is_mariadb", False) and "mariadb") or dialect.name),
            engine_version=".".join(str(part) for part in dialect.server_version_info or ()),
            schema_version=made.schema_version,
            created_at=made.created_at,
            bytes=int(self._connection.exec_driver_sql(_SIZES[dialect.name]).scalar() or 0),
            rows={
                table.name: self._connection.execute(sa.select(sa.func.count()).select_from(table)).scalar() or 0
                for table in self._tables()
            },
        )

    def copy_from(self, source: Transaction) -> None:
        """Take over every row of another store. This one must have none."""
        for table in self._tables():
            rows: list[dict[str, Any]] = []
            size = 0
            for row in source._connection.execute(table.select()).mappings():
                rows.append(dict(row))
                size += sum(len(value) for value in row.values() if isinstance(value, str))
                if size > _COPY_BYTES:
                    self._connection.execute(table.insert(), rows)
                    rows, size = [], 0
            if rows:
                self._connection.execute(table.insert(), rows)

    def is_copy_of(self, other: Transaction) -> bool:
        """Whether both have the same rows."""
        return all(self._row_hashes(table) == other._row_hashes(table) for table in self._tables())

    def _row_hashes(self, table: sa.Table) -> set[bytes]:
        rows = self._connection.execute(table.select()).mappings()
        return {hashlib.sha256(json.dumps(dict(row), sort_keys=True).encode()).digest() for row in rows}

    @staticmethod
    def _tables() -> list[sa.Table]:
        return [table for table in _metadata.sorted_tables if table is not _meta]

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
        for table in (_publication, _receipt, _envelope, _host, _version, _secret):
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

    def withdraw_envelopes(self, environment: str, mounts: Iterable[tuple[str, str]]) -> None:
        """Have no envelope any more for each (host, mount); what hosts confirmed, and last issue times, stay."""
        rows = [{"key_host": host, "key_mount": mount} for host, mount in mounts]
        if rows:
            gone = {"issued_at": None, "expires_at": None, "state_digest": None, "text": None}
            self._connection.execute(self._one_envelope(environment).values(gone), rows)

    def remove_envelope(self, environment: str, host: str, mount: str) -> None:
        """Forget a mount of a host; its last issue time stays."""
        self.withdraw_envelopes(environment, [(host, mount)])
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

    def sealed(self, environment: str, hosts: Sequence[str]) -> list[Sealed]:
        """All mounts that HOSTS have, or had, without their envelopes."""
        columns = (_envelope.c.host, _envelope.c.mount, _envelope.c.last_issued_at, _envelope.c.issued_at)
        query = sa.select(*columns).where(_envelope.c.environment == environment)
        return [_from_row(Sealed, row) for row in self._among(query, _envelope.c.host, hosts)]

    # Publications

    def publications(self, environment: str, hosts: Sequence[str] | None = None) -> dict[str, Publication]:
        """What was published for HOSTS (None: all), by host."""
        query = sa.select(_publication).where(_publication.c.environment == environment).order_by(_publication.c.host)
        rows = self._connection.execute(query) if hosts is None else self._among(query, _publication.c.host, hosts)
        return {row.host: _from_row(Publication, row) for row in rows}

    def put_publications(self, publications: Sequence[Publication]) -> None:
        """Record what was published, in the place of what was before."""
        keys = [{"key_environment": one.environment, "key_host": one.host} for one in publications]
        if not keys:
            return
        self._connection.execute(
            _publication.delete().where(
                _publication.c.environment == sa.bindparam("key_environment"),
                _publication.c.host == sa.bindparam("key_host"),
            ),
            keys,
        )
        self._connection.execute(_publication.insert(), [vars(one) for one in publications])

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


def _from_row(kind: type[_T], row: sa.Row[Any]) -> _T:
    return kind(**{name: getattr(row, name) for name in kind.__dataclass_fields__})  # type: ignore[attr-defined]


def _is_mount(table: sa.Table, environment: str, host: Any, mount: Any) -> tuple[Any, ...]:
    return (table.c.environment == environment, table.c.host == host, table.c.mount == mount)


def _chunks(values: Sequence[str]) -> Iterator[Sequence[str]]:
    """Databases limit how many parameters a statement may have."""
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]
