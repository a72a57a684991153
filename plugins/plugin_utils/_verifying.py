# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a store holds together: what can be told without keys, and whether every ciphertext opens with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..module_utils._envelope import read_key_set, read_statement
from ..module_utils._jose import load_signing_key
from ..module_utils._model import HostsealError
from ._audit import first_broken
from ._backends import Backend, Binding
from ._records import Environment
from ._sealing import read_host_key, trusted_keys
from ._transaction import Transaction

# Values that are in memory at a time: four full requests to Vault.
_CHUNK = 996


def problems(transaction: Transaction, open_backend: Callable[[Environment], Backend] | None = None) -> Iterator[str]:
    """What is wrong, a line each; with OPEN_BACKEND every value is decrypted, and forgotten at once."""
    broken = first_broken(transaction.audit())
    if broken is not None:
        yield f"audit log: record {broken} does not follow from the one before"
    for environment in transaction.environments():
        for problem in _of_environment(transaction, environment, open_backend):
            yield f"environment {environment.name}: {problem}"


def _of_environment(
    transaction: Transaction, environment: Environment, open_backend: Callable[[Environment], Backend] | None
) -> Iterator[str]:
    yield from _of_numbers(transaction, environment.name)
    try:
        signing = load_signing_key(environment.signing_key)
        if signing.thumbprint() != environment.signing_kid:
            yield "its signing key is another than the one that it names"
        keys = read_key_set(environment.key_set, [signing]).keys
    except HostsealError as error:
        yield f"its key set: {error}"
    else:
        for host in transaction.hosts(environment.name).values():
            try:
                read_host_key(host, environment.name, [signing])
            except HostsealError as error:
                yield str(error)
        hosts = sorted(transaction.hosts(environment.name))
        for (host_name, mount), envelope in transaction.envelopes(environment.name, hosts).items():
            try:
                statement = read_statement(envelope.text, keys)
            except HostsealError as error:
                yield f"envelope of mount {mount!r} for host {host_name!r}: {error}"
                continue
            told = (statement.environment, statement.host, statement.mount, statement.issued_at, statement.state_digest)
            if told != (environment.name, host_name, mount, envelope.issued_at, envelope.state_digest):
                yield f"envelope of mount {mount!r} for host {host_name!r} is another than its row says"
    if open_backend is not None:
        yield from _of_values(transaction, environment, open_backend)


def _of_numbers(transaction: Transaction, environment: str) -> Iterator[str]:
    versions = transaction.versions(environment)
    last = transaction.last_numbers(environment, sorted({version.name for version in versions}))
    for version in versions:
        if version.number > last.get(version.name, 0):
            yield f"secret {version.name!r}: version {version.number} is above the last number that was given"
    current = transaction.current_versions(environment)
    for name in sorted({version.name for version in versions} - current.keys()):
        yield f"secret {name!r}: the version that is to be used is not there"


def _of_values(
    transaction: Transaction, environment: Environment, open_backend: Callable[[Environment], Backend]
) -> Iterator[str]:
    try:
        backend = open_backend(environment)
        trusted_keys(environment, backend)
    except HostsealError as error:
        yield str(error)
        return
    items = [
        (Binding(version.environment, version.name, version.number), version.ciphertext)
        for version in transaction.versions(environment.name)
    ]
    for start in range(0, len(items), _CHUNK):
        part = items[start : start + _CHUNK]
        try:
            backend.decrypt(part)
        except HostsealError:
            yield from _one_by_one(backend, part)


def _one_by_one(backend: Backend, items: list[tuple[Binding, str]]) -> Iterator[str]:
    for item in items:
        try:
            backend.decrypt([item])
        except HostsealError as error:
            yield str(error)
