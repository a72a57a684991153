# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError, check_name
from ansible_collections.hostseal.secrets.plugins.modules import secret
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import Action, Result
from ansible_collections.hostseal.secrets.plugins.plugin_utils._declaring import Declaration, Outcome, declare
from ansible_collections.hostseal.secrets.plugins.plugin_utils._transaction import Transaction

_DEFAULTS = {"state": "present", "on_difference": "fail"}


class ActionModule(Action):
    """Declare secrets in the store."""

    ARGUMENT_SPEC = secret.ARGUMENT_SPEC
    CONSTRAINTS = {"mutually_exclusive": [["name", "secrets"]], "required_one_of": [["name", "secrets"]]}

    def work(self, options: dict[str, Any]) -> Result:
        environment = check_name("environment", options["environment"])
        declarations = [Declaration.from_options(item) for item in _items(options)]
        with self.open_store(options) as store:
            outcomes = store.run(lambda transaction: self._declare(transaction, environment, declarations, options))
        changed = [outcome for outcome in outcomes if outcome.changed]
        result: Result = {"changed": bool(changed), "secrets": [vars(outcome) for outcome in outcomes]}
        if self._task.diff and changed:
            result["diff"] = {
                "before": "".join(
                    f"{environment}/{outcome.name} version {outcome.before}\n" for outcome in changed if outcome.before
                ),
                "after": "".join(
                    f"{environment}/{outcome.name} version {outcome.version}\n"
                    for outcome in changed
                    if outcome.version
                ),
            }
        return result

    def _declare(
        self, transaction: Transaction, environment: str, declarations: list[Declaration], options: dict[str, Any]
    ) -> list[Outcome]:
        found = transaction.find_environment(environment)
        if found is None and self.check:
            self._display.warning(
                f"environment {environment!r} is not in the store; predicted as if this run declared it"
            )
            return [
                Outcome(item.name, "unchanged", None, None)
                if item.state == "absent"
                else Outcome(item.name, "created", None, 1)
                for item in declarations
            ]
        known = transaction.environment(environment)
        return declare(transaction, environment, lambda: self.open_backend(known, options), declarations, self.check)


def _items(options: dict[str, Any]) -> list[dict[str, Any]]:
    """One dict per secret; the options beside a list fill what its items leave out."""
    common = {
        key: options[key] for key in ("generate", "on_difference", "rotate_after", "state", "keep_versions", "force")
    }
    values = ("value", "value_base64", "value_file", "version")
    if options["secrets"] is None:
        return [{**_DEFAULTS, **_given(options)}]
    misplaced = next((key for key in values if options[key] is not None), None)
    if misplaced:
        raise HostsealError(
            f"{misplaced} beside the list secrets would give all of them one value: put it into an item"
        )
    items = []
    for item in options["secrets"]:
        merged = {**_DEFAULTS, **_given(common), **_given(item)}
        if any(item[key] is not None for key in values) or merged["state"] == "absent":
            merged["generate"] = item["generate"]
        items.append(merged)
    return items


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}
