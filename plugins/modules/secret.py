#!/usr/bin/python
# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: secret
short_description: Declare secrets of an environment
version_added: 0.1.0
description:
  - Declares secrets, with a value that is given, read from a file or generated. It is encrypted with the environment's
    key and kept in the store. No module ever returns it.
  - A secret has numbered versions, which never change. Containers get the current one with the next
    M(hostseal.secrets.mount), unless the mount names another.
  - Several secrets belong into the list O(secrets), which is one transaction and one batch of the backend, not into a C(loop).
    That is slower, and Ansible prints the items of a loop, so results are hidden in a loop over given values.
author:
  - hostseal contributors (@hostseal)
options:
  environment:
    description: The environment that owns the secrets.
    type: str
    required: true
  name:
    description: Name of the secret. Letters, digits, C(_), C(-) and C(.), at most 255 characters.
    type: str
  value:
    description:
      - The value as a string, stored byte for byte in UTF-8.
      - A number or a boolean is refused, as YAML may have changed it. Quote it.
    type: str
  value_base64:
    description: The value in base64, for binary values.
    type: str
  value_file:
    description: A file on the control node that holds the value, taken byte for byte.
    type: path
  generate:
    description:
      - Generate the value at random, on the control node. An existing secret is left as it is.
    type: dict
    suboptions:
      length:
        description: Number of characters.
        type: int
        default: 32
      alphabet:
        description: The characters to choose from, each once. By default the ASCII letters and digits.
        type: str
  on_difference:
    description:
      - What to do when a given value is not the stored one. Values are compared through a keyed fingerprint.
      - V(fail) says so, V(rotate) makes a new version, V(keep) leaves the stored one. V(fail) by default.
    type: str
    choices: [fail, rotate, keep]
  rotate_after:
    description: Make a new version when the newest one is older than this, for example V(90d). Only with O(generate).
    type: str
  version:
    description:
      - Make this stored version current, without a new value. Mounts that pin no version show it after their next
        delivery. The next new version is current again.
    type: int
  keep_versions:
    description:
      - Delete all but so many of the newest versions. What is current and what a host has stays in any case. By default all
        are kept.
    type: int
  force:
    description: With O(state=absent), delete a secret although hosts have it.
    type: bool
  state:
    description:
      - V(present) makes the secret if there is none.
      - V(rotated) always makes a new version.
      - V(absent) deletes all versions. Their numbers are never used again. It is refused while hosts have the secret,
        unless O(force=true).
      - V(present) by default.
    type: str
    choices: [present, rotated, absent]
  secrets:
    description:
      - A list of secrets instead of one. What is not said in an item is taken from the options beside the
        list.
    type: list
    elements: dict
    suboptions:
      name:
        description: Name of the secret.
        type: str
        required: true
      value:
        description:
          - The value as a string, stored byte for byte in UTF-8.
          - A number or a boolean is refused, as YAML may have changed it. Quote it.
        type: str
      value_base64:
        description: The value in base64, for binary values.
        type: str
      value_file:
        description: A file on the control node that holds the value, taken byte for byte.
        type: path
      generate:
        description:
          - Generate the value at random, on the control node. An existing secret is left as it is.
        type: dict
        suboptions:
          length:
            description: Number of characters.
            type: int
            default: 32
          alphabet:
            description: The characters to choose from, each once. By default the ASCII letters and digits.
            type: str
      on_difference:
        description:
          - What to do when a given value is not the stored one. Values are compared through a keyed fingerprint.
          - V(fail) says so, V(rotate) makes a new version, V(keep) leaves the stored one. V(fail) by default.
        type: str
        choices: [fail, rotate, keep]
      rotate_after:
        description:
          - Make a new version when the newest one is older than this, for example V(90d). Only with
            O(secrets[].generate).
        type: str
      version:
        description:
          - Make this stored version current, without a new value. Mounts that pin no version show it after their next
            delivery. The next new version is current again.
        type: int
      keep_versions:
        description:
          - Delete all but so many of the newest versions. What is current and what a host has stays in any case. By
            default all are kept.
        type: int
      force:
        description: With O(secrets[].state=absent), delete a secret although hosts have it.
        type: bool
      state:
        description:
          - V(present) makes the secret if there is none.
          - V(rotated) always makes a new version.
          - V(absent) deletes all versions. Their numbers are never used again. It is refused while hosts have the
            secret, unless O(secrets[].force=true).
          - V(present) by default.
        type: str
        choices: [present, rotated, absent]
extends_documentation_fragment:
  - hostseal.secrets.store
  - hostseal.secrets.backend
  - hostseal.secrets.attributes
  - hostseal.secrets.attributes.full
attributes:
  idempotent:
    support: partial
    details:
      - O(state=rotated) makes a version at each run.
seealso:
  - module: hostseal.secrets.secret_info
  - module: hostseal.secrets.mount
"""

EXAMPLES = r"""
- name: Generate a password once
  hostseal.secrets.secret:
    environment: prod
    name: db_password
    generate:
      length: 32

- name: Declare several secrets in one transaction
  hostseal.secrets.secret:
    environment: prod
    on_difference: rotate
    secrets:
      - name: api_token
        value: "{{ lookup('ansible.builtin.env', 'API_TOKEN') }}"
      - name: tls_key
        value_file: /etc/ssl/private/web.key
      - name: cookie_key
        generate:
          length: 64

- name: Give the database a new password
  hostseal.secrets.secret:
    environment: prod
    name: db_password
    state: rotated
    generate:
      length: 32

- name: Go back to the version before
  hostseal.secrets.secret:
    environment: prod
    name: db_password
    version: 1

- name: Rotate by age, and keep the three newest versions
  hostseal.secrets.secret:
    environment: prod
    name: db_password
    generate:
      length: 32
    rotate_after: 90d
    keep_versions: 3
"""

RETURN = r"""
secrets:
  description: What became of each secret, in the order of the task.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the secret.
      type: str
      sample: db_password
    action:
      description: One of V(created), V(rotated), V(rolled_back), V(deleted) and V(unchanged).
      type: str
      sample: created
    before:
      description: Number of its current version before the task. V(none) if it had none.
      type: int
      sample: 1
    version:
      description: Number of its current version now. V(none) if it is deleted.
      type: int
      sample: 2
    pruned:
      description: Numbers of versions that O(keep_versions) has deleted.
      type: list
      elements: int
      sample: []
"""

from ansible_collections.hostseal.secrets.plugins.module_utils._options import BACKEND, STORE, refuse_to_run_on_a_host

_GENERATE = {"length": {"type": "int", "default": 32}, "alphabet": {"type": "str"}}
_SECRET = {
    "value": {"type": "str", "no_log": True},
    "value_base64": {"type": "str", "no_log": True},
    "value_file": {"type": "path"},
    "generate": {"type": "dict", "options": _GENERATE},
    "on_difference": {"type": "str", "choices": ["fail", "rotate", "keep"]},
    "rotate_after": {"type": "str"},
    "version": {"type": "int"},
    "keep_versions": {"type": "int"},
    "force": {"type": "bool"},
    "state": {"type": "str", "choices": ["present", "rotated", "absent"]},
}
ARGUMENT_SPEC = {
    "environment": {"type": "str", "required": True},
    "name": {"type": "str"},
    **_SECRET,
    # no_log stands at the values themselves.
    "secrets": {
        "type": "list",
        "elements": "dict",
        "no_log": False,
        "options": {"name": {"type": "str", "required": True}, **_SECRET},
    },
    **STORE,
    **BACKEND,
}


def main() -> None:
    """Its work is done by the action plugin of the same name."""
    refuse_to_run_on_a_host(ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
