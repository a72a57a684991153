# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.hostseal.secrets.plugins.action.mount import ActionModule as MountAction
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError, Mount, check_name
from ansible_collections.hostseal.secrets.plugins.modules import revoke
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import Result
from ansible_collections.hostseal.secrets.plugins.plugin_utils._revoking import without
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store
from ansible_collections.hostseal.secrets.plugins.plugin_utils._transaction import Transaction


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
        with store.transaction() as transaction:
            if self.check and transaction.find_environment(self._environment) is None:
                return [], []
            mounts, remove = without(transaction, self._environment, host, self._secrets)
            if self._secrets is not None and not mounts and not remove:
                self._refuse_without_records(store, transaction)
        return mounts, [(self._environment, name) for name in remove]

    def _refuse_without_records(self, store: Store, transaction: Transaction) -> None:
        """Nothing is known of the host, and perhaps because others deliver."""
        delivers = (
            record.action == "mount.delivered" and record.environment == self._environment
            for record in transaction.audit()
        )
        if store.keeps_deliveries_apart and not any(delivers):
            raise HostsealError(
                f"store {store.label} has no record on this machine of what hosts have of environment"
                f" {self._environment!r}: there may be something to take away that is not known here. Run it where"
                " deliveries are made, or deliver the mounts from here first; without the option secrets everything is"
                " taken away"
            )

    def purge(self) -> tuple[str, str | None] | None:
        """With all secrets taken away no mount stays, known to the store or not."""
        return (self._environment, None) if self._secrets is None else None
