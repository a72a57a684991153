#!/usr/bin/python
# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: vault_transit
short_description: Set up Vault Transit for an environment
version_added: 0.1.0
description:
  - Brings a Vault or OpenBao server to what the backend V(vault) of M(hostseal.secrets.environment) needs. That is a
    Transit engine, the three keys of an environment, a policy each for those who declare, deliver and rotate, and
    if asked for the credentials that go with them.
  - The key NAME encrypts, NAME-sign signs and NAME-hmac makes the fingerprints by which values are compared. None
    of them may be deleted or leaves the server. An existing key that can't do its work, or is weaker than one that this
    module makes, is refused.
  - Setting up needs, once, a token with rights for it. Afterwards the credentials made here are enough, for
    O(state=rotated) too.
  - Everything is read and checked before anything is changed.
author:
  - hostseal contributors (@hostseal)
options:
  name:
    description:
      - Name of the key, usually that of the environment.
      - In lower case where policies or credentials are made, because the server keeps their names so.
    type: str
    required: true
  engine_mount_point:
    description: Path at which the Transit engine is mounted, or is to be.
    type: str
    default: transit
  state:
    description:
      - V(present) makes what is missing.
      - V(rotated) always adds a version to the key, under which everything is encrypted from now on, and does nothing
        else. The policy of the rotator is enough for it.
    type: str
    choices: [present, rotated]
    default: present
  rotate_after:
    description: Add a version to the key when its newest one is older than this, for example V(90d).
    type: str
  auto_rotate_period:
    description:
      - Have the server add a version to the key by itself whenever the newest one is as old as this, for example
        V(90d), at least V(1h). V(0) ends it. If not set, it is left as it is.
      - The keys of signatures and fingerprints never rotate by themselves, this module sees to it.
    type: str
  min_decryption_version:
    description:
      - The oldest version of the key that may still open something. If not set, it is left as it is.
      - It is not raised above a version that something in the O(store) is encrypted under. Run
        M(hostseal.secrets.rewrap) first. Where there is no store, this can't be checked, and a warning says so.
    type: int
  policies:
    description:
      - Write the policies. Without it, RV(policies) has the texts for whoever may write them.
    type: bool
    default: true
  policy_prefix:
    description:
      - What the names of policies and roles begin with. They are PREFIX, the O(name), and C(-writer), C(-deployer) or
        C(-rotator).
      - Keys of one name in several engines need several prefixes. A policy for another engine is not overwritten.
    type: str
    default: hostseal-
  credentials:
    description:
      - Make a role for each policy, of AppRole (V(approle)) or for periodic tokens (V(token)), with exactly that policy.
      - For a role that is new, a secret id or a token is made too, response-wrapped. RV(credentials) has
        the wrapping tokens.
    type: str
    choices: [none, approle, token]
    default: none
  issue:
    description: Make new credentials for these policies although the roles are there.
    type: list
    elements: str
    choices: [writer, deployer, rotator]
  wrap_ttl:
    description: How long a wrapping token can be redeemed.
    type: str
    default: 15m
  credentials_mount_point:
    description: Path at which AppRole is mounted, or is to be, with O(credentials=approle).
    type: str
    default: approle
  token_ttl:
    description: Life of the token of an AppRole login, before it is renewed.
    type: str
    default: 20m
  token_max_ttl:
    description: Longest life of the token of an AppRole login.
    type: str
    default: 4h
  token_period:
    description: With O(credentials=token), a token that is not renewed within this time ends.
    type: str
    default: 24h
  secret_id_ttl:
    description: Life of a secret id, V(0) for no end. If not set, it is left as it is, without end in a new role.
    type: str
  secret_id_num_uses:
    description:
      - How many logins a secret id is good for, V(0) for any number. If not set, it is left as it is, any number
        in a new role.
    type: int
  token_bound_cidrs:
    description: Networks from which tokens may be used. If not set, they are left as they are.
    type: list
    elements: str
  secret_id_bound_cidrs:
    description: Networks from which a login by secret id may come. If not set, they are left as they are.
    type: list
    elements: str
extends_documentation_fragment:
  - hostseal.secrets.backend
  - hostseal.secrets.store
  - hostseal.secrets.attributes
  - hostseal.secrets.attributes.full
attributes:
  idempotent:
    support: partial
    details:
      - O(state=rotated) adds a version, and O(issue) makes credentials, at each run.
notes:
  - A wrapping token is good for one use, by whoever has it first. If it does not redeem, somebody else had it. Revoke
    the credential then.
  - To redeem one, C(bao unwrap) or C(vault unwrap), or the module C(community.hashi_vault.vault_write) with the path
    C(sys/wrapping/unwrap).
seealso:
  - module: hostseal.secrets.environment
  - module: hostseal.secrets.rewrap
"""

EXAMPLES = r"""
- name: Set Transit up for the environment prod, with an AppRole for each policy
  hostseal.secrets.vault_transit:
    name: prod
    credentials: approle
    secret_id_bound_cidrs: [192.0.2.0/24]
    url: https://vault.example.com:8200
    token_file: .vault-token-of-set-up
  register: transit

- name: Hand the wrapped secret id of the deployer over
  ansible.builtin.debug:
    msg: "Redeem {{ item.wrapping_token }} within {{ item.wrapping_ttl }} seconds, role id {{ item.role_id }}"
  loop: "{{ transit.credentials | selectattr('kind', 'eq', 'deployer') | selectattr('wrapping_token') }}"

- name: Make a new secret id for the deployer
  hostseal.secrets.vault_transit:
    name: prod
    credentials: approle
    issue: [deployer]

- name: See which policies are needed, where somebody else writes them
  hostseal.secrets.vault_transit:
    name: prod
    policies: false
  check_mode: true
  register: needed

- name: Add a version to the key, as the rotator
  hostseal.secrets.vault_transit:
    name: prod
    state: rotated
    auth_method: approle
    role_id: "{{ rotator_role_id }}"
    secret_id_file: /etc/hostseal/rotator-secret-id

- name: Let version 2 and newer alone open something, when all secrets have been rewrapped
  hostseal.secrets.vault_transit:
    name: prod
    min_decryption_version: 2
"""

RETURN = r"""
engine_mount_point:
  description: Path of the Transit engine.
  returned: success
  type: str
  sample: transit
transit_keys:
  description: The keys, that of the O(name) first, and with O(state=rotated) alone.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Its name.
      type: str
      sample: prod
    type:
      description: Its type.
      type: str
      returned: when state is present
      sample: aes256-gcm96
    latest_version:
      description: Number of its newest version. V(none) in check mode of O(state=rotated).
      type: int
      sample: 1
    min_decryption_version:
      description: The oldest version that may still open something.
      type: int
      returned: when state is present
      sample: 1
    created:
      description: Whether it was made in this run.
      type: bool
      sample: true
policies:
  description:
    - The texts of the policies by name, whether they are written or not.
  returned: success
  type: dict
  sample:
    hostseal-prod-writer: |
      path "transit/encrypt/prod" {
        capabilities = ["update"]
      }
credentials:
  description:
    - The roles that O(credentials) asks for. Wrapping tokens are in here alone. Each is good for one use within
      O(wrap_ttl), so hand them over and do not keep them. A task with C(no_log) can register them without showing them.
  returned: success
  type: list
  elements: dict
  contains:
    kind:
      description: Which of the policies, V(writer), V(deployer) or V(rotator).
      type: str
      sample: deployer
    policy:
      description: Name of the policy, and of the role.
      type: str
      sample: hostseal-prod-deployer
    role_id:
      description: Role id of the AppRole. V(none) when it is still to be made in check mode.
      type: str
      returned: with O(credentials=approle)
      sample: 9ca64ccb-2a2e-93ac-a2b4-d6fdb39a2a4b
    wrapping_token:
      description: What the new secret id or token is redeemed with. V(none) when none was made.
      type: str
      sample: s.gmXTfM9ttcJWKxKsqpqhIQgV
    wrapping_accessor:
      description: Accessor of the wrapping token, to look it up or revoke it.
      type: str
      returned: when one was made
      sample: MVXEZQWtaUrUjMoLjnBB8cBC
    wrapping_ttl:
      description: Its life in seconds.
      type: int
      returned: when one was made
      sample: 900
    creation_path:
      description: The path that it has to show on lookup. Another one says that it was swapped.
      type: str
      returned: when one was made
      sample: auth/approle/role/hostseal-prod-deployer/secret-id
"""

from ansible_collections.hostseal.secrets.plugins.module_utils._options import BACKEND, STORE, refuse_to_run_on_a_host

ARGUMENT_SPEC = {
    "name": {"type": "str", "required": True},
    "engine_mount_point": {"type": "str", "default": "transit"},
    "state": {"type": "str", "choices": ["present", "rotated"], "default": "present"},
    "rotate_after": {"type": "str"},
    "auto_rotate_period": {"type": "str"},
    "min_decryption_version": {"type": "int"},
    "policies": {"type": "bool", "default": True},
    "policy_prefix": {"type": "str", "default": "hostseal-"},
    "credentials": {"type": "str", "choices": ["none", "approle", "token"], "default": "none"},
    "issue": {"type": "list", "elements": "str", "choices": ["writer", "deployer", "rotator"]},
    "wrap_ttl": {"type": "str", "default": "15m"},
    "credentials_mount_point": {"type": "str", "default": "approle"},
    # Lives and networks of tokens and secret ids, none themselves.
    "token_ttl": {"type": "str", "default": "20m", "no_log": False},
    "token_max_ttl": {"type": "str", "default": "4h", "no_log": False},
    "token_period": {"type": "str", "default": "24h", "no_log": False},
    "secret_id_ttl": {"type": "str", "no_log": False},
    "secret_id_num_uses": {"type": "int", "no_log": False},
    "token_bound_cidrs": {"type": "list", "elements": "str", "no_log": False},
    "secret_id_bound_cidrs": {"type": "list", "elements": "str", "no_log": False},
    **STORE,
    **BACKEND,
}


def main() -> None:
    """Its work is done by the action plugin of the same name."""
    refuse_to_run_on_a_host(ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
