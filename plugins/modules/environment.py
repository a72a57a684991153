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
      - It can't be changed while the environment has it declared otherwise.
    type: str
    choices: [localkey]
    default: localkey
  key:
    description: Name of the key in the backend. By default the environment's name.
    type: str
  state:
    description:
      - V(absent) forgets the environment with all that is in it. It is refused while there are secrets or
        hosts, unless O(force=true).
    type: str
    choices: [present, absent]
    default: present
  force:
    description: Remove an environment together with its secrets and hosts.
    type: bool
    default: false
extends_documentation_fragment:
  - hostseal.secrets.store
  - hostseal.secrets.backend
  - hostseal.secrets.attributes
  - hostseal.secrets.attributes.control_node
attributes:
  idempotent:
    support: full
seealso:
  - module: hostseal.secrets.localkey
  - module: hostseal.secrets.secret
"""

EXAMPLES = r"""
- name: Declare an environment whose secrets a local key encrypts
  hostseal.secrets.environment:
    name: prod
    backend: localkey
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
"""

from ansible_collections.hostseal.secrets.plugins.module_utils._options import BACKEND, STORE, refuse_to_run_on_a_host

ARGUMENT_SPEC = {
    "name": {"type": "str", "required": True},
    "backend": {"type": "str", "choices": ["localkey"], "default": "localkey"},
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
