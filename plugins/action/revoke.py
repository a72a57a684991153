# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.hostseal.secrets.plugins.action.mount import ActionModule as MountAction
from ansible_collections.hostseal.secrets.plugins.module_utils._envelope import (
    Statement,
    load_signing_key,
    read_statement,
)
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError, Mount, check_name, mode_text
from ansible_collections.hostseal.secrets.plugins.modules import revoke
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import Result
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store, Transaction


class ActionModule(MountAction):
    """Take secrets away from one host: its mounts are delivered without them."""

    ARGUMENT_SPEC = revoke.ARGUMENT_SPEC
    CONSTRAINTS = {}

    def work(self, options: dict[str, Any]) -> Result:
        self._environment = check_name("environment", options["environment"])
        names = options["secrets"]
        self._secrets = None if names is None else {check_name("secret", name) for name in names}
        return super().work(options)

    def wanted(self, store: Store, host: str) -> tuple[list[Mount], list[tuple[str, str]]]:
        """Of each mount of the host that has one of the secrets what is left, or the mount to remove."""
        mounts: list[Mount] = []
        remove: list[tuple[str, str]] = []
        with store.transaction() as transaction:
            if self.check and transaction.find_environment(self._environment) is None:
                return [], []
            transaction.environment(self._environment)
            for name, sources, statement in self._holdings(transaction, host):
                if self._secrets is None or not self._secrets.isdisjoint(sources):
                    left = statement and self._without(transaction, statement)
                    if left:
                        mounts.append(left)
                    else:
                        remove.append((self._environment, name))
        return mounts, remove

    def purge(self) -> tuple[str, str | None] | None:
        """With all secrets taken away no mount stays, known to the store or not."""
        return (self._environment, None) if self._secrets is None else None

    def _holdings(self, transaction: Transaction, host: str) -> list[tuple[str, set[str], Statement | None]]:
        """Each mount of the host, the secrets that it has or may have, and the statement of its newest envelope."""
        record = transaction.environment(self._environment)
        found: dict[str, tuple[set[str], Statement | None]] = {}
        for (_host, name), envelope in transaction.envelopes(self._environment, [host]).items():
            try:
                statement = read_statement(envelope.text, [load_signing_key(record.signing_key)])
            except HostsealError:  # of an earlier key
                found[name] = (set(), None)
            else:
                found[name] = ({secret.name for secret in statement.secrets}, statement)
        for receipt in transaction.receipts(self._environment, [host]):
            sources, known = found.get(receipt.mount, (set(), None))
            found[receipt.mount] = (sources | {secret["name"] for secret in receipt.secrets}, known)
        return [(name, sources, known) for name, (sources, known) in sorted(found.items())]

    def _without(self, transaction: Transaction, statement: Statement) -> Mount | None:
        """The mount as the statement has it, without the secrets that are revoked; None when nothing is left of it."""
        stored = {
            (version.name, version.number)
            for version in transaction.versions(self._environment, [secret.name for secret in statement.secrets])
        }
        left = [
            {
                "source": secret.name,
                "target": secret.target,
                "uid": secret.uid,
                "gid": secret.gid,
                "mode": mode_text(secret.mode),
                "version": secret.version,
            }
            for secret in statement.secrets
            if (secret.name, secret.version) in stored and secret.name not in (self._secrets or set())
        ]
        if not left or self._secrets is None:
            return None
        options = statement.options.as_dict()
        return Mount.from_options(
            {**options, "environment": self._environment, "name": statement.mount, "secrets": left}
        )
