#!/usr/bin/python
# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: localkey
short_description: Make or rotate a local AES-256 key
version_added: 0.1.0
description:
  - Makes the key file of an environment on the control node, a JWK Set with numbered AES-256 keys, the root of
    the fingerprints and an Ed25519 signing key.
  - The option O(store) is not used. It is accepted so that defaults of the action group can name it.
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
extends_documentation_fragment:
  - hostseal.secrets.backend
  - hostseal.secrets.store
  - hostseal.secrets.attributes
  - hostseal.secrets.attributes.control_node
attributes:
  idempotent:
    support: partial
    details:
      - O(state=rotated) adds a version at each run.
seealso:
  - module: hostseal.secrets.environment
"""

EXAMPLES = r"""
- name: Make the key of the environment prod
  hostseal.secrets.localkey:
    name: prod

- name: Add a version to the key
  hostseal.secrets.localkey:
    name: prod
    state: rotated
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
"""

from ansible_collections.hostseal.secrets.plugins.module_utils._options import BACKEND, STORE, refuse_to_run_on_a_host

ARGUMENT_SPEC = {
    "name": {"type": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "rotated"], "default": "present"},
    **STORE,
    **BACKEND,
}


def main() -> None:
    """Its work is done by the action plugin of the same name."""
    refuse_to_run_on_a_host(ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
