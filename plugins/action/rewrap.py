# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.hostseal.secrets.plugins.module_utils._model import check_name
from ansible_collections.hostseal.secrets.plugins.modules import rewrap
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _migrating
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import Action, Result


class ActionModule(Action):
    """Encrypt what is stored under the newest key version."""

    ARGUMENT_SPEC = rewrap.ARGUMENT_SPEC

    def work(self, options: dict[str, Any]) -> Result:
        name = check_name("environment", options["environment"])
        with self.open_store(options) as store:
            if self.check and not store.exists:
                return {"changed": False, "rewrapped": 0, "key_version": None}
            count, newest = _migrating.rewrap(
                store,
                name,
                lambda environment: self.open_backend(environment, options),
                lambda done, whole: self.progress(f"rewrap {name}: {done} of {whole} versions"),
                self.check,
            )
        result: Result = {"changed": count > 0, "rewrapped": count, "key_version": newest}
        if self._task.diff and count:
            result["diff"] = {
                "before": f"environment {name}: {count} versions under older key versions\n",
                "after": f"environment {name}: all under key version {newest}\n",
            }
        return result
