# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What hosts need on a Vault server to fetch wrapped tokens for their containers: auth methods, roles and policies.

Each host has an auth method of its own. In one that all share, every host's key could sign a login in every host's name.
APIs: https://openbao.org/api-docs/auth/jwt/ and https://openbao.org/api-docs/auth/token/
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..module_utils._jose import load_signing_key
from ..module_utils._model import (
    MAX_WRAP_TTL,
    HostsealError,
    check_name,
    shorten,
    token_role,
)
from ._credentials import network, positive

ISSUER = "hostseal"
# The login role of each host that ends tokens; those of environments have a dot.
REVOKE = "revoke"
_PREFIX = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_POLICY = re.compile(r"[a-z0-9_.-]{1,128}")

# A login is for one request, seconds after the JWT was signed. Times in seconds.
_LOGIN: dict[str, Any] = {
    "role_type": "jwt",
    "user_claim": "sub",
    "bound_claims_type": "string",
    "clock_skew_leeway": 30,
    # A JWT says itself when it begins and ends, or is refused.
    "expiration_leeway": -1,
    "not_before_leeway": -1,
    "token_no_default_policy": True,
    "token_type": "service",
    "token_ttl": 60,
    "token_max_ttl": 120,
    "token_explicit_max_ttl": 120,
    "token_period": 0,
    # A token whose uses are counted can't make another one.
    "token_num_uses": 0,
}
_TOKEN: dict[str, Any] = {
    "allowed_policies_glob": [],
    "disallowed_policies": [],
    "allowed_entity_aliases": [],
    # Else it would end with the login that it was made by.
    "orphan": True,
    "token_no_default_policy": True,
    "token_type": "service",
    "path_suffix": "",
}


@dataclass(frozen=True)
class Role:
    """What the tokens of an environment's role may do, and for how long. Times in seconds.

    A token ends TTL after it was made or renewed, and MAX_TTL after it was made.
    """

    name: str
    policies: tuple[str, ...]
    ttl: int
    max_ttl: int
    renewable: bool
    max_wrap_ttl: int
    bound_cidrs: tuple[str, ...] | None

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Role:
        """From an item of the module's option roles."""
        name = check_name("role", options["name"])
        try:
            return cls(
                name=name,
                policies=_policies(options["policies"]),
                ttl=positive(options, "ttl"),
                max_ttl=positive(options, "max_ttl"),
                renewable=options["renewable"],
                max_wrap_ttl=positive(options, "max_wrap_ttl"),
                bound_cidrs=_networks("bound_cidrs", options["bound_cidrs"]),
            ).checked()
        except HostsealError as error:
            raise HostsealError(f"role {name!r}: {error}") from None

    def checked(self) -> Role:
        """The role; HostsealError when its times contradict each other."""
        if self.ttl > self.max_ttl:
            raise HostsealError(f"ttl {self.ttl} s is longer than max_ttl {self.max_ttl} s")
        if self.max_wrap_ttl > MAX_WRAP_TTL:
            raise HostsealError(f"max_wrap_ttl {self.max_wrap_ttl} s is above {MAX_WRAP_TTL} s")
        return self

    def token_role(self) -> dict[str, Any]:
        """The token role as it is to be."""
        role = {
            **_TOKEN,
            "allowed_policies": list(self.policies),
            "renewable": self.renewable,
            "token_period": self.ttl,
            "token_explicit_max_ttl": self.max_ttl,
        }
        return role if self.bound_cidrs is None else {**role, "token_bound_cidrs": list(self.bound_cidrs)}


@dataclass(frozen=True)
class Host:
    """A host, the key that it signs logins with (PEM; None where it is not known yet), and the mounts of each role."""

    name: str
    public_key: str | None
    mounts: Mapping[str, tuple[str, ...]]
    bound_cidrs: tuple[str, ...] | None

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Host:
        """From an item of the module's option hosts."""
        name = check_name("host", options["name"])
        mounts: dict[str, set[str]] = {}
        try:
            for item in options["mounts"] or []:
                mounts.setdefault(check_name("role", item["role"]), set()).add(check_name("mount", item["name"]))
            return cls(
                name=name,
                public_key=_pem(options["public_key"]) if options["public_key"] is not None else None,
                mounts={role: tuple(sorted(names)) for role, names in sorted(mounts.items())},
                bound_cidrs=_networks("bound_cidrs", options["bound_cidrs"]),
            )
        except HostsealError as error:
            raise HostsealError(f"host {name!r}: {error}") from None


@dataclass(frozen=True)
class Bridge:
    """What a task asks for. With ENVIRONMENT None it is about hosts alone. CHECK: in check mode, where things may be missing."""

    prefix: str
    environment: str | None
    roles: tuple[Role, ...]
    hosts: tuple[Host, ...]
    write_policies: bool
    replace_key: bool
    purge: bool
    check: bool

    @classmethod
    def from_options(cls, options: Mapping[str, Any], check: bool = False) -> Bridge:
        """From the options of the module vault_bridge."""
        prefix, environment = str(options["prefix"]), options["environment"]
        if not _PREFIX.fullmatch(prefix):
            raise HostsealError(f"prefix {shorten(prefix)} is not allowed: use lower case letters, digits, '_' and '-'")
        made = cls(
            prefix=prefix,
            environment=environment,
            roles=tuple(Role.from_options(item) for item in options["roles"] or []),
            hosts=tuple(Host.from_options(item) for item in options["hosts"] or []),
            write_policies=options["policies"],
            replace_key=options["replace_key"],
            purge=options["purge"],
            check=check,
        )
        if options["state"] == "present":
            made._refuse_contradictions()
        return made

    def _refuse_contradictions(self) -> None:
        for kind, names in (("role", [role.name for role in self.roles]), ("host", [host.name for host in self.hosts])):
            double = next((name for name in names if names.count(name) > 1), None)
            if double:
                raise HostsealError(f"{kind} {double!r} is listed twice")
        for role in self.roles:
            token_role(self.environment, role.name)
            foreign = next((name for name in role.policies if name.startswith(f"{self.prefix}-bridge-")), None)
            if foreign:
                raise HostsealError(f"role {role.name!r}: {foreign!r} is a policy of the bridge, not of an application")
        owners: dict[str, str] = {}
        for host in self.hosts:
            if host.public_key is None and not self.check:
                raise HostsealError(
                    f"host {host.name!r}: public_key is missing, hostseal.secrets.bridge_key returns it"
                )
            unknown = next((name for name in host.mounts if name not in {role.name for role in self.roles}), None)
            if unknown:
                raise HostsealError(f"host {host.name!r}: its mounts name the role {unknown!r}, which is not in roles")
            if host.public_key is not None and owners.setdefault(host.public_key, host.name) != host.name:
                raise HostsealError(
                    f"hosts {owners[host.public_key]!r} and {host.name!r} have one key, so each could pass for the other:"
                    " make a new one on the host that was cloned"
                )

    def auth_path(self, host: str) -> str:
        """Where the auth method of HOST is mounted, below auth/."""
        return f"{self.prefix}/{host}"

    def name(self, role: str) -> str:
        """The token role, and each host's login role, for ROLE of the environment."""
        return token_role(self.environment, role)

    def policy_name(self, role: str) -> str:
        """The policy with which a login for the token role ROLE, or the login role revoke, works."""
        return f"{self.prefix}-bridge-{role}"

    def policies(self) -> dict[str, str]:
        """The texts of the policies by name."""
        texts = {self.policy_name(self.name(role.name)): _create(self.name(role.name), role) for role in self.roles}
        return {**texts, self.policy_name(REVOKE): _REVOKE_POLICY}

    def login_roles(self, host: Host) -> dict[str, dict[str, Any]]:
        """The roles of a host's auth method by name."""
        common = {**_LOGIN, "bound_subject": host.name, "bound_audiences": [ISSUER]}
        if host.bound_cidrs is not None:
            common["token_bound_cidrs"] = list(host.bound_cidrs)
        roles: dict[str, dict[str, Any]] = {
            self.name(role): {
                **common,
                "bound_claims": {"environment": self.environment, "mount": list(mounts), "role": role},
                "token_policies": [self.policy_name(self.name(role))],
            }
            for role, mounts in host.mounts.items()
        }
        roles[REVOKE] = {
            **common,
            "bound_claims": {"role": REVOKE},
            "token_policies": [self.policy_name(REVOKE)],
        }
        return roles

    def is_ours(self, name: str) -> bool:
        """Whether a login role or token role NAME is of this environment."""
        return name.startswith(f"{self.environment}.")


def is_bridge_policy(text: str | None) -> bool:
    """Whether a policy was written by us."""
    return bool(text) and str(text).startswith("# hostseal bridge: ")


def _create(name: str, role: Role) -> str:
    # Either limit makes the server refuse a request that is not to be wrapped.
    return f"""\
# hostseal bridge: makes wrapped tokens of the token role {name}, and nothing else.
path "auth/token/create/{name}" {{
  capabilities = ["update"]
  min_wrapping_ttl = "1s"
  max_wrapping_ttl = "{role.max_wrap_ttl}s"
  allowed_parameters = {{
    "display_name" = []
    "meta" = []
  }}
}}
{_END_OF_LOGIN}"""


_END_OF_LOGIN = """\
path "auth/token/revoke-self" {
  capabilities = ["update"]
}
"""
_REVOKE_POLICY = f"""\
# hostseal bridge: ends tokens whose accessor is known. Accessors can't be listed with it.
path "auth/token/revoke-accessor" {{
  capabilities = ["update"]
}}
{_END_OF_LOGIN}"""


def _policies(given: Sequence[str]) -> tuple[str, ...]:
    if not given:
        raise HostsealError("it has no policies, so its tokens could do nothing")
    for name in given:
        if not _POLICY.fullmatch(name):
            raise HostsealError(f"policy {shorten(name)} is not the name of a policy: they are in lower case")
        if name == "root":
            raise HostsealError("the policy root is not for containers")
    return tuple(sorted(set(given)))


def _pem(key: Mapping[str, Any]) -> str:
    try:
        return load_signing_key(json.dumps(key)).export_to_pem().decode()
    except HostsealError as error:
        raise HostsealError(f"public_key is not what hostseal.secrets.bridge_key returns: {error}") from None


def _networks(name: str, given: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if given is None else tuple(network(name, text) for text in given)
