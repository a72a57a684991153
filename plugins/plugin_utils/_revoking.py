# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a host's mounts become when secrets are taken away from it. Known from the store: nothing has to be declared."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from ..module_utils._envelope import SecretRef, Statement, read_key_set, read_statement
from ..module_utils._jose import load_signing_key
from ..module_utils._model import HostsealError, Mount, mode_text
from ._records import Receipt
from ._transaction import Transaction


@dataclass(frozen=True)
class _Holding:
    """A mount of the host: the statement of its newest envelope, and what the host confirmed."""

    statement: Statement | None
    receipt: Receipt | None

    @property
    def sources(self) -> set[str]:
        """The secrets that the host has or may have."""
        sealed = {secret.name for secret in self.statement.secrets} if self.statement else set()
        return sealed | ({secret["name"] for secret in self.receipt.secrets} if self.receipt else set())

    def secrets(self) -> list[tuple[SecretRef, int]]:
        """Each with the version that the host has: the newest envelope may be one that it was never given."""
        if self.statement is None:
            return []
        sealed = [(secret, secret.version) for secret in self.statement.secrets]
        if self.receipt is None or self.receipt.state_digest == self.statement.state_digest:
            return sealed
        confirmed = sorted((secret["name"], secret["version"]) for secret in self.receipt.secrets)
        numbers = dict(confirmed)  # of several versions of one secret the newest: it is the one that is not pinned
        return [
            (secret, number if (secret.name, number) in confirmed else numbers[secret.name])
            for secret, number in sealed
            if secret.name in numbers
        ]


def without(
    transaction: Transaction, environment: str, host: str, names: Collection[str] | None
) -> tuple[list[Mount], list[str]]:
    """The mounts of HOST that have one of the secrets NAMES as they are without them, and mounts in which nothing is left.

    The other secrets keep their versions. With NAMES None all mounts are to be removed.
    """
    mounts: list[Mount] = []
    remove: list[str] = []
    for name, holding in _holdings(transaction, environment, host):
        if names is not None and holding.sources.isdisjoint(names):
            continue
        left = None if names is None else _left(transaction, holding, names)
        if left:
            mounts.append(left)
        else:
            remove.append(name)
    return mounts, remove


def _holdings(transaction: Transaction, environment: str, host: str) -> list[tuple[str, _Holding]]:
    record = transaction.environment(environment)
    # An earlier key is vouched for in the key set; whether the present one is the backend's is found out by sealing.
    keys = read_key_set(record.key_set, [load_signing_key(record.signing_key)]).keys
    found: dict[str, _Holding] = {}
    for (_host, name), envelope in transaction.envelopes(environment, [host]).items():
        try:
            statement = read_statement(envelope.text, keys)
        except HostsealError:  # edited, or of a key that is retired
            continue
        # A row that was moved here would bring the host what another one has.
        if (statement.environment, statement.host, statement.mount) == (environment, host, name):
            found[name] = _Holding(statement, None)
    for receipt in transaction.receipts(environment, [host]):
        known = found.get(receipt.mount)
        found[receipt.mount] = _Holding(known.statement if known else None, receipt)
    return sorted(found.items())


def _left(transaction: Transaction, holding: _Holding, names: Collection[str]) -> Mount | None:
    """The mount without NAMES; None when nothing is left of it, or its envelope can't be read."""
    if holding.statement is None:
        return None
    environment = holding.statement.environment
    secrets = holding.secrets()
    versions = transaction.versions(environment, [secret.name for secret, _number in secrets])
    stored = {(version.name, version.number) for version in versions}
    entries: list[dict[str, object]] = [
        {
            "source": secret.name,
            "target": secret.target,
            "uid": secret.uid,
            "gid": secret.gid,
            "mode": mode_text(secret.mode),
            "version": number,
        }
        for secret, number in secrets
        if secret.name not in names and (secret.name, number) in stored
    ]
    token = holding.statement.vault_token
    if token:
        place = {key: value for key, value in token.as_dict().items() if key not in ("role", "wrap_ttl")}
        entries.append({"vault_token": {"role": token.role, "wrap_ttl": token.wrap_ttl}, **place})
    if not entries:
        return None
    options = holding.statement.options.as_dict()
    return Mount.from_options(
        {**options, "environment": environment, "name": holding.statement.mount, "secrets": entries}
    )
