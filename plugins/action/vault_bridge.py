# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.modules import vault_bridge
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _bridge, _bridge_plan
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import Action, Result


class ActionModule(Action):
    """Set the bridge up for an environment, or retire hosts from it."""

    ARGUMENT_SPEC = vault_bridge.ARGUMENT_SPEC
    CONSTRAINTS = {"required_if": [["state", "present", ["environment"]], ["state", "absent", ["hosts"]]]}

    def work(self, options: dict[str, Any]) -> Result:
        bridge = _bridge.Bridge.from_options(options, self.check)
        if options["purge"] and (options["roles"] is None or options["hosts"] is None):
            raise HostsealError("purge needs roles and hosts: what is not in them is removed, so say [] for none")
        session = self.vault(options)
        retire = options["state"] == "absent"
        plan = (_bridge_plan.plan_retirement if retire else _bridge_plan.plan)(session, bridge)
        for warning in plan.warnings:
            self._display.warning(warning)
        if not self.check:
            plan.carry_out(session)
        result: Result = {"changed": bool(plan.steps), **_told(bridge, retire)}
        if self._task.diff and plan.steps:
            result["diff"] = {"before": _text(plan.before), "after": _text(plan.after)}
        return result


def _told(bridge: _bridge.Bridge, retire: bool) -> Result:
    hosts: list[dict[str, Any]] = [
        {"name": host.name, "mount_point": bridge.auth_path(host.name)} for host in bridge.hosts
    ]
    if retire:
        return {"hosts": hosts}
    for told, host in zip(hosts, bridge.hosts, strict=True):
        told["login_roles"] = list(bridge.login_roles(host))
    token_roles = [(role.name, bridge.name(role.name)) for role in bridge.roles]
    return {
        "roles": [
            {"name": name, "token_role": made, "creation_path": f"auth/token/create/{made}"}
            for name, made in token_roles
        ],
        "hosts": hosts,
        "policies": bridge.policies(),
    }


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
