# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""An environment with a real key and a real store, and processes that work on them at the same time."""

from __future__ import annotations

import contextlib
import multiprocessing
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.hostseal.secrets.plugins.module_utils import _envelope as envelope
from ansible_collections.hostseal.secrets.plugins.module_utils import _jose
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _declaring, _migrating
from ansible_collections.hostseal.secrets.plugins.plugin_utils._audit import Actor
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends import Backend, localkey
from ansible_collections.hostseal.secrets.plugins.plugin_utils._records import (
    Environment,
    HostRecord,
    Version,
    new_version_id,
    now_ms,
)
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store
from jwcrypto.jwk import JWK

_fork = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Place:
    """Where a test has its store and its keys."""

    path: Path
    keys: Path

    def store(self, create: bool = False, actor: Actor | None = None, read_only: bool = False) -> Store:
        return Store(str(self.path), create, actor, read_only=read_only)

    @property
    def label(self) -> str:
        """What messages call the store."""
        return str(self.path)

    def sql(self, statement: str, *arguments: object) -> list[Any]:
        """What somebody with the database's own tool at hand would do; ? stands for an argument."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            return connection.execute(statement, arguments).fetchall()

    def edit(self, statement: str, *arguments: object) -> None:
        """The same, constraints or not; something must have been changed by it."""
        with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            connection.execute("PRAGMA foreign_keys = OFF")
            assert connection.execute(statement, arguments).rowcount != 0

    def content(self) -> bytes:
        """All that is stored, with what the database has around it."""
        return self.path.read_bytes()

    def unprotect_audit(self) -> None:
        """What somebody who edits the audit log would begin with."""
        for verb in ("update", "delete"):
            self.sql(f"DROP TRIGGER audit_no_{verb}")

    def backend(self, name: str = "prod") -> Backend:
        return localkey.LocalKey(self.keys, name)

    def declare_environment(self, name: str = "prod") -> Environment:
        """What the module environment does, with a fresh key of the same name."""
        localkey.create(self.keys, name)
        backend = self.backend(name)
        environment = _migrating.new_record(name, "localkey", name, None, backend)
        with self.store(create=True) as store, store.transaction() as transaction:
            transaction.add_environment(environment)
        return environment

    def declare(
        self, *secrets: dict[str, Any], environment: str = "prod", check: bool = False
    ) -> list[_declaring.Outcome]:
        """What the module secret does with its list."""
        defaults = {"state": "present", "on_difference": "fail"}
        declarations = [_declaring.Declaration.from_options({**defaults, **secret}) for secret in secrets]
        with self.store() as store, store.transaction() as transaction:
            return _declaring.declare(transaction, environment, lambda: self.backend(environment), declarations, check)

    def values(self, environment: str = "prod") -> dict[str, bytes]:
        """The newest value of each secret, decrypted."""
        with self.store() as store, store.transaction() as transaction:
            versions = transaction.current_versions(environment)
        items = [
            (_declaring.Binding(environment, version.name, version.number), version.ciphertext)
            for version in versions.values()
        ]
        return dict(zip(versions, self.backend(environment).decrypt(items), strict=True))

    def enrol(self, host: str, key: JWK | None = None, environment: str = "prod") -> JWK:
        """What the module host does; returns the host's private key."""
        key = key or _jose.new_host_key()
        backend = self.backend(environment)
        kid = backend.verification_keys()[0].thumbprint()
        covered = _jose.signing_input(envelope.HOST_RECORD, kid, envelope.host_record(environment, host, key))
        record = _jose.attach_signature(covered, backend.sign([covered])[0])
        with self.store() as store, store.transaction() as transaction:
            transaction.put_host(HostRecord(environment, host, key.thumbprint(), record))
        return key


def version(number: int = 1, name: str = "password", environment: str = "prod", **changes: Any) -> Version:
    """A version's row whose ciphertext is none."""
    fields = {"ciphertext": "localkey:v1:AAAA", "fingerprint": "f", "created_at": now_ms(), **changes}
    return Version(environment, name, number, new_version_id(), **fields)


def in_processes(count: int, work: Callable[[int], object], timeout: float = 60) -> list[int | None]:
    """Run WORK(number) in COUNT forks that start together; their exit codes (None: not ended in time, and killed)."""
    gate = _fork.Barrier(count)

    def run(number: int) -> None:
        gate.wait()
        work(number)

    processes = [_fork.Process(target=run, args=(number,)) for number in range(count)]
    for process in processes:
        process.start()
    codes = []
    for process in processes:
        process.join(timeout)
        codes.append(process.exitcode)
        process.kill()
    return codes


def collect(count: int, work: Callable[[int], Sequence[Any]]) -> list[Any]:
    """What WORK(number) returned in COUNT forks, together in one list."""
    pipes = [_fork.Pipe(duplex=False) for _number in range(count)]

    def run(number: int) -> None:
        pipes[number][1].send(list(work(number)))

    codes = in_processes(count, run)
    assert codes == [0] * count
    return [item for reader, _writer in pipes for item in reader.recv()]
