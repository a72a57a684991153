#!/usr/bin/python
# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: environment
short_description: Declare an environment of secrets
version_added: 0.1.0
description:
  - An environment is a scope such as C(prod) or C(staging). It owns its secrets, one backend, one key and one
    signing key.
  - The key has to be there. M(hostseal.secrets.localkey) or M(hostseal.secrets.vault_transit) makes it.
  - Makes the store where there is none.
author:
  - hostseal contributors (@hostseal)
options:
  name:
    description: Name of the environment. Letters, digits, C(_) and C(-), no dot, at most 63 characters.
    type: str
    required: true
  backend:
    description:
      - Who holds the environment's keys.
      - V(localkey) is a key file on the control node, made by M(hostseal.secrets.localkey). V(vault) are keys in a
        Transit engine of Vault or OpenBao, made by M(hostseal.secrets.vault_transit).
      - Another one than before is refused, unless O(migrate=true).
    type: str
    choices: [localkey, vault]
    default: localkey
  key:
    description: Name of the key in the backend. By default the environment's name.
    type: str
  engine_mount_point:
    description: Path at which the Transit engine is mounted, with O(backend=vault).
    type: str
    default: transit
  migrate:
    description:
      - Bring the environment to the O(backend), O(key) and O(engine_mount_point) that are given here, if it has others.
      - All versions of all secrets are encrypted under the new key, decrypted again and compared, the hosts' records are
        signed by the new signing key, all in one transaction. Both backends must be usable in this task.
      - Hosts go on accepting the old signing key until each has been delivered to. A later run with the same options
        retires it then. RV(environment.behind) says what is missing.
    type: bool
    default: false
  state:
    description:
      - V(absent) forgets the environment with all that is in it. It is refused while there are secrets or
        hosts, unless O(force=true).
    type: str
    choices: [present, absent]
    default: present
  force:
    description:
      - With O(state=absent), remove an environment together with its secrets and hosts.
      - With O(migrate=true), do so although hosts have not got the key of the last migration.
        They have to be enrolled again with O(hostseal.secrets.host#module:replace_key=true).
    type: bool
    default: false
extends_documentation_fragment:
  - hostseal.secrets.store
  - hostseal.secrets.backend
  - hostseal.secrets.attributes
  - hostseal.secrets.attributes.full
attributes:
  idempotent:
    support: full
seealso:
  - module: hostseal.secrets.localkey
  - module: hostseal.secrets.vault_transit
  - module: hostseal.secrets.secret
"""

EXAMPLES = r"""
- name: Declare an environment whose secrets a local key encrypts
  hostseal.secrets.environment:
    name: prod
    backend: localkey

- name: Declare an environment whose keys are in Vault
  hostseal.secrets.environment:
    name: staging
    backend: vault
    url: https://vault.example.com:8200
    auth_method: approle
    role_id: "{{ vault_role_id }}"
    secret_id: "{{ vault_secret_id }}"

- name: Bring an environment from its local key to Vault
  hostseal.secrets.environment:
    name: prod
    backend: vault
    migrate: true
    url: https://vault.example.com:8200
"""

RETURN = r"""
environment:
  description: The environment's record.
  returned: when state is present
  type: dict
  contains:
    name:
      description: Its name.
      type: str
      sample: prod
    backend:
      description: Its backend.
      type: str
      sample: localkey
    key:
      description: Name of its key.
      type: str
      sample: prod
    signing_kid:
      description: RFC 7638 thumbprint of its signing key. V(none) in check mode when the key is still to be made.
      type: str
      sample: pRshxBDHyh5aLdlDH32lvlSY3o3KLoMif-SWM6t5Mck
    engine_mount_point:
      description: Path of the Transit engine, V(none) with local keys.
      type: str
      sample: transit
    retiring_kids:
      description: Thumbprints of older signing keys that hosts still accept.
      type: list
      elements: str
      sample: []
    behind:
      description: Why older signing keys can't be retired yet, a sentence for each host or mount.
      type: list
      elements: str
      sample: ["host 'web1' has mount 'db' under the old key"]
"""

from ansible_collections.hostseal.secrets.plugins.module_utils._options import BACKEND, STORE, refuse_to_run_on_a_host

ARGUMENT_SPEC = {
    "name": {"type": "str", "required": True},
    "backend": {"type": "str", "choices": ["localkey", "vault"], "default": "localkey"},
    "engine_mount_point": {"type": "str", "default": "transit"},
    "migrate": {"type": "bool", "default": False},
    # The name of a key, not a key.
    "key": {"type": "str", "no_log": False},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "force": {"type": "bool", "default": False},
    **STORE,
    **BACKEND,
}


def main() -> None:
    """Its work is done by the action plugin of the same name."""
    refuse_to_run_on_a_host(ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
