# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ansible_collections.hostseal.secrets.plugins.module_utils._model import (
    HostsealError,
    check_engine_mount_point,
    check_name,
)
from ansible_collections.hostseal.secrets.plugins.modules import environment
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _migrating
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import Action, Result
from ansible_collections.hostseal.secrets.plugins.plugin_utils._audit import Event
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends import KeyPlace
from ansible_collections.hostseal.secrets.plugins.plugin_utils._records import Environment
from ansible_collections.hostseal.secrets.plugins.plugin_utils._transaction import Transaction


class ActionModule(Action):
    """Declare an environment in the store, or give it other keys."""

    ARGUMENT_SPEC = environment.ARGUMENT_SPEC

    def work(self, options: dict[str, Any]) -> Result:
        name = check_name("environment", options["name"])
        place = _place(options)
        with self.open_store(options, create=options["state"] == "present") as store:
            return store.run(lambda transaction: self._bring(transaction, name, place, options))

    def _bring(self, transaction: Transaction, name: str, place: KeyPlace, options: dict[str, Any]) -> Result:
        before = transaction.find_environment(name)
        if options["state"] == "absent":
            return self._remove(transaction, before, options["force"])
        earlier = _line(transaction, before)
        if before is None:
            after, changed = self._add(transaction, name, place, options), True
        elif options["migrate"]:
            after, changed = self._migrate(transaction, before, place, options)
        else:
            _refuse_difference(before, place)
            after, changed = before, False
        rollover = _migrating.rollover(transaction, after) if after else None
        later = _line(transaction, after) or f"environment {name}, {place}\n"
        result: Result = {
            "changed": changed,
            "environment": {
                "name": name,
                "backend": place.backend,
                "key": place.key,
                "engine_mount_point": place.engine_mount_point,
                "signing_kid": after and after.signing_kid,
                "retiring_kids": list(rollover.retiring) if rollover else [],
                "behind": list(rollover.behind) if rollover else [],
            },
        }
        if self._task.diff and changed:
            result["diff"] = {"before": earlier, "after": later}
        return result

    def _add(self, transaction: Transaction, name: str, place: KeyPlace, options: dict[str, Any]) -> Environment | None:
        try:
            backend = self.open_place(place, options)
            record = _migrating.new_record(name, place.backend, place.key, place.engine_mount_point, backend)
        except HostsealError as error:
            if not self.check:
                raise
            # An earlier task of the same check run may be the one that would make the key.
            self._display.warning(f"{error}; predicted as if this run made the key")
            return None
        if not self.check:
            transaction.add_environment(record)
            transaction.record([Event("environment.declared", name)])
        return record

    def _migrate(
        self, transaction: Transaction, before: Environment, place: KeyPlace, options: dict[str, Any]
    ) -> tuple[Environment | None, bool]:
        """The environment's record after it (None: not known in check mode), and whether something changed or would."""
        old = self.open_backend(before, options)
        after = replace(before, backend=place.backend, key_name=place.key, engine_mount_point=place.engine_mount_point)
        rollover = _migrating.rollover(transaction, before)
        try:
            new = self.open_place(place, options)
            newest = new.verification_keys()[0].thumbprint()
        except HostsealError as error:
            if not self.check or after == before:
                raise
            # An earlier task of the same check run may be the one that would make the key.
            self._display.warning(f"{error}; predicted as if this run made the key")
            return None, True
        if after == before and newest == before.signing_kid:
            if not rollover.retiring or rollover.behind:
                return before, False
            return before if self.check else _migrating.retire_old_keys(transaction, before, old), True
        if rollover.behind and not options["force"]:
            raise HostsealError(
                f"environment {before.name!r} is still on the way from its last migration: {rollover.behind[0]}"
                f"{f' (and {len(rollover.behind) - 1} more)' if len(rollover.behind) > 1 else ''}. Deliver there with"
                " hostseal.secrets.mount, retire the host, or say force: true; then that host has to be enrolled again"
                " with replace_key: true. Nothing was changed"
            )
        if self.check:
            return replace(after, signing_kid=newest), True
        done = _migrating.migrate(
            transaction,
            before,
            old,
            after,
            new,
            lambda done, whole: self.progress(f"environment {before.name}: {done} of {whole} versions"),
        )
        return done, True

    def _remove(self, transaction: Transaction, found: Environment | None, force: bool) -> Result:
        if found is None:
            return {"changed": False}
        secrets, hosts = transaction.current_versions(found.name), transaction.hosts(found.name)
        if (secrets or hosts) and not force:
            raise HostsealError(
                f"environment {found.name!r} has {len(secrets)} secrets and {len(hosts)} hosts:"
                " delete and retire them first, or say force: true. Nothing was changed"
            )
        if not self.check:
            transaction.remove_environment(found.name)
            transaction.record([Event("environment.removed", found.name)])
        return {
            "changed": True,
            **({"diff": {"before": f"environment {found.name}\n", "after": ""}} if self._task.diff else {}),
        }


def _place(options: dict[str, Any]) -> KeyPlace:
    key = check_name("key", options["key"] or options["name"])
    if options["backend"] != "vault":
        return KeyPlace(options["backend"], key)
    return KeyPlace("vault", key, check_engine_mount_point(options["engine_mount_point"]))


def _refuse_difference(found: Environment, place: KeyPlace) -> None:
    there = KeyPlace(found.backend, found.key_name, found.engine_mount_point)
    if there != place:
        raise HostsealError(
            f"environment {found.name!r} has its secrets under {there}, the task says {place}: to encrypt all of them"
            " anew say migrate: true. Nothing was changed"
        )


def _line(transaction: Transaction, record: Environment | None) -> str:
    if record is None:
        return ""
    place = KeyPlace(record.backend, record.key_name, record.engine_mount_point)
    retiring = _migrating.rollover(transaction, record).retiring
    return (
        f"environment {record.name}, {place}, signing key {record.signing_kid}"
        f"{f', still accepted {retiring[0]}' if retiring else ''}\n"
    )
