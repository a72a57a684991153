# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Setting a Transit engine up for an environment: engine, keys, rotation, policies, and who may log in with them.

Everything is read and checked first. What is to be done is then a plan, so that check mode and the run say the same.
API: https://openbao.org/api-docs/secret/transit/
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..module_utils._model import HostsealError, check_duration, check_engine_mount_point, check_name, shorten
from ._credentials import Credentials, plan_credentials
from ._policies import KINDS, engine_of, policy_name, policy_text
from ._vault import VaultSession
from ._vault_plan import Plan, Step, accepted, mount_type, policy_lines, read

# What the keys are made as, by the end of their name.
_KEYS: dict[str, dict[str, Any]] = {
    "": {"type": "aes256-gcm96", "derived": True},
    "-sign": {"type": "ed25519", "derived": False},
    "-hmac": {"type": "hmac", "key_size": 32},
}
# What the server makes of them.
_FRESH = {"latest_version": 1, "min_decryption_version": 1, "auto_rotate_period": 0, "deletion_allowed": False}
# The server takes no shorter one.
_MIN_AUTO_ROTATE_SECONDS = 3600
_PREFIX = re.compile(r"[a-z0-9_.-]{0,63}")

# The versions of the key that something stored is under, each with an environment; None when there is no store.
VersionsInUse = Callable[[], "Mapping[int, str] | None"]


@dataclass(frozen=True)
class Wanted:
    """What a task asks for. Durations in seconds, None for what is to be left as it is."""

    key: str
    engine: str
    prefix: str
    write_policies: bool
    rotate_after: int | None
    auto_rotate_period: int | None
    min_decryption_version: int | None
    credentials: Credentials | None

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Wanted:
        """From the options of the module vault_transit."""
        key, prefix = check_name("key", options["name"]), str(options["policy_prefix"])
        if not _PREFIX.fullmatch(prefix):
            raise HostsealError(
                f"policy_prefix {shorten(prefix)} is not allowed: use lower case letters, digits, '_', '.' and '-'"
            )
        credentials = Credentials.from_options(options, {kind: policy_name(prefix, key, kind) for kind in KINDS})
        if (options["policies"] or credentials) and key != key.lower():
            raise HostsealError(
                f"the server keeps the names of policies and roles in lower case, so the key {key!r} would share them"
                f" with the key {key.lower()!r}: use a name in lower case, or policies: false and credentials: none"
            )
        least = options["min_decryption_version"]
        if least is not None and least < 1:
            raise HostsealError(f"min_decryption_version {least} is not a version: they begin at 1")
        rotate_after = _seconds(options, "rotate_after")
        if rotate_after == 0:
            raise HostsealError("rotate_after 0 would rotate at every run: say state: rotated for that")
        period = _seconds(options, "auto_rotate_period")
        if period and period < _MIN_AUTO_ROTATE_SECONDS:
            raise HostsealError(
                f"auto_rotate_period {period} s is too short: the server takes 0 (never), or 1h and more"
            )
        engine = check_engine_mount_point(options["engine_mount_point"])
        return cls(key, engine, prefix, options["policies"], rotate_after, period, least, credentials)

    def policies(self) -> dict[str, str]:
        """The texts of the policies by name."""
        return {policy_name(self.prefix, self.key, kind): policy_text(self.engine, self.key, kind) for kind in KINDS}


def rotate(session: VaultSession, wanted: Wanted) -> int | None:
    """Add a version to the key and nothing else, as a token may that can read nothing. Its number, if it was told."""
    path = f"{wanted.engine}/keys/{wanted.key}/rotate"
    answer = session.ask("POST", path, {}, repeatable=False)
    if "key not found" in answer.errors:
        raise HostsealError(
            f"Vault at {session.address}: POST {path}: there is no key {wanted.key!r} at {wanted.engine}: make it with"
            " state: present, or check name, engine_mount_point and namespace"
        )
    if answer.status >= 400:
        raise session.refusal(answer, "POST", path)
    number = (answer.body.get("data") or {}).get("latest_version")
    return int(number) if number else None


def plan(session: VaultSession, wanted: Wanted, versions_in_use: VersionsInUse) -> Plan:
    """How to bring the server to what is WANTED; HostsealError when that can't or must not be."""
    made = Plan()
    _Keys(session, wanted, made).plan(versions_in_use)
    if wanted.write_policies:
        _plan_policies(session, wanted, made)
    if wanted.credentials:
        plan_credentials(session, wanted.credentials, made)
    return made


def _plan_policies(session: VaultSession, wanted: Wanted, made: Plan) -> None:
    for name, text in wanted.policies().items():
        path = f"sys/policies/acl/{name}"
        there = (read(session, path) or {}).get("policy")
        engine = engine_of(there or "") or wanted.engine
        if engine != wanted.engine:
            raise HostsealError(
                f"Vault at {session.address}: the policy {name!r} is for the engine at {engine}. Written for the one at"
                f" {wanted.engine}, it would be taken away there: choose another policy_prefix, or delete it if nothing"
                " uses it. Nothing was changed"
            )
        if there != text:
            made.steps.append(Step(path, {"policy": text}))
        made.line(None if there is None else policy_lines(name, there), policy_lines(name, text))


class _Keys:
    """The plan's part about engine and keys."""

    def __init__(self, session: VaultSession, wanted: Wanted, made: Plan) -> None:
        self._session = session
        self._wanted = wanted
        self._plan = made

    def plan(self, versions_in_use: VersionsInUse) -> None:
        engine = self._wanted.engine
        mounted = mount_type(self._session, "mounts", engine)
        kind = (mounted.body.get("data") or {}).get("type")
        if mounted.status == 200 and kind != "transit":
            raise HostsealError(
                f"Vault at {self._session.address}: at {engine} there is an engine of type {kind!r}, not a Transit"
                " engine: choose another engine_mount_point. Nothing was changed"
            )
        there = {name: read(self._session, f"{engine}/keys/{name}") for name in self._names()}
        if mounted.status == 403 and None in there.values():
            # With all keys there, what they are says enough.
            accepted(self._session, mounted, "GET", f"sys/mounts/{engine}")
        if mounted.status == 404:
            self._plan.steps.append(Step(f"sys/mounts/{engine}", {"type": "transit"}))
        self._plan.line(None if mounted.status == 404 else f"engine {engine}: transit", f"engine {engine}: transit")
        for name, key in there.items():
            if key is not None:
                self._check(name, key)
        self._check_min_decryption_version(there[self._wanted.key] or _FRESH, versions_in_use)
        for name, key in there.items():
            self._plan_key(name, key)

    def _names(self) -> dict[str, dict[str, Any]]:
        return {self._wanted.key + suffix: kind for suffix, kind in _KEYS.items()}

    def _check(self, name: str, key: Mapping[str, Any], so_far: str = "Nothing was changed") -> None:
        """Refuse an existing key that can't do its work, or is weaker than one of ours."""
        kind = self._names()[name]
        wrong = None
        if "type" not in key or "latest_version" not in key:
            wrong = "is no Transit key"
        elif key["type"] != kind["type"]:
            wrong = f"is of type {key['type']!r}, and {kind['type']!r} is needed"
        elif kind.get("derived") and not key.get("derived"):
            wrong = "is not derived, so that a ciphertext could be moved to another secret's place"
        elif kind.get("derived") is False and key.get("derived"):
            wrong = "is derived: it signs with another key for each context"
        elif key.get("convergent_encryption"):
            wrong = "has convergent_encryption, which shows which values are equal"
        elif key.get("exportable"):
            wrong = "is exportable: whoever may export it opens everything without the server"
        elif key.get("allow_plaintext_backup"):
            wrong = "has allow_plaintext_backup, which hands the key out in clear"
        elif key.get("soft_deleted"):
            wrong = "is soft-deleted: restore it"
        elif name.endswith("-hmac") and max(int(key.get(f"min_{word}_version") or 0) for word in _HMAC_LIMITS) > 1:
            wrong = "has its first version shut off, which all fingerprints are under"
        if wrong:
            raise HostsealError(
                f"Vault at {self._session.address}: the key {name!r} at {self._wanted.engine} {wrong}. That can't be"
                f" changed by this module: choose another name, or delete the key if nothing uses it. {so_far}"
            )
        if key.get("imported_key"):
            self._plan.warnings.append(
                f"the key {name!r} at {self._wanted.engine} was imported: whoever has the original opens everything"
            )

    def _check_min_decryption_version(self, key: Mapping[str, Any], versions_in_use: VersionsInUse) -> None:
        least, name = self._wanted.min_decryption_version, self._wanted.key
        if least is None:
            return
        if least > key["latest_version"]:
            raise HostsealError(
                f"min_decryption_version {least} is above the newest version of key {name!r}, {key['latest_version']}."
                " Nothing was changed"
            )
        if least < int(key.get("min_available_version") or 0):
            raise HostsealError(
                f"min_decryption_version {least} is below the oldest version of key {name!r} that the server still has,"
                f" {key['min_available_version']}. Nothing was changed"
            )
        if 0 < int(key.get("min_encryption_version") or 0) < least:
            raise HostsealError(
                f"min_decryption_version {least} is above the min_encryption_version of key {name!r},"
                f" {key['min_encryption_version']}: raise that first, or set it to 0. Nothing was changed"
            )
        if least <= key["min_decryption_version"]:
            return
        used = versions_in_use()
        if used is None:
            self._plan.warnings.append(
                f"min_decryption_version of key {name!r} rises to {least} without a look at what is stored: there is no"
                " store here. What is still under an older version does not open until it is lowered again"
            )
            return
        older = {version: environment for version, environment in used.items() if version < least}
        if older:
            version, environment = min(older.items())
            raise HostsealError(
                f"min_decryption_version {least}: environment {environment!r} has secrets that are encrypted under"
                f" version {version} of key {name!r}: run hostseal.secrets.rewrap first. Nothing was changed"
            )

    def _plan_key(self, name: str, key: Mapping[str, Any] | None) -> None:
        path = f"{self._wanted.engine}/keys/{name}"
        kind = self._names()[name]
        if key is None:
            body = {option: value for option, value in kind.items() if value is not False}
            # A server may answer with the key that is there, made by another run that was faster.
            self._plan.steps.append(Step(path, body, lambda answer: self._check_answer(name, answer)))
        before = {**_FRESH, **(key or {"type": kind["type"]})}
        after = {**before, **self._settings(name, before)}
        changed = {option: value for option, value in after.items() if value != before.get(option)}
        if changed:
            self._plan.steps.append(Step(f"{path}/config", changed))
        told = {
            "name": name,
            "type": kind["type"],
            "latest_version": after["latest_version"],
            "min_decryption_version": after["min_decryption_version"],
            "created": key is None,
        }
        if name == self._wanted.key and key is not None and self._is_old(key):
            after["latest_version"] += 1
            told["latest_version"] = after["latest_version"]
            self._plan.steps.append(Step(f"{path}/rotate", {}, lambda answer: told.update(_newest(answer))))
        self._plan.keys.append(told)
        self._plan.line(_key_line(name, before) if key else None, _key_line(name, after))

    def _check_answer(self, name: str, answer: Mapping[str, Any]) -> None:
        if answer.get("data"):
            self._check(name, answer["data"], "Another run made it meanwhile")

    def _settings(self, name: str, key: Mapping[str, Any]) -> dict[str, Any]:
        """What is to be set; the keys of signatures and fingerprints stay at their version."""
        if name != self._wanted.key:
            return {"deletion_allowed": False, "auto_rotate_period": 0}
        period, least = self._wanted.auto_rotate_period, self._wanted.min_decryption_version
        return {
            "deletion_allowed": False,
            "auto_rotate_period": key["auto_rotate_period"] if period is None else period,
            "min_decryption_version": key["min_decryption_version"] if least is None else least,
        }

    def _is_old(self, key: Mapping[str, Any]) -> bool:
        if self._wanted.rotate_after is None:
            return False
        # Seconds since the epoch by version.
        made = int(key["keys"][str(key["latest_version"])])
        return time.time() - made >= self._wanted.rotate_after


# What can shut off a version of a key.
_HMAC_LIMITS = ("decryption", "encryption", "available")


def _newest(answer: Mapping[str, Any]) -> dict[str, int]:
    number = (answer.get("data") or {}).get("latest_version")
    return {"latest_version": int(number)} if number else {}


def _seconds(options: Mapping[str, Any], name: str) -> int | None:
    return None if options[name] is None else check_duration(name, options[name])


def _key_line(name: str, key: Mapping[str, Any]) -> str:
    return f"key {name}: {key['type']}, " + ", ".join(
        f"{option} {str(key[option]).lower()}{' s' if option == 'auto_rotate_period' else ''}" for option in _FRESH
    )
