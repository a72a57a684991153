# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.modules import store
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _verifying
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import Action, Result
from ansible_collections.hostseal.secrets.plugins.plugin_utils._database import label, locate
from ansible_collections.hostseal.secrets.plugins.plugin_utils._schema import SCHEMA, OutdatedError
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store
from ansible_collections.hostseal.secrets.plugins.plugin_utils._transaction import Transaction


class ActionModule(Action):
    """Make, upgrade, copy or verify a store."""

    ARGUMENT_SPEC = store.ARGUMENT_SPEC
    CONSTRAINTS = {
        "required_by": {"copy_to_password": ["copy_to"], "copy_to_password_file": ["copy_to"]},
        "mutually_exclusive": [["copy_to_password", "copy_to_password_file"]],
    }

    def work(self, options: dict[str, Any]) -> Result:
        # Before the store is made, as a bad place for its copy is to change nothing.
        place = label(locate(options["copy_to"], None)) if options["copy_to"] else ""
        try:
            source = self.open_store(options, create=True, read_only=self.check)
        except OutdatedError:
            return self._result(None, True, place, options)
        problems: list[str] = []
        with source:
            found, copied = source.found if source.exists else None, False
            if place == source.label:
                raise HostsealError("copy_to is the place where the store is already")
            if place:
                there = {
                    "store": options["copy_to"],
                    "store_password": options["copy_to_password"],
                    "store_password_file": options["copy_to_password_file"],
                }
                with self.open_store(there, create=True, read_only=self.check) as target:
                    copied = self._copy(source, target)
                    if options["verify"] != "none":
                        problems = self._verify(source if self.check and copied else target, options)
            elif options["verify"] != "none":
                problems = self._verify(source, options)
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            return {"changed": copied, "failed": True, "problems": problems, "msg": f"{problems[0]}{more}"}
        return self._result(found, found != SCHEMA, place if copied else "", options)

    def _copy(self, source: Store, target: Store) -> bool:
        """Whether something was copied, or would be."""

        def copy(transaction: Transaction) -> bool:
            with source.transaction() as original:
                rows = original.summary().rows
                if not any(rows.values()) or transaction.is_copy_of(original):
                    return False
                if any(transaction.summary().rows.values()):
                    raise HostsealError(
                        f"store {target.label} has something else in it: copy_to takes an empty one. Nothing was changed"
                    )
                if not self.check:
                    transaction.copy_from(original)
                    if not transaction.is_copy_of(original):
                        raise HostsealError(
                            f"store {target.label} gives back something else than was copied. Nothing was changed"
                        )
                return True

        return target.run(copy)

    def _verify(self, checked: Store, options: dict[str, Any]) -> list[str]:
        with checked.transaction() as transaction:
            if options["verify"] == "records":
                return list(_verifying.problems(transaction))
            return list(_verifying.problems(transaction, lambda environment: self.open_backend(environment, options)))

    def _result(self, found: int | None, is_new: bool, copy: str, options: dict[str, Any]) -> Result:
        """COPY is where something was copied to, empty when nothing was."""
        result: Result = {"changed": is_new or bool(copy), "found": found, "copied": bool(copy)}
        if options["verify"] != "none":
            result["problems"] = []
        if self._task.diff and result["changed"]:
            lines = [f"store of schema version {SCHEMA}\n"] if is_new else []
            lines += [f"copy at {copy}\n"] if copy else []
            result["diff"] = {"before": f"store of schema version {found}\n" if found else "", "after": "".join(lines)}
        return result
