# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ansible_collections.hostseal.secrets.plugins.modules import store_info
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import Action, Result, iso


class ActionModule(Action):
    """Describe the store as a whole."""

    ARGUMENT_SPEC = store_info.ARGUMENT_SPEC
    _supports_diff = False

    def work(self, options: dict[str, Any]) -> Result:
        with self.open_store(options, read_only=True) as store:
            if not store.exists:
                return {"changed": False, "store": None}
            with store.transaction() as transaction:
                found = transaction.summary()
        return {
            "changed": False,
            "store": {**asdict(found), "location": store.label, "created_at": iso(found.created_at)},
        }
