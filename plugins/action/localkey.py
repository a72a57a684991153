# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.hostseal.secrets.plugins.modules import localkey
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import Action, Result
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends import localkey as keys


class ActionModule(Action):
    """Make or rotate a key file on the control node."""

    ARGUMENT_SPEC = localkey.ARGUMENT_SPEC

    def work(self, options: dict[str, Any]) -> Result:
        directory, name = keys.key_directory(options["key_path"]), options["name"]
        before = keys.versions(directory, name)
        changed = not before or options["state"] == "rotated"
        if not self.check:
            created = keys.create(directory, name)
            changed = created or options["state"] == "rotated"
            if changed and not created:
                keys.rotate(directory, name)
        after = [*before, before[-1] + 1 if before else 1] if self.check and changed else keys.versions(directory, name)
        result: Result = {"changed": changed, "path": str(keys.key_file(directory, name)), "version": after[-1]}
        if self._task.diff and changed:
            result["diff"] = {"before": _lines(name, before), "after": _lines(name, after)}
        return result


def _lines(name: str, versions: list[int]) -> str:
    return "".join(f"{name} version {number}\n" for number in versions)
