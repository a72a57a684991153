# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A store in a folder for Git: what is declared is in files, what happened is in a database of this machine.

In a transaction the files are tables of SQLite like any others, temporary ones that stand before those of the same name
in the machine's database, its state: envelopes, receipts, publications, the audit log and which keys hosts confirmed. Files that
a transaction changes are noted in the state with the rest of it, at once or not at all, and written afterwards. A run
that is killed in between leaves them to the next one; who only reads takes what is noted for what is there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..module_utils._model import HostsealError
from ._audit import Actor
from ._database import open_engine
from ._paths import base_directory, ends_with_the_job
from ._records import Summary, now_ms
from ._schema import HAS_SQLALCHEMY
from ._transaction import Transaction
from ._tree import FORMAT, MARKER, File, Tree, digest, kind_of, parse, path_of, render

if HAS_SQLALCHEMY:
    import sqlalchemy as sa

    from . import _schema

    # In the temporary database, where they stand before those of the state.
    _shadows = sa.MetaData()
    _TABLES = {
        table.name: table.to_metadata(_shadows, schema="temp")
        for table in (_schema.environment, _schema.secret, _schema.version, _schema.host)
    }
    # The hosts as they were last, with what they have confirmed.
    _hosts = _schema.host.to_metadata(sa.MetaData(), schema="main")
    _pending = sa.Table(
        "pending_file",
        sa.MetaData(),
        # One state may serve several folders.
        sa.Column("folder", sa.Text, primary_key=True),
        sa.Column("path", sa.Text, primary_key=True),
        # Digests of what is there before it is written, None: nothing; and the text, None: it is removed.
        sa.Column("before", sa.Text),
        sa.Column("text", sa.Text),
    )


class FolderTransaction(Transaction):
    """What can be read and written in one transaction, and how large the files were at its beginning."""

    def __init__(self, connection: sa.Connection, label: str, actor: Actor, size: int) -> None:
        super().__init__(connection, label, actor)
        self._size = size

    def summary(self) -> Summary:
        return replace(super().summary(), engine="file", engine_version="", bytes=self._size)


class Folder:
    """A store's folder and the state beside it."""

    def __init__(self, url: sa.URL, label: str, create: bool) -> None:
        """With CREATE the folder becomes a store when there is none. `exists` says whether there is one now."""
        self._root = Path(url.database or "")
        self._label = label
        self._tree = Tree(self._root, label)
        self._files: dict[str, File] = {}
        self._texts: dict[str, str | None] = {}
        self._changes = 0
        marker = self._tree.marker()
        self.is_new = marker is None and create
        if self.is_new:
            marker = self._make()
        self.exists = marker is not None
        if marker is None:
            return
        self._created_at = marker.content["created_at"]
        state = url.query.get("state")
        self._state = Path(str(state)) if state else self._default_state()

    @property
    def place(self) -> str:
        """What messages about the state call the store."""
        return f"{self._label} (state in {self._state})"

    def _make(self) -> File:
        self._refuse_to_lose()
        self._tree.make_root()
        with self._tree.lock():
            # Another run may have been faster.
            if self._tree.marker() is None:
                texts = {MARKER: render({"created_at": now_ms(), "format": FORMAT})}
                try:
                    self._tree.stage(texts)
                    self._tree.publish(texts)
                finally:
                    self._tree.discard()
            made = self._tree.marker()
        if made is None:
            raise HostsealError(f"store {self._label}: {MARKER} was removed while it was made")
        return made

    def _default_state(self) -> Path:
        """Outside of the folder, as what is in it can be replaced by a commit, and is removed by git clean."""
        name = hashlib.sha256(f"{self._root.resolve()}\n{self._created_at}".encode()).hexdigest()[:32]
        return base_directory("XDG_STATE_HOME", ".local/state") / f"{name}.db"

    def open_state(self, read_only: bool) -> sa.Engine:
        """An engine for the state. Where there is none, who only reads gets an empty one in memory."""
        engine, _exists = open_engine(sa.URL.create("sqlite", database=str(self._state)), not read_only, read_only)

        @sa.event.listens_for(engine, "connect")
        def _connect(connection: Any, _record: Any) -> None:
            # What the state's tables refer to is in temporary ones, and temporary is in memory.
            connection.execute("PRAGMA foreign_keys = OFF")
            connection.execute("PRAGMA temp_store = MEMORY")

        return engine

    def adopt(self, connection: sa.Connection, is_new: bool) -> None:
        """Bind a new state to this store; one of another store is refused."""
        if is_new:
            connection.execute(_schema.meta.update().values(created_at=self._created_at))
            _pending.create(connection)
        elif connection.execute(sa.select(_schema.meta.c.created_at)).scalar() != self._created_at:
            raise HostsealError(
                f"store {self._label}: {self._state} is the state of another store: name another file by ?state="
            )

    def lock(self) -> Any:
        """A context in which no other run changes files."""
        return self._tree.lock()

    # A transaction

    def transaction(self, connection: sa.Connection, actor: Actor, read_only: bool) -> Transaction:
        """The transaction that has begun on CONNECTION, with the files as tables."""
        self._load(connection, read_only)
        return FolderTransaction(connection, self._label, actor, sum(file.size for file in self._files.values()))

    def _load(self, connection: sa.Connection, read_only: bool) -> None:
        noted = self._noted(connection)
        if noted and not read_only:
            self._write(connection, noted)
            noted = {}
        self._files = self._tree.read(not read_only, noted)
        _shadows.drop_all(connection)
        _shadows.create_all(connection)
        known = {(row.environment, row.name): row for row in connection.execute(_hosts.select())}
        if not read_only:
            self._forget_what_is_gone(connection, known.keys())
        rows: dict[str, list[dict[str, Any]]] = {name: [] for name in _TABLES}
        for file in self._files.values():
            for name, row in _rows(file):
                rows[name].append(row)
        for row in rows["host"]:
            was = known.get((row["environment"], row["name"]))
            # Another record may be of another machine.
            row["pinned_at"] = was.pinned_at if was and was.record == row["record"] else None
        for name, table in _TABLES.items():
            if rows[name]:
                connection.execute(table.insert(), rows[name])
        self._changes = _changes(connection)

    def stage(self, connection: sa.Connection) -> None:
        """Note what the transaction has changed in the state, and have it written beside the files."""
        self._texts = {}
        if _changes(connection) == self._changes:
            return
        self._keep_hosts(connection)
        now = _contents(connection)
        texts: dict[str, str | None] = {
            path: render(content)
            for path, content in now.items()
            if path not in self._files or self._files[path].content != content
        }
        for path, text in texts.items():
            # Nothing is written that could not be read again.
            parse(kind_of(path), str(text).encode())
        texts |= {path: None for path in self._files if path not in now}
        self._texts = texts
        if not texts:
            return
        self._refuse_to_lose()
        self._tree.refuse_changed(texts)
        self._tree.stage(texts)
        connection.execute(
            _pending.insert(),
            [
                {
                    "folder": str(self._root),
                    "path": path,
                    "before": self._files[path].digest if path in self._files else None,
                    "text": text,
                }
                for path, text in texts.items()
            ],
        )

    def publish(self, connection: sa.Connection) -> None:
        """After the transaction: bring the files to their places."""
        if not self._texts:
            return
        texts, self._texts = self._texts, {}
        self._tree.publish(texts)
        with connection.begin():
            connection.execute(_pending.delete().where(_pending.c.folder == str(self._root)))

    def discard(self) -> None:
        """Remove what was to become files of a transaction that came to nothing."""
        self._tree.discard()

    def _noted(self, connection: sa.Connection) -> dict[str, str | None]:
        """Texts by path that a run which was cut off has not brought to their places, or not removed from the notes."""
        rows = connection.execute(_pending.select().where(_pending.c.folder == str(self._root))).all()
        for row in rows:
            after = digest(row.text) if row.text is not None else None
            if self._tree.current(row.path) not in (row.before, after):
                raise HostsealError(
                    f"store {self._label}: a run was cut off before it had written {row.path}, and the file has been"
                    " changed since: have Git bring back the one that was there (git stash, or git switch to the branch"
                    " of that run), run again, and go on from there"
                )
        return {row.path: row.text for row in rows}

    def _write(self, connection: sa.Connection, texts: Mapping[str, str | None]) -> None:
        try:
            self._tree.stage(texts)
            self._tree.publish(texts)
        finally:
            self._tree.discard()
        connection.execute(_pending.delete().where(_pending.c.folder == str(self._root)))

    def _forget_what_is_gone(self, connection: sa.Connection, known: Any) -> None:
        """What was taken away elsewhere is taken away from the state, as it would have been here."""
        transaction = Transaction(connection, self._label, Actor.of({}))
        there = {path_of(file.kind, file.content) for file in self._files.values()}
        for environment, name in known:
            if path_of("host", {"environment": environment, "name": name}) not in there:
                transaction.remove_host(environment, name)
        environments = [file.content["name"] for file in self._files.values() if file.kind == "environment"]
        for table in (_schema.publication, _schema.receipt, _schema.envelope):
            for name in connection.execute(sa.select(table.c.environment).distinct()).scalars().all():
                if name not in environments:
                    connection.execute(table.delete().where(table.c.environment == name))

    def _keep_hosts(self, connection: sa.Connection) -> None:
        """In the state, by which it is known which are gone, and what they have confirmed."""
        now = [dict(row) for row in connection.execute(_TABLES["host"].select()).mappings()]
        before = [dict(row) for row in connection.execute(_hosts.select()).mappings()]
        if sorted(now, key=_key) != sorted(before, key=_key):
            connection.execute(_hosts.delete())
            if now:
                connection.execute(_hosts.insert(), now)

    def _refuse_to_lose(self) -> None:
        if ends_with_the_job(self._root):
            raise HostsealError(
                f"store {self._label} would be changed, but it is in the folder of an AWX job or of ansible-runner, which"
                " is deleted with the job: declare, enrol and change keys where the result can be committed to Git."
                " Nothing was changed"
            )


def _changes(connection: sa.Connection) -> int:
    """A number that grows with every row that is written."""
    return int(connection.connection.dbapi_connection.total_changes)  # type: ignore[union-attr]


def _key(row: Mapping[str, Any]) -> tuple[str, str]:
    return (row["environment"], row["name"])


def _rows(file: File) -> list[tuple[str, dict[str, Any]]]:
    """A file as rows of tables."""
    if file.kind != "secret":
        return [(file.kind, dict(file.content))]
    row = dict(file.content)
    versions = row.pop("versions")
    place = {"environment": row["environment"], "name": row["name"]}
    return [("secret", row), *(("secret_version", {**place, **version}) for version in versions)]


def _contents(connection: sa.Connection) -> dict[str, dict[str, Any]]:
    """What the files of all rows are to say, by path."""
    found: dict[str, dict[str, Any]] = {}
    for kind in ("environment", "host", "secret"):
        for row in connection.execute(_TABLES[kind].select()).mappings():
            content = dict(row)
            content.pop("pinned_at", None)
            if kind == "secret":
                content["versions"] = []
            path = path_of(kind, content)
            if path in found:
                raise HostsealError(
                    f"the {kind} {content['name']!r} would have the same file as {found[path]['name']!r}, {path}:"
                    " choose another name. Nothing was changed"
                )
            found[path] = content
    versions = _TABLES["secret_version"]
    for row in connection.execute(versions.select().order_by(versions.c.number)).mappings():
        version = dict(row)
        found[path_of("secret", version)]["versions"].append(
            {name: value for name, value in version.items() if name not in ("environment", "name")}
        )
    return found
