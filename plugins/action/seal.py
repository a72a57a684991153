# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError, Mount, check_name
from ansible_collections.hostseal.secrets.plugins.modules import seal
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _sealing
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import Action, Result


class ActionModule(Action):
    """Seal mounts for many hosts, once per run."""

    ARGUMENT_SPEC = seal.ARGUMENT_SPEC
    CONSTRAINTS = {"required_together": [["hosts", "mounts"]], "required_one_of": [["mounts", "mounts_by_host"]]}

    def work(self, options: dict[str, Any]) -> Result:
        wanted = _wanted(options)
        with self.open_store(options) as store:
            plans, predicted = (
                _sealing.plan_for_check(store, wanted) if self.check else (_sealing.plan(store, wanted), {})
            )
            fresh = [plan for plan in plans if not plan.is_sealed]
            if fresh and not self.check:
                _sealing.seal(store, lambda environment: self.open_backend(environment, options), fresh)
        for reason in sorted(set(predicted.values())):
            self._display.warning(f"{reason}; predicted as if this run did so")
        sealed = {(plan.host, plan.mount.volume) for plan in fresh} | set(predicted)
        result: Result = {
            "changed": bool(sealed),
            "envelopes": [
                {"host": host, "volume": mount.volume, "sealed": (host, mount.volume) in sealed}
                for host, mount in wanted
            ],
        }
        if self._task.diff and sealed:
            result["diff"] = {
                "before": "",
                "after": "".join(f"{volume} sealed for {host}\n" for host, volume in sorted(sealed)),
            }
        return result


def _wanted(options: dict[str, Any]) -> list[tuple[str, Mount]]:
    hosts = [check_name("host", host) for host in options["hosts"] or []]
    wanted = [
        (host, mount)
        for mount in Mount.list_from_options(options["mounts"] or [], options["environment"])
        for host in hosts
    ]
    for host, mounts in (options["mounts_by_host"] or {}).items():
        check_name("host", host)
        if not isinstance(mounts, list):
            raise HostsealError(f"mounts_by_host: the mounts of host {host!r} are not a list")
        wanted += [(host, mount) for mount in Mount.list_from_options(mounts, options["environment"])]
    return wanted
