# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Credentials for the policies of an environment: AppRoles or periodic tokens, handed out response-wrapped only.

APIs: https://openbao.org/api-docs/auth/approle/ and https://openbao.org/api-docs/auth/token/
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..module_utils._model import HostsealError, check_duration, check_engine_mount_point, shorten
from ._vault import VaultSession
from ._vault_plan import Plan, Step, mount_type, read

_SECRET_ID_OPTIONS = ("secret_id_ttl", "secret_id_num_uses", "secret_id_bound_cidrs")
_CIDRS = ("token_bound_cidrs", "secret_id_bound_cidrs")


@dataclass(frozen=True)
class Credentials:
    """What a task asks for. kind is approle or token, issue says for which kinds of policy anew, times in seconds.

    policies are names by their kind; a role has its policy's name. settings are those of the roles.
    """

    kind: str
    policies: Mapping[str, str]
    issue: tuple[str, ...]
    mount: str
    wrap_ttl: int
    settings: Mapping[str, Any]

    @classmethod
    def from_options(cls, options: Mapping[str, Any], policies: Mapping[str, str]) -> Credentials | None:
        """From the options of the module vault_transit; None when no credentials are asked for."""
        kind, issue = options["credentials"], tuple(options["issue"] or ())
        if kind == "none":
            if issue:
                raise HostsealError("issue needs credentials: approle or credentials: token")
            return None
        settings = _approle_settings(options) if kind == "approle" else _token_settings(options)
        mount = check_engine_mount_point(options["credentials_mount_point"])
        return cls(kind, policies, issue, mount, positive(options, "wrap_ttl"), settings)

    def role_path(self, policy: str) -> str:
        """Where the role of POLICY is in the API."""
        return f"auth/{self.mount}/role/{policy}" if self.kind == "approle" else f"auth/token/roles/{policy}"

    def role(self, policy: str) -> dict[str, Any]:
        """The role as it is to be: POLICY and no other."""
        return {"token_policies" if self.kind == "approle" else "allowed_policies": [policy], **self.settings}


def plan_credentials(session: VaultSession, wanted: Credentials, plan: Plan) -> None:
    """Add to PLAN what makes the roles, and credentials of those that are new or asked for."""
    if wanted.kind == "approle":
        _plan_mount(session, wanted, plan)
    issuing = []
    for kind, policy in wanted.policies.items():
        path, role = wanted.role_path(policy), wanted.role(policy)
        there = read(session, path)
        before = None if there is None else {name: _as_ours(name, there.get(name), role[name]) for name in role}
        if before != role:
            plan.steps.append(Step(path, role))
        plan.line(None if before is None else _line(wanted, policy, before), _line(wanted, policy, role))
        told: dict[str, Any] = {"kind": kind, "policy": policy, "wrapping_token": None}
        if wanted.kind == "approle":
            told["role_id"] = None if there is None else _role_id(session, path)
        plan.credentials.append(told)
        if there is None or kind in wanted.issue:
            issuing.append(told)
    # All roles first: a credential that is made before something fails is lost.
    for number, told in enumerate(issuing):
        advice = json.dumps([later["kind"] for later in issuing[number:]])
        plan.steps.append(
            _issue(session, wanted, told, f"The roles are there: make what is missing by issue: {advice}")
        )
        what = "secret id" if wanted.kind == "approle" else "token"
        plan.after.append(f"new {what} of {told['policy']}, wrapped for {wanted.wrap_ttl} s")


def _plan_mount(session: VaultSession, wanted: Credentials, plan: Plan) -> None:
    mounted = mount_type(session, "auth", wanted.mount)
    kind = (mounted.body.get("data") or {}).get("type")
    if mounted.status == 200 and kind != "approle":
        raise HostsealError(
            f"Vault at {session.address}: at auth/{wanted.mount} there is an auth method of type {kind!r}, not AppRole:"
            " choose another credentials_mount_point. Nothing was changed"
        )
    # Where its type isn't told, reading and writing the roles shows whether it is one.
    if mounted.status == 404:
        plan.steps.append(Step(f"sys/auth/{wanted.mount}", {"type": "approle"}))
    line = f"auth method {wanted.mount}: approle"
    plan.line(None if mounted.status == 404 else line, line)


def _issue(session: VaultSession, wanted: Credentials, told: dict[str, Any], advice: str) -> Step:
    role = wanted.role_path(told["policy"])

    def take(answer: dict[str, Any]) -> None:
        wrapped = answer.get("wrap_info")
        if not wrapped:
            raise HostsealError(
                f"Vault at {session.address}: the credential of {told['policy']} came unwrapped, and is not shown: does a"
                " proxy drop the header X-Vault-Wrap-TTL? Revoke it"
            )
        told.update(
            wrapping_token=str(wrapped["token"]),
            wrapping_accessor=str(wrapped["accessor"]),
            wrapping_ttl=int(wrapped["ttl"]),
            creation_path=str(wrapped["creation_path"]),
        )
        if wanted.kind == "approle":
            told["role_id"] = _role_id(session, role)

    if wanted.kind == "approle":
        return Step(f"{role}/secret-id", {}, take, wanted.wrap_ttl, advice)
    body = {"display_name": told["policy"]}
    return Step(f"auth/token/create/{told['policy']}", body, take, wanted.wrap_ttl, advice)


def _role_id(session: VaultSession, path: str) -> str | None:
    return (read(session, f"{path}/role-id") or {}).get("role_id")


def _approle_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    life, longest = positive(options, "token_ttl"), positive(options, "token_max_ttl")
    if life > longest:
        raise HostsealError(f"token_ttl {options['token_ttl']} is longer than token_max_ttl {options['token_max_ttl']}")
    settings: dict[str, Any] = {
        "bind_secret_id": True,
        "token_no_default_policy": True,
        "token_type": "service",
        "token_period": 0,
        "token_ttl": life,
        "token_max_ttl": longest,
    }
    if options["secret_id_ttl"] is not None:
        settings["secret_id_ttl"] = check_duration("secret_id_ttl", options["secret_id_ttl"])
    uses = options["secret_id_num_uses"]
    if uses is not None:
        if uses < 0:
            raise HostsealError(f"secret_id_num_uses {uses} is not a number of uses; 0 is for any number")
        settings["secret_id_num_uses"] = uses
    return {**settings, **_networks(options, *_CIDRS)}


def _token_settings(options: Mapping[str, Any]) -> dict[str, Any]:
    foreign = next((name for name in _SECRET_ID_OPTIONS if options[name] is not None), None)
    if foreign:
        raise HostsealError(f"{foreign} is for credentials: approle, a token has no secret id")
    return {
        "allowed_policies_glob": [],
        "orphan": True,
        "renewable": True,
        "token_no_default_policy": True,
        "token_type": "service",
        "token_period": positive(options, "token_period"),
        **_networks(options, "token_bound_cidrs"),
    }


def _networks(options: Mapping[str, Any], *names: str) -> dict[str, list[str]]:
    return {name: [network(name, text) for text in options[name]] for name in names if options[name] is not None}


def network(name: str, text: str) -> str:
    """TEXT as a network in one spelling; NAME is the option that it is from."""
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise HostsealError(f"{name}: {shorten(text)} is not a network like 192.0.2.0/24 or an address") from None


def positive(options: Mapping[str, Any], name: str) -> int:
    """The seconds of the option NAME, which may not be 0."""
    seconds = check_duration(name, options[name])
    if not seconds:
        raise HostsealError(f"{name} 0 is for ever: give a duration like 30m")
    return seconds


def _as_ours(name: str, there: Any, wanted: Any) -> Any:
    """What the server says of a setting, in the words of the request."""
    if name in _CIDRS:
        # An address comes without its /32.
        return [network(name, text) for text in there or []]
    return there or [] if isinstance(wanted, list) else there


def _line(wanted: Credentials, policy: str, role: Mapping[str, Any]) -> str:
    settings = ", ".join(f"{name} {json.dumps(value)}" for name, value in role.items())
    return f"{'AppRole' if wanted.kind == 'approle' else 'token role'} {policy}: {settings}"
