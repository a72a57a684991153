# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Bringing a Vault server to what hosts need to fetch wrapped tokens. Everything is read and checked first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..module_utils._model import HostsealError
from ._bridge import ISSUER, REVOKE, Bridge, Host, is_bridge_policy
from ._credentials import network
from ._vault import VaultSession
from ._vault_plan import Plan, Step, accepted, mount_type, names, policy_lines, read

_CIDRS = "token_bound_cidrs"


def plan(session: VaultSession, bridge: Bridge) -> Plan:
    """How to bring the server to what BRIDGE asks for; HostsealError when that can't or must not be."""
    return _Planner(session, bridge).present()


def plan_retirement(session: VaultSession, bridge: Bridge) -> Plan:
    """How to take the hosts of BRIDGE their logins, in all environments."""
    return _Planner(session, bridge).absent()


class _Planner:
    def __init__(self, session: VaultSession, bridge: Bridge) -> None:
        self._session = session
        self._bridge = bridge
        self._plan = Plan()

    def present(self) -> Plan:
        for name, text in self._bridge.policies().items():
            self._plan_policy(name, text)
        for role in self._bridge.roles:
            self._plan_token_role(self._bridge.name(role.name), role.token_role())
        for policy in sorted({policy for role in self._bridge.roles for policy in role.policies}):
            if self._session.ask("GET", f"sys/policies/acl/{policy}").status == 404:
                self._plan.warnings.append(f"the server has no policy {policy!r}: without it, tokens have less rights")
        for host in self._bridge.hosts:
            self._plan_host(host)
        if self._bridge.purge:
            self._purge_hosts()
            self._purge_token_roles()
        return self._plan

    def absent(self) -> Plan:
        for host in self._bridge.hosts:
            if self._is_mounted(host.name):
                self._disable(host.name)
        return self._plan

    def _plan_policy(self, name: str, text: str) -> None:
        path = f"sys/policies/acl/{name}"
        there = (read(self._session, path) or {}).get("policy")
        if there is not None and not is_bridge_policy(there):
            raise self._refuse(f"there is a policy {name!r} that is none of the bridge: choose another prefix")
        if there == text:
            return
        if self._bridge.write_policies:
            self._plan.steps.append(Step(path, {"policy": text}))
            self._plan.line(None if there is None else policy_lines(name, there), policy_lines(name, text))
            return
        missing = f"the policy {name!r} is not there, or is another one: have it written first, the result has its text"
        if not self._bridge.check:
            raise self._refuse(f"{missing} in check mode")
        self._plan.warnings.append(missing)

    def _plan_token_role(self, name: str, wanted: dict[str, Any]) -> None:
        path = f"auth/token/roles/{name}"
        there = read(self._session, path)
        policy = self._bridge.policy_name(name)
        if there is not None and not self._is_ours(policy):
            raise self._refuse(
                f"there is a token role {name!r} without the policy {policy!r}, so it is something else's: choose another"
                " role or environment, or delete it if nothing uses it"
            )
        self._plan_settings(f"token role {name}", path, there, wanted)

    def _is_ours(self, policy: str) -> bool:
        return is_bridge_policy((read(self._session, f"sys/policies/acl/{policy}") or {}).get("policy"))

    def _plan_host(self, host: Host) -> None:
        path = f"auth/{self._bridge.auth_path(host.name)}"
        mounted = self._is_mounted(host.name)
        if not mounted:
            self._plan.steps.append(
                Step(f"sys/{path}", {"type": "jwt", "description": _description(host.name)}),
            )
            self._plan.line(None, f"auth method {self._bridge.auth_path(host.name)}: jwt")
        self._plan_key(host, f"{path}/config", read(self._session, f"{path}/config") if mounted else None)
        wanted = self._bridge.login_roles(host)
        for name, role in wanted.items():
            there = read(self._session, f"{path}/role/{name}") if mounted else None
            self._plan_settings(f"login role {name} of host {host.name}", f"{path}/role/{name}", there, role)
        for name in names(self._session, f"{path}/role") if mounted else []:
            if self._bridge.is_ours(name) and name not in wanted:
                self._delete(f"{path}/role/{name}", f"login role {name} of host {host.name}")

    def _plan_key(self, host: Host, path: str, there: Mapping[str, Any] | None) -> None:
        if host.public_key is None:  # in check mode, when it is still to be made
            return
        keys = [str(key).strip() for key in (there or {}).get("jwt_validation_pubkeys") or []]
        if keys and keys != [host.public_key.strip()] and not self._bridge.replace_key:
            raise self._refuse(
                f"host {host.name!r} has another key there than the given one. If it was installed anew, or its key was"
                " made anew, accept it with replace_key: true"
            )
        wanted = {
            "jwt_validation_pubkeys": [host.public_key.strip()],
            "jwt_supported_algs": ["EdDSA"],
            "bound_issuer": ISSUER,
            # Nobody else's keys.
            "jwks_url": "",
            "oidc_discovery_url": "",
            "default_role": "",
        }
        self._plan_settings(
            f"key of host {host.name}", path, {**there, "jwt_validation_pubkeys": keys} if there else None, wanted
        )

    def _purge_hosts(self) -> None:
        listed = {self._bridge.auth_path(host.name) + "/" for host in self._bridge.hosts}
        for mount, about in (read(self._session, "sys/auth") or {}).items():
            prefix, _slash, host = mount.rstrip("/").partition("/")
            if prefix != self._bridge.prefix or mount in listed or about.get("description") != _description(host):
                continue
            found = names(self._session, f"auth/{self._bridge.prefix}/{host}/role")
            ours = [name for name in found if self._bridge.is_ours(name)]
            if ours and not set(found) - {*ours, REVOKE}:
                self._disable(host)
                continue
            for name in ours:
                self._delete(f"auth/{self._bridge.prefix}/{host}/role/{name}", f"login role {name} of host {host}")

    def _purge_token_roles(self) -> None:
        wanted = {self._bridge.name(role.name) for role in self._bridge.roles}
        for name in names(self._session, "auth/token/roles"):
            policy = self._bridge.policy_name(name)
            if self._bridge.is_ours(name) and name not in wanted and self._is_ours(policy):
                self._delete(f"auth/token/roles/{name}", f"token role {name}")
                if self._bridge.write_policies:
                    self._delete(f"sys/policies/acl/{policy}", f"policy {policy}")

    def _is_mounted(self, host: str) -> bool:
        path = self._bridge.auth_path(host)
        mounted = mount_type(self._session, "auth", path)
        if mounted.status == 404:
            return False
        about = accepted(self._session, mounted, "GET", f"sys/auth/{path}").body.get("data") or {}
        if about.get("type") != "jwt" or about.get("description") != _description(host):
            raise self._refuse(
                f"at auth/{path} there is an auth method that is none of the bridge: choose another prefix"
            )
        return True

    def _plan_settings(self, what: str, path: str, there: Mapping[str, Any] | None, wanted: Mapping[str, Any]) -> None:
        before = None if there is None else {name: _as_ours(name, there.get(name), wanted[name]) for name in wanted}
        if before != wanted:
            self._plan.steps.append(Step(path, wanted))
            self._plan.line(None if before is None else _line(what, before), _line(what, wanted))

    def _disable(self, host: str) -> None:
        path = self._bridge.auth_path(host)
        self._delete(f"sys/auth/{path}", f"auth method {path}: jwt")

    def _delete(self, path: str, line: str) -> None:
        self._plan.steps.append(Step(path, {}, method="DELETE"))
        self._plan.line(line, None)

    def _refuse(self, text: str) -> HostsealError:
        return HostsealError(f"Vault at {self._session.address}: {text}. Nothing was changed")


def _description(host: str) -> str:
    return f"hostseal bridge on host {host}"


def _as_ours(name: str, there: Any, wanted: Any) -> Any:
    """What the server says of a setting, in the words of the request."""
    if name == _CIDRS:
        # An address comes without its /32.
        return [network(name, text) for text in there or []]
    return there or [] if isinstance(wanted, list) else there


def _line(what: str, settings: Mapping[str, Any]) -> str:
    return f"{what}: " + ", ".join(f"{name} {json.dumps(value)}" for name, value in settings.items())
