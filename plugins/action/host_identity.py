# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import Action, Result, plain


class ActionModule(Action):
    """Fill in the host's name, which only the control node knows; the rest is the module's, on the host."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> Result:
        del tmp
        self.task_vars = task_vars or {}
        arguments = plain(self._task.args)
        arguments["name"] = self.host_name(arguments.get("name"))
        return self._execute_module(module_args=arguments, task_vars=task_vars)
