#!/usr/bin/python
# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: localkey
short_description: Make, rotate or retire a local AES-256 key
version_added: 0.1.0
description:
  - Makes the key file of an environment on the control node, a JWK Set with numbered AES-256 keys, the root of
    the fingerprints and an Ed25519 signing key.
  - The store is looked at by O(min_decryption_version) alone.
  - Back the key directory up, apart from the store. Without it the stored secrets can't be opened by anybody.
author:
  - hostseal contributors (@hostseal)
options:
  name:
    description: Name of the key, usually that of the environment.
    type: str
    required: true
  state:
    description:
      - V(present) makes the key if there is none.
      - V(rotated) always adds a version, under which everything is encrypted from now on. Older versions go
        on opening what they have encrypted.
    type: str
    choices: [present, rotated]
    default: present
  min_decryption_version:
    description:
      - Destroy the versions that are older than this one. Nobody can open then what is encrypted under them, in a backup of
        the store for example.
      - Refused while something in the store is. Run M(hostseal.secrets.rewrap) first. Of another store that uses the same
        key nothing is known.
    type: int
extends_documentation_fragment:
  - hostseal.secrets.backend
  - hostseal.secrets.store
  - hostseal.secrets.attributes
  - hostseal.secrets.attributes.full
attributes:
  idempotent:
    support: partial
    details:
      - O(state=rotated) adds a version at each run.
seealso:
  - module: hostseal.secrets.environment
  - module: hostseal.secrets.rewrap
"""

EXAMPLES = r"""
- name: Make the key of the environment prod
  hostseal.secrets.localkey:
    name: prod

- name: Add a version to the key
  hostseal.secrets.localkey:
    name: prod
    state: rotated

- name: Encrypt everything under the new version
  hostseal.secrets.rewrap:
    environment: prod

- name: Destroy the old version
  hostseal.secrets.localkey:
    name: prod
    min_decryption_version: 2
"""

RETURN = r"""
path:
  description: The key file.
  returned: success
  type: str
  sample: /home/ops/.config/hostseal/keys/prod.jwks
version:
  description: Number of the newest version.
  returned: success
  type: int
  sample: 1
versions:
  description: Numbers of the versions that are there, oldest first.
  returned: success
  type: list
  elements: int
  sample: [1]
"""

from ansible_collections.hostseal.secrets.plugins.module_utils._options import BACKEND, STORE, refuse_to_run_on_a_host

ARGUMENT_SPEC = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "rotated"], "default": "present"},
    "min_decryption_version": {"type": "int"},
    **STORE,
    **BACKEND,
}


def main() -> None:
    """Its work is done by the action plugin of the same name."""
    refuse_to_run_on_a_host(ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
