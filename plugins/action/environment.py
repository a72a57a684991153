# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from typing import Any

from ansible_collections.hostseal.secrets.plugins.module_utils._envelope import (
    KEY_SET,
    attach_signature,
    key_set,
    signing_input,
)
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError, check_name
from ansible_collections.hostseal.secrets.plugins.modules import environment
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import Action, Result
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends import Backend, open_backend, signing_key
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Environment, Transaction, now_ms


class ActionModule(Action):
    """Declare an environment in the store."""

    ARGUMENT_SPEC = environment.ARGUMENT_SPEC

    def work(self, options: dict[str, Any]) -> Result:
        name = check_name("environment", options["name"])
        key = check_name("key", options["key"] or name)
        with (
            self.open_store(options, create=options["state"] == "present") as store,
            store.transaction() as transaction,
        ):
            found = transaction.find_environment(name)
            if options["state"] == "absent":
                return self._remove(transaction, found, options["force"])
            if found is None:
                found = self._add(transaction, name, key, options)
                before = None
            else:
                _refuse_difference(found, options["backend"], key)
                before = found
        result: Result = {
            "changed": before is None,
            "environment": {
                "name": name,
                "backend": options["backend"],
                "key": key,
                "signing_kid": found and found.signing_kid,
            },
        }
        if self._task.diff and before is None:
            result["diff"] = {"before": "", "after": f"environment {name}, backend {options['backend']}, key {key}\n"}
        return result

    def _add(self, transaction: Transaction, name: str, key: str, options: dict[str, Any]) -> Environment | None:
        try:
            backend = open_backend(options["backend"], key, options["key_path"])
        except HostsealError:
            if not self.check:
                raise
            # An earlier task of the same check run may be the one that would make the key.
            return None
        record = _record(name, options["backend"], key, backend)
        if not self.check:
            transaction.add_environment(record)
        return record

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
        return {
            "changed": True,
            **({"diff": {"before": f"environment {found.name}\n", "after": ""}} if self._task.diff else {}),
        }


def _record(name: str, kind: str, key: str, backend: Backend) -> Environment:
    """The record of a new environment, its key set signed so that hosts can pin it."""
    keys = backend.verification_keys()
    kid = keys[0].thumbprint()
    covered = signing_input(KEY_SET, kid, key_set(name, now_ms(), keys))
    return Environment(
        name, kind, key, signing_key(backend), kid, attach_signature(covered, backend.sign([covered])[0])
    )


def _refuse_difference(found: Environment, backend: str, key: str) -> None:
    if (found.backend, found.key_name) != (backend, key):
        raise HostsealError(
            f"environment {found.name!r} has backend {found.backend!r} with key {found.key_name!r} in the store,"
            f" the task says {backend!r} with {key!r}: its secrets would not open any more. Nothing was changed"
        )
