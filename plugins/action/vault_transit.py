# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.modules import vault_transit
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _transit
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import Action, Result, store_password
from ansible_collections.hostseal.secrets.plugins.plugin_utils._migrating import key_versions_in_use
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store

_PRESENT_ALONE = ("rotate_after", "auto_rotate_period", "min_decryption_version", "issue")


class ActionModule(Action):
    """Set a Transit engine up for an environment, or rotate its key."""

    ARGUMENT_SPEC = vault_transit.ARGUMENT_SPEC

    def work(self, options: dict[str, Any]) -> Result:
        wanted = _transit.Wanted.from_options(options)
        result: Result = {"engine_mount_point": wanted.engine, "policies": wanted.policies(), "credentials": []}
        if options["state"] == "rotated":
            return {**result, **self._rotate(wanted, options)}
        session = self.vault(options)
        plan = _transit.plan(session, wanted, lambda: self._versions_in_use(wanted, options))
        for warning in plan.warnings:
            self._display.warning(warning)
        if not self.check:
            plan.carry_out(session)
        result.update(changed=bool(plan.steps), transit_keys=plan.keys, credentials=plan.credentials)
        if self._task.diff and plan.steps:
            result["diff"] = {"before": _text(plan.before), "after": _text(plan.after)}
        return result

    def _rotate(self, wanted: _transit.Wanted, options: dict[str, Any]) -> Result:
        other = next((name for name in _PRESENT_ALONE if options[name] is not None), None)
        if other or wanted.credentials:
            raise HostsealError(f"state: rotated does nothing else: {other or 'credentials'} is for state: present")
        newest = _transit.rotate(self.vault(options), wanted) if not self.check else None
        result: Result = {
            "changed": True,
            "transit_keys": [{"name": wanted.key, "latest_version": newest, "created": False}],
        }
        if self._task.diff:
            result["diff"] = {"before": "", "after": f"key {wanted.key}: a new version\n"}
        return result

    def _versions_in_use(self, wanted: _transit.Wanted, options: dict[str, Any]) -> dict[int, str] | None:
        with Store(options["store"], False, password=store_password(options), read_only=True) as store:
            if not store.exists:
                return None
            with store.transaction() as transaction:
                return key_versions_in_use(transaction, "vault", wanted.key, wanted.engine)


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
