# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ansible_collections.hostseal.secrets.plugins.module_utils._envelope import (
    HOST_RECORD,
    KeySet,
    host_record,
    read_host_record,
    read_key_set,
)
from ansible_collections.hostseal.secrets.plugins.module_utils._jose import (
    attach_signature,
    load_host_key,
    load_signing_key,
    signing_input,
)
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError, check_name
from ansible_collections.hostseal.secrets.plugins.module_utils._proof import new_challenge, read_proof
from ansible_collections.hostseal.secrets.plugins.modules import host
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import Action, Result
from ansible_collections.hostseal.secrets.plugins.plugin_utils._audit import Event
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends import Backend
from ansible_collections.hostseal.secrets.plugins.plugin_utils._records import Environment, HostRecord
from ansible_collections.hostseal.secrets.plugins.plugin_utils._sealing import confirm_key_sets, trusted_keys
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store
from ansible_collections.hostseal.secrets.plugins.plugin_utils._transaction import Transaction

if TYPE_CHECKING:
    from jwcrypto.jwk import JWK


class ActionModule(Action):
    """Sign a host's public key, then pin the environments' keys on the host."""

    ARGUMENT_SPEC = host.ARGUMENT_SPEC

    def work(self, options: dict[str, Any]) -> Result:
        name = self.host_name(options["name"])
        environments = [check_name("environment", environment) for environment in options["environments"]]
        with self.open_store(options) as store:
            if options["state"] == "absent":
                return store.run(lambda transaction: self._retire(transaction, name, environments))
            key = self._public_key(name, options["public_key"])
            if key is None:
                self._display.warning(f"host {name!r} has no key yet; predicted as if this run made it")
                return self._result(name, None, dict.fromkeys(environments, "enrolled"), {})
            vouched = set() if options["replace_key"] else self._vouched(store, name, key)
            actions, key_sets = store.run(
                lambda transaction: self._enrol(transaction, name, key, environments, options, vouched)
            )
            kid = key.thumbprint()
            pinned = self._pin(name, kid, key_sets, options)
            wanted = [environment for environment in pinned if pinned[environment] and not key_sets[environment][2]]
            if wanted and not self.check:
                with store.transaction() as transaction:
                    checked = {
                        environment: self._key_set(transaction.environment(environment), options)
                        for environment in wanted
                    }
                pinned |= self._pin(name, kid, checked, options)
                key_sets |= checked
            if not self.check:
                confirm_key_sets(store, name, {environment: key_sets[environment][1] for environment in pinned})
        return self._result(name, kid, actions, pinned)

    def _pin(
        self, name: str, kid: str, key_sets: Mapping[str, tuple[str, int, str | None]], options: dict[str, Any]
    ) -> dict[str, bool]:
        request = {"host": name, "kid": kid, "replace_key": options["replace_key"], "key_sets": key_sets}
        result = self.run_on_host("hostseal.secrets.host", {"environments": list(key_sets), "_request": request})
        pinned: dict[str, bool] = result["pinned"]
        return pinned

    def _key_set(self, environment: Environment, options: dict[str, Any]) -> tuple[str, int, str]:
        """The key set, checked with the backend: the store is not trusted, and a first pinning would take any."""
        keys = trusted_keys(environment, self.open_backend(environment, options))
        return environment.signing_kid, _read_key_set(environment, keys).issued_at, environment.key_set

    def _public_key(self, name: str, given: dict[str, Any] | None) -> JWK | None:
        if given is None:
            if self.check:
                return None
            raise HostsealError(f"host {name!r}: public_key is missing, hostseal.secrets.host_identity returns it")
        try:
            return load_host_key(json.dumps(given))
        except HostsealError as error:
            raise HostsealError(
                f"host {name!r}: public_key is not what hostseal.secrets.host_identity returns: {error}"
            ) from None

    def _vouched(self, store: Store, name: str, key: JWK) -> set[str]:
        """Thumbprints of keys under which the host is enrolled and whose holder says that KEY is its key now.

        That the store may have been edited does no harm: what is asked for is the holder of a key of that thumbprint.
        """
        challenges: dict[str, tuple[str, JWK]] = {}
        with store.transaction() as transaction:
            for enrolment in transaction.enrolments(name):
                if enrolment.kid in (key.thumbprint(), *challenges):
                    continue
                signing = load_signing_key(transaction.environment(enrolment.environment).signing_key)
                try:
                    old = read_host_record(enrolment.record, enrolment.environment, name, [signing])
                except HostsealError:
                    continue  # enrolling says what is wrong with it
                challenges[str(old.thumbprint())] = new_challenge(name, old)
        if not challenges:
            return set()
        request = {"challenges": {kid: text for kid, (text, _secret) in challenges.items()}}
        result = self.run_on_host("hostseal.secrets.host", {"environments": [], "_request": request})
        vouched = set()
        for kid, proof in result["proofs"].items():
            try:
                if read_proof(proof, name, challenges[kid][1]).thumbprint() == key.thumbprint():
                    vouched.add(kid)
            except HostsealError as error:
                self._display.warning(f"host {name!r} does not prove that its key {kid} was rotated: {error}")
        return vouched

    def _enrol(
        self,
        transaction: Transaction,
        name: str,
        key: JWK,
        environments: list[str],
        options: dict[str, Any],
        vouched: set[str],
    ) -> tuple[dict[str, str], dict[str, tuple[str, int, str | None]]]:
        actions: dict[str, str] = {}
        key_sets: dict[str, tuple[str, int, str | None]] = {}
        kid = key.thumbprint()
        for enrolment in transaction.enrolments(name):
            if enrolment.kid not in (kid, *vouched) and not options["replace_key"]:
                raise HostsealError(
                    f"host {name!r} is enrolled in environment {enrolment.environment!r} with key {enrolment.kid},"
                    f" but now has {kid}, for which no holder of the former vouches: if it was installed anew, say"
                    " replace_key: true; if not, somebody stands between you and it. Nothing was changed"
                )
        for environment in environments:
            found = transaction.find_environment(environment)
            if found is None and self.check:
                self._display.warning(
                    f"environment {environment!r} is not in the store; predicted as if this run declared it"
                )
                actions[environment] = "enrolled"
                continue
            found = transaction.environment(environment)
            known = transaction.hosts(environment, [name]).get(name)
            if known is not None and not options["replace_key"] and _is_enrolled(known, found, key):
                # Its own word is enough for a host that has pinned this very key, as it will say.
                actions[environment] = "unchanged"
                key_sets[environment] = (found.signing_kid, read_key_set(found.key_set, None).issued_at, None)
                continue
            backend = self.open_backend(found, options)
            keys = trusted_keys(found, backend)
            actions[environment] = _action(known, found, key, keys, options["replace_key"], vouched)
            if actions[environment] != "unchanged" and not self.check:
                transaction.put_host(_sign(found, name, key, backend))
                transaction.record([Event(f"host.{actions[environment]}", environment, name)])
            key_sets[environment] = self._key_set(found, options)
        return actions, key_sets

    def _retire(self, transaction: Transaction, name: str, environments: list[str]) -> Result:
        actions = {}
        for environment in environments:
            if not self.check:
                # A misspelt one must not look as if the host had been retired.
                transaction.environment(environment)
            known = name in transaction.hosts(environment, [name])
            actions[environment] = "retired" if known else "unchanged"
            if known and not self.check:
                transaction.remove_host(environment, name)
                transaction.record([Event("host.retired", environment, name)])
        return self._result(name, None, actions, {})

    def _result(self, name: str, kid: str | None, actions: dict[str, str], pinned: dict[str, bool]) -> Result:
        changes = [f"{environment}: {action}" for environment, action in actions.items() if action != "unchanged"]
        changes += [f"{environment}: keys pinned on the host" for environment, is_new in pinned.items() if is_new]
        result: Result = {
            "changed": bool(changes),
            "host": name,
            "kid": kid,
            "environments": [
                {"name": environment, "action": action, "pinned": pinned.get(environment, False)}
                for environment, action in actions.items()
            ],
        }
        if self._task.diff and changes:
            result["diff"] = {"before": "", "after": "".join(f"host {name}, {change}\n" for change in changes)}
        return result


def _is_enrolled(known: HostRecord, environment: Environment, key: JWK) -> bool:
    """Whether the record is of KEY and signed by the key that the store names for the environment."""
    try:
        signing = load_signing_key(environment.signing_key)
        signed = read_host_record(known.record, environment.name, known.name, [signing]).thumbprint()
        _read_key_set(environment, [signing])
    except HostsealError:
        return False
    return signing.thumbprint() == environment.signing_kid and signed == key.thumbprint() == known.kid


def _read_key_set(environment: Environment, keys: Sequence[JWK]) -> KeySet:
    key_set = read_key_set(environment.key_set, keys)
    if key_set.environment != environment.name:
        raise HostsealError(
            f"the key set of environment {environment.name!r} is another environment's: the store was edited"
        )
    return key_set


def _action(
    known: HostRecord | None,
    environment: Environment,
    key: JWK,
    keys: Sequence[JWK],
    replace_key: bool,
    vouched: set[str],
) -> str:
    if known is None:
        return "enrolled"
    try:
        signed = read_host_record(known.record, environment.name, known.name, keys).thumbprint()
        if signed == key.thumbprint() == known.kid:
            return "unchanged"
        if signed == known.kid and signed in vouched:
            return "key_rotated"
    except HostsealError as error:
        if not replace_key:
            raise HostsealError(
                f"the record of host {known.name!r} in environment {environment.name!r} is not to be trusted: {error}."
                " The store was edited or damaged: find out by whom, then say replace_key: true. Nothing was changed"
            ) from None
    if not replace_key:
        raise HostsealError(
            f"the record of host {known.name!r} in environment {environment.name!r} has another key than the host:"
            " say replace_key: true when you know why. Nothing was changed"
        )
    return "key_replaced"


def _sign(environment: Environment, name: str, key: JWK, backend: Backend) -> HostRecord:
    covered = signing_input(HOST_RECORD, environment.signing_kid, host_record(environment.name, name, key))
    return HostRecord(environment.name, name, key.thumbprint(), attach_signature(covered, backend.sign([covered])[0]))
