#!/usr/bin/python
# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: secret_info
short_description: List the secrets of an environment
version_added: 0.1.0
description:
  - Names, versions, ages and the hosts that have them. Never a value.
  - The option O(key_path) is not used. It is accepted so that defaults of the action group can name it.
author:
  - hostseal contributors (@hostseal)
options:
  environment:
    description: The environment.
    type: str
    required: true
  names:
    description: Only these secrets. By default all. A name that is not there is an error.
    type: list
    elements: str
extends_documentation_fragment:
  - hostseal.secrets.store
  - hostseal.secrets.backend
  - hostseal.secrets.attributes
  - hostseal.secrets.attributes.full
attributes:
  diff_mode:
    support: none
    details:
      - It changes nothing.
  idempotent:
    support: full
seealso:
  - module: hostseal.secrets.secret
"""

EXAMPLES = r"""
- name: Look at the secrets of prod
  hostseal.secrets.secret_info:
    environment: prod
  register: found

- name: Show their names and current versions
  ansible.builtin.debug:
    msg: "{{ found.secrets | items2dict(key_name='name', value_name='version') }}"
"""

RETURN = r"""
secrets:
  description: The secrets by name.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: Name of the secret.
      type: str
      sample: db_password
    version:
      description:
        - Number of its current version, which is the newest unless it was rolled back.
        - V(none) for a secret that is deleted. It is listed while hosts have it, and if it is asked for.
      type: int
      sample: 2
    behind:
      description: Hosts that have another version than the current one.
      type: list
      elements: str
      sample: []
    versions:
      description: All its versions, oldest first.
      type: list
      elements: dict
      contains:
        version:
          description: Number of the version.
          type: int
          sample: 1
        created_at:
          description: When it was made, in ISO 8601.
          type: str
          sample: "2026-11-22T09:00:00Z"
        age:
          description: Seconds since then.
          type: int
          sample: 86400
    delivered:
      description: The hosts that have confirmed to have it.
      type: list
      elements: dict
      contains:
        host:
          description: Name of the host.
          type: str
          sample: db1
        mount:
          description: Name of the mount.
          type: str
          sample: db
        version:
          description: The version that the host has.
          type: int
          sample: 2
        delivered_at:
          description: When it was confirmed, in ISO 8601.
          type: str
          sample: "2026-11-22T09:00:00Z"
    published:
      description:
        - The hosts for which it is published, see M(hostseal.secrets.seal), and that have not confirmed it.
          M(hostseal.secrets.agent_info) records that they have it.
      type: list
      elements: dict
      contains:
        host:
          description: Name of the host.
          type: str
          sample: edge1
        mount:
          description: Name of the mount.
          type: str
          sample: db
        version:
          description: The version that is published.
          type: int
          sample: 2
        published_at:
          description: When the host's manifest was made, in ISO 8601.
          type: str
          sample: "2026-11-22T09:00:00Z"
"""

from ansible_collections.hostseal.secrets.plugins.module_utils._options import BACKEND, STORE, refuse_to_run_on_a_host

ARGUMENT_SPEC = {
    "environment": {"type": "str", "required": True},
    "names": {"type": "list", "elements": "str"},
    **STORE,
    **BACKEND,
}


def main() -> None:
    """Its work is done by the action plugin of the same name."""
    refuse_to_run_on_a_host(ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
