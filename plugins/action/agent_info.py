# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.hostseal.secrets.plugins.modules import agent_info
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import Action, Result
from ansible_collections.hostseal.secrets.plugins.plugin_utils._collecting import collect


class ActionModule(Action):
    """Ask the agent, and record in the store what the host has fetched."""

    ARGUMENT_SPEC = agent_info.ARGUMENT_SPEC
    _supports_diff = False

    def work(self, options: dict[str, Any]) -> Result:
        answer: Result = self._execute_module(
            module_name="hostseal.secrets.agent_info", module_args={}, task_vars=self.task_vars
        )
        answer.pop("invocation", None)
        if not options["receipts"] or answer.get("failed") or answer.get("unreachable"):
            return answer
        host = self.host_name(options["host"])
        answer["recorded"] = []
        if answer["agent"]["installed"] and not self.check:
            if answer["agent"]["host"] != host:
                answer["problems"].append(
                    f"the agent's identity is {answer['agent']['host']!r}, but the task is about host {host!r}, so no"
                    " receipt was recorded: set the option host"
                )
                return answer
            with self.open_store(options) as store:
                answer["recorded"] = collect(store, host, answer)
        return answer
