#!/usr/bin/python
# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vault_bridge
short_description: Let hosts fetch one-time Vault tokens for their containers
version_added: 0.1.0
description:
  - Brings a Vault or OpenBao server to what mounts with a C(vault_token) need. That is a token role for each of O(roles),
    and for each of O(hosts) an auth method of its own, in which the host logs in with its key for the mounts and roles
    that are listed for it.
  - With such a login a host can make response-wrapped tokens of these roles, and end tokens whose accessor it knows. It
    can read no secret, and the server refuses to make a token that is not wrapped.
  - Login roles and token roles are named C(ENVIRONMENT.ROLE), their policies C(PREFIX-bridge-ENVIRONMENT.ROLE), and the
    auth method of a host is mounted at C(PREFIX/HOST).
  - Login roles of O(environment) that a listed host has and needs no more are always removed.
  - Everything is read and checked before anything is changed.
author:
  - hostseal contributors (@hostseal)
options:
  environment:
    description:
      - The environment of O(roles) and of the mounts of O(hosts), in lower case, because the server keeps the names of
        policies so.
      - Required when O(state=present).
    type: str
  prefix:
    description:
      - Where the hosts' auth methods are mounted, and what the names of policies begin with. Letters in lower case,
        digits, C(_) and C(-).
      - The role P(hostseal.secrets.host_agent#role) needs the same one.
    type: str
    default: hostseal
  state:
    description:
      - V(present) sets the bridge up for O(environment).
      - V(absent) retires O(hosts), in all environments. It disables the auth method of each, which ends its logins. Tokens
        that containers have already live on until their own end.
    type: str
    choices: [present, absent]
    default: present
  roles:
    description: What containers may get tokens for.
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the role. Letters in lower case, digits, and C(_) and C(-) in between.
        type: str
        required: true
      policies:
        description:
          - The policies that its tokens have, and no others. They are the application's, and not made here.
          - With V(default) among them, the application can look its token up and renew it.
        type: list
        elements: str
        required: true
      ttl:
        description: A token ends so long after it was made or renewed.
        type: str
        default: 1h
      max_ttl:
        description: A token ends so long after it was made, however often it is renewed.
        type: str
        default: 32d
      renewable:
        description: Whether the application may renew its token.
        type: bool
        default: true
      max_wrap_ttl:
        description: The longest C(wrap_ttl) that a mount may ask for, at most V(1h).
        type: str
        default: 5m
      bound_cidrs:
        description: Networks from which its tokens may be used. If not set, they are left as they are.
        type: list
        elements: str
  hosts:
    description: The hosts whose containers get tokens, and with O(state=absent) those to retire.
    type: list
    elements: dict
    suboptions:
      name:
        description: The name that the host is enrolled under.
        type: str
        required: true
      public_key:
        description:
          - The host's public key as M(hostseal.secrets.bridge_key) returns it.
          - Required when O(state=present), except in check mode.
        type: dict
      mounts:
        description: The mounts of O(environment) on this host for which it may get tokens, and of which role.
        type: list
        elements: dict
        suboptions:
          name:
            description: Name of the mount.
            type: str
            required: true
          role:
            description: One of O(roles), by its name.
            type: str
            required: true
      bound_cidrs:
        description:
          - Networks from which the host, or its relay, may log in. If not set, they are left as they are.
        type: list
        elements: str
  replace_key:
    description: Accept another key of a host than the one that it has on the server.
    type: bool
    default: false
  purge:
    description:
      - Remove the other token roles of O(environment) with their policies, and what other hosts have for
        O(environment).
      - What is removed is listed with C(--check --diff). Needs both O(roles) and O(hosts).
    type: bool
    default: false
  policies:
    description:
      - Write the policies. Without it, whoever may writes them before, with the texts that check mode returns in
        RV(policies).
    type: bool
    default: true
extends_documentation_fragment:
  - hostseal.secrets.backend
  - hostseal.secrets.store
  - hostseal.secrets.attributes
  - hostseal.secrets.attributes.full
attributes:
  idempotent:
    support: full
notes:
  - O(store) and O(key_path) are not used. They are there for the defaults of the action group.
seealso:
  - module: hostseal.secrets.bridge_key
  - module: hostseal.secrets.mount
"""

EXAMPLES = r"""
- name: Let the containers of the mount shop on host web1 read what the policy shop allows
  hostseal.secrets.vault_bridge:
    environment: prod
    roles:
      - name: web
        policies: [shop, default]
        max_ttl: 7d
    hosts:
      - name: web1
        public_key: "{{ hostvars.web1.bridge_key.public_key }}"
        mounts:
          - name: shop
            role: web
    url: https://vault.example.com:8200
    token_file: .vault-token-of-set-up

- name: See which policies are needed, where somebody else writes them
  hostseal.secrets.vault_bridge:
    environment: prod
    roles:
      - name: web
        policies: [shop, default]
    policies: false
  check_mode: true
  register: needed

- name: Retire a host
  hostseal.secrets.vault_bridge:
    state: absent
    hosts:
      - name: web1
"""

RETURN = r"""
roles:
  description: The token roles.
  returned: when state is present
  type: list
  elements: dict
  contains:
    name:
      description: Name of the role in the environment.
      type: str
      sample: web
    token_role:
      description: Its name on the server.
      type: str
      sample: prod.web
    creation_path:
      description: What a wrapping token of it has to show on lookup. Another one says that it was swapped.
      type: str
      sample: auth/token/create/prod.web
hosts:
  description: The hosts.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the host.
      type: str
      sample: web1
    mount_point:
      description: Path of its auth method.
      type: str
      sample: hostseal/web1
    login_roles:
      description: The roles that it may log in with.
      type: list
      elements: str
      returned: when state is present
      sample: [prod.web, revoke]
policies:
  description: The texts of the policies by name, whether they are written or not.
  returned: when state is present
  type: dict
  sample:
    hostseal-bridge-revoke: |
      path "auth/token/revoke-accessor" {
        capabilities = ["update"]
      }
"""

from ansible_collections.hostseal.secrets.plugins.module_utils._options import BACKEND, STORE, refuse_to_run_on_a_host

_ROLE = {
    "name": {"type": "str", "required": True},
    "policies": {"type": "list", "elements": "str", "required": True},
    "ttl": {"type": "str", "default": "1h"},
    "max_ttl": {"type": "str", "default": "32d"},
    "renewable": {"type": "bool", "default": True},
    "max_wrap_ttl": {"type": "str", "default": "5m"},
    "bound_cidrs": {"type": "list", "elements": "str"},
}
_HOST = {
    "name": {"type": "str", "required": True},
    # The public half.
    "public_key": {"type": "dict", "no_log": False},
    "mounts": {
        "type": "list",
        "elements": "dict",
        "options": {"name": {"type": "str", "required": True}, "role": {"type": "str", "required": True}},
    },
    "bound_cidrs": {"type": "list", "elements": "str"},
}
ARGUMENT_SPEC = {
    "environment": {"type": "str"},
    "prefix": {"type": "str", "default": "hostseal"},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "roles": {"type": "list", "elements": "dict", "options": _ROLE},
    "hosts": {"type": "list", "elements": "dict", "options": _HOST},
    "replace_key": {"type": "bool", "default": False, "no_log": False},
    "purge": {"type": "bool", "default": False},
    "policies": {"type": "bool", "default": True},
    **STORE,
    **BACKEND,
}


def main() -> None:
    """Its work is done by the action plugin of the same name."""
    refuse_to_run_on_a_host(ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
