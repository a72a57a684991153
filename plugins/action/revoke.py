# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.hostseal.secrets.plugins.action.mount import ActionModule as MountAction
from ansible_collections.hostseal.secrets.plugins.module_utils._model import Mount, check_name
from ansible_collections.hostseal.secrets.plugins.modules import revoke
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import Result
from ansible_collections.hostseal.secrets.plugins.plugin_utils._revoking import without
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store


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
        return mounts, [(self._environment, name) for name in remove]

    def purge(self) -> tuple[str, str | None] | None:
        """With all secrets taken away no mount stays, known to the store or not."""
        return (self._environment, None) if self._secrets is None else None
