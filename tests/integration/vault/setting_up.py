# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Setting Transit and the bridge up as the modules do, without Ansible around them; a look at all of a server's set-up."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import requests
from ansible_collections.hostseal.secrets.plugins.modules import vault_bridge, vault_transit
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _bridge, _bridge_plan, _transit
from ansible_collections.hostseal.secrets.plugins.plugin_utils._vault import VaultSession
from ansible_collections.hostseal.secrets.plugins.plugin_utils._vault_plan import Plan

from tests.rig.openbao import OpenBao

# Kept open: a look at all of a server is hundreds of requests.
_connections = requests.Session()


def ask(
    bao: OpenBao, method: str, path: str, body: Mapping[str, Any] | None = None, *, token: str | None = None
) -> requests.Response:
    """One request as itself, whatever its status; with the root token unless told another."""
    return _connections.request(
        method,
        f"{bao.url}/v1/{path}",
        headers={"X-Vault-Token": bao.root_token if token is None else token},
        json=body,
        verify=bao.ca_cert,
        timeout=30,
    )


def data(bao: OpenBao, path: str, method: str = "GET") -> dict[str, Any]:
    """What is at PATH, {} for nothing."""
    answer = ask(bao, method, path)
    assert answer.status_code in (200, 404), answer.text
    found: dict[str, Any] = answer.json().get("data") or {}
    return found


def set_up(
    bao: OpenBao,
    mount: str,
    name: str = "prod",
    *,
    versions: Mapping[int, str] | None = None,
    token: str | None = None,
    check: bool = False,
    **options: Any,
) -> Plan:
    """The module's work with these OPTIONS. VERSIONS are the key's that are said to be in use."""
    given = {"name": name, "engine_mount_point": mount, "policy_prefix": f"{mount}-", **options}
    defaults = {option: spec.get("default") for option, spec in vault_transit.ARGUMENT_SPEC.items()}
    connection = {"url": bao.url, "ca_cert": bao.ca_cert, "token": token or bao.root_token}
    every = {**defaults, **connection, **given}
    wanted = _transit.Wanted.from_options(every)
    session = VaultSession(every)
    try:
        plan = _transit.plan(session, wanted, lambda: versions)
        if not check:
            plan.carry_out(session)
    finally:
        session.close()
    return plan


def _bridge_options(environment: str, options: Mapping[str, Any]) -> dict[str, Any]:
    given = {"environment": environment, "prefix": environment, **options}
    for name in ("roles", "hosts"):
        spec = vault_bridge.ARGUMENT_SPEC[name]["options"]
        blank = {option: about.get("default") for option, about in spec.items()}
        given[name] = [{**blank, **item} for item in given.get(name, [])]
    return {option: spec.get("default") for option, spec in vault_bridge.ARGUMENT_SPEC.items()} | given


def bridge(environment: str, **options: Any) -> _bridge.Bridge:
    """What vault_bridge is asked for with these OPTIONS; the prefix is the environment's name."""
    return _bridge.Bridge.from_options(_bridge_options(environment, options))


def set_up_bridge(
    bao: OpenBao, environment: str, *, token: str | None = None, check: bool = False, **options: Any
) -> Plan:
    """The work of vault_bridge with these OPTIONS; the prefix is the environment's name."""
    every = _bridge_options(environment, options)
    wanted = _bridge.Bridge.from_options(every, check)
    session = VaultSession({**every, "url": bao.url, "ca_cert": bao.ca_cert, "token": token or bao.root_token})
    try:
        retire = every["state"] == "absent"
        plan = (_bridge_plan.plan_retirement if retire else _bridge_plan.plan)(session, wanted)
        if not check:
            plan.carry_out(session)
    finally:
        session.close()
    return plan


def unwrap(bao: OpenBao, wrapping_token: str) -> requests.Response:
    """What was wrapped; the second time status 400."""
    return ask(bao, "POST", "sys/wrapping/unwrap", token=wrapping_token)


def tokens(bao: OpenBao, mount: str, name: str = "prod", **options: Any) -> dict[str, str]:
    """A server set up for NAME, and a token of each policy by its kind."""
    plan = set_up(bao, mount, name, credentials="token", **options)
    return {
        told["kind"]: unwrap(bao, told["wrapping_token"]).json()["auth"]["client_token"] for told in plan.credentials
    }


def snapshot(bao: OpenBao) -> dict[str, Any]:
    """Mounts, auth methods, policies, roles, all Transit keys, and how many tokens there are."""
    found: dict[str, Any] = {}
    for kind in ("mounts", "auth"):
        found[kind] = data(bao, f"sys/{kind}")
        paths = {
            "transit": [f"{path}keys" for path, entry in found[kind].items() if entry["type"] == "transit"],
            "approle": [f"auth/{path}role" for path, entry in found[kind].items() if entry["type"] == "approle"],
        }
        for path in (*paths["transit"], *paths["approle"]):
            for entry in data(bao, path, "LIST").get("keys", []):
                found[f"{path}/{entry}"] = data(bao, f"{path}/{entry}")
                if path in paths["approle"]:
                    found[f"{path}/{entry}/secret-id"] = data(bao, f"{path}/{entry}/secret-id", "LIST")
    for path in ("sys/policies/acl", "auth/token/roles"):
        for entry in data(bao, path, "LIST").get("keys", []):
            found[f"{path}/{entry}"] = data(bao, f"{path}/{entry}")
    found["tokens"] = len(data(bao, "auth/token/accessors", "LIST")["keys"])
    return found
