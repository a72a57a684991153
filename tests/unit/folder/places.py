# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A store in a folder, as the unit tests know one in a file."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.hostseal.secrets.plugins.plugin_utils import _schema, _tree
from ansible_collections.hostseal.secrets.plugins.plugin_utils._audit import Actor
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store
from sqlalchemy.schema import CreateTable

from tests.unit.builders import Place

_TABLES = ("environment", "host", "secret", "secret_version")


@dataclass(frozen=True)
class FolderPlace(Place):
    """`path` is a file that is not there; nothing may make it."""

    folder: Path

    @property
    def label(self) -> str:
        return f"file://{self.folder}"

    def store(self, create: bool = False, actor: Actor | None = None, read_only: bool = False) -> Store:
        return Store(self.label, create, actor, read_only=read_only)

    @property
    def state(self) -> Path:
        """The database of this machine."""
        [found] = Path(os.environ["XDG_STATE_HOME"], "hostseal").glob("*.db")
        return found

    def sql(self, statement: str, *arguments: object) -> list[Any]:
        """As if files and state were one database; files are written without a look at what they say."""
        with self._as_database() as connection:
            return connection.execute(statement, arguments).fetchall()

    def edit(self, statement: str, *arguments: object) -> None:
        with self._as_database() as connection:
            assert connection.execute(statement, arguments).rowcount != 0

    def content(self) -> bytes:
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        state = b""
        if list(self.state.parent.glob("*.db")):
            with contextlib.closing(sqlite3.connect(self.state)) as connection:
                state = "\n".join(connection.iterdump()).encode()
        return b"".join(str(path).encode() + path.read_bytes() for path in files) + state

    @contextlib.contextmanager
    def _as_database(self) -> Iterator[sqlite3.Connection]:
        with contextlib.closing(sqlite3.connect(self.state, isolation_level=None)) as connection:
            for name in _TABLES:
                table = str(CreateTable(_schema.metadata.tables[name])).replace("CREATE TABLE", "CREATE TEMP TABLE")
                connection.execute(table)
            files = sorted(path for path in self.folder.glob("environments/**/*.json"))
            for path in files:
                self._insert(connection, path)
            connection.execute(
                "UPDATE host SET pinned_at = (SELECT was.pinned_at FROM main.host was"
                " WHERE was.environment = host.environment AND was.name = host.name)"
            )
            before = connection.total_changes
            yield connection
            if connection.total_changes == before:
                return
            for path in files:
                path.unlink()
            connection.row_factory = sqlite3.Row
            for name in ("environment", "host", "secret"):
                for row in connection.execute(f"SELECT * FROM {name}").fetchall():  # noqa: S608
                    self._write(connection, name, dict(row))

    @staticmethod
    def _insert(connection: sqlite3.Connection, path: Path) -> None:
        row = json.loads(path.read_text(encoding="ascii"))
        del row["sha256"]
        kind = "environment" if path.name == "environment.json" else path.parent.name.rstrip("s")
        versions = row.pop("versions", [])
        rows = [(kind, row)]
        rows += [
            ("secret_version", {"environment": row["environment"], "name": row["name"], **one}) for one in versions
        ]
        for table, values in rows:
            marks = ", ".join(f":{column}" for column in values)
            connection.execute(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({marks})", values)  # noqa: S608

    def _write(self, connection: sqlite3.Connection, kind: str, row: dict[str, Any]) -> None:
        if kind == "secret":
            query = "SELECT * FROM secret_version WHERE environment = ? AND name = ? ORDER BY number"
            found = connection.execute(query, (row["environment"], row["name"])).fetchall()
            row["versions"] = [
                {key: value for key, value in dict(one).items() if key not in ("environment", "name")} for one in found
            ]
        row.pop("pinned_at", None)
        path = self.folder / _tree.path_of(kind, row)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(_tree.render(row), encoding="ascii")
