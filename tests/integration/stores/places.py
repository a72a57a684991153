# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store in a database of a real server, as the unit tests know one in a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ansible_collections.hostseal.secrets.plugins.plugin_utils._audit import Actor
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store

from tests.rig.databases import PASSWORD, MariaDB, PostgreSQL
from tests.unit.builders import Place


@dataclass(frozen=True)
class ServerPlace(Place):
    """`path` is a file that is not there; nothing may make it."""

    server: MariaDB | PostgreSQL
    database: str

    @property
    def url(self) -> str:
        return self.server.url(self.database)

    def store(self, create: bool = False, actor: Actor | None = None, read_only: bool = False) -> Store:
        return Store(self.url, create, actor, PASSWORD, read_only)

    @property
    def label(self) -> str:
        return self.url.partition("?")[0]

    def sql(self, statement: str, *arguments: object) -> list[Any]:
        text = statement.replace("%", "%%").replace("?", "%s") if arguments else statement
        return self.server.execute(text, arguments, self.database)

    def edit(self, statement: str, *arguments: object) -> None:
        assert self.server.edit(statement.replace("?", "%s"), arguments, self.database)

    def content(self) -> bytes:
        dump = self.server.dump(self.database)
        # Each dump has a time, or a token of its own.
        return b"\n".join(line for line in dump.splitlines() if not line.startswith((b"-- Dump", b"\\")))

    def unprotect_audit(self) -> None:
        for statement in self.server.unprotect:
            self.sql(statement)
