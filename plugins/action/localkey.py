# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.modules import localkey
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import Action, Result
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends import localkey as keys
from ansible_collections.hostseal.secrets.plugins.plugin_utils._migrating import key_versions_in_use


class ActionModule(Action):
    """Make, rotate or retire a key file on the control node."""

    ARGUMENT_SPEC = localkey.ARGUMENT_SPEC

    def work(self, options: dict[str, Any]) -> Result:
        directory, name = keys.key_directory(options["key_path"]), options["name"]
        before = keys.versions(directory, name)
        after = before or [1]
        if before and options["state"] == "rotated":
            after = [*after, after[-1] + 1]
        oldest = options["min_decryption_version"]
        with contextlib.ExitStack() as until_it_is_done:
            if oldest is not None:
                # No other run may encrypt under a version between the look at the store and the version's end.
                until_it_is_done.enter_context(self._retirement(name, after, oldest, options))
                after = [number for number in after if number >= oldest]
            changed = before != after
            if changed:
                keys.check_changeable(directory)
            if not self.check:
                # Another host's task may have been faster: what this one did counts.
                changed = keys.create(directory, name)
                if options["state"] == "rotated" and not changed:
                    changed = bool(keys.rotate(directory, name))
                if oldest is not None:
                    changed = bool(keys.retire(directory, name, oldest)) or changed
                after = keys.versions(directory, name)
        result: Result = {
            "changed": changed,
            "path": str(keys.key_file(directory, name)),
            "version": after[-1],
            "versions": after,
        }
        if self._task.diff and result["changed"]:
            result["diff"] = {"before": _lines(name, before), "after": _lines(name, after)}
        return result

    @contextlib.contextmanager
    def _retirement(self, name: str, versions: list[int], oldest: int, options: dict[str, Any]) -> Iterator[None]:
        if not 1 <= oldest <= versions[-1]:
            raise HostsealError(
                f"key {name!r} has no version {oldest}: the newest is {versions[-1]}. Nothing was changed"
            )
        if oldest <= versions[0]:
            yield
            return
        # Without a store nothing could be checked, and a key can't be brought back.
        with self.open_store(options) as store, store.transaction() as transaction:
            used = key_versions_in_use(transaction, "localkey", name, None)
            stale = [number for number in sorted(used) if number < oldest]
            if stale:
                raise HostsealError(
                    f"environment {used[stale[0]]!r} has secrets under version {stale[0]} of key {name!r}: run"
                    " hostseal.secrets.rewrap first. Nothing was changed"
                )
            yield


def _lines(name: str, versions: list[int]) -> str:
    return "".join(f"{name} version {number}\n" for number in versions)
