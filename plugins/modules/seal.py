#!/usr/bin/python
# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: seal
short_description: Seal mounts for many hosts at once
version_added: 0.1.0
description:
  - Makes the envelopes of mounts for many hosts with one login and one batch of the backend, and puts them into
    the store.
  - Run it once, before M(hostseal.secrets.mount) delivers to each host. Without it, M(hostseal.secrets.mount)
    seals for its own host.
  - What is sealed already in the same state is left as it is, and no backend is called then.
author:
  - hostseal contributors (@hostseal)
options:
  environment:
    description: The environment of the mounts that name none themselves.
    type: str
  hosts:
    description: The hosts to seal O(mounts) for, by the names that they are enrolled under.
    type: list
    elements: str
  mounts_by_host:
    description:
      - Mounts that differ from host to host, a dictionary from a host's name to a list like O(mounts).
    type: dict
extends_documentation_fragment:
  - hostseal.secrets.mount.mounts
  - hostseal.secrets.store
  - hostseal.secrets.backend
  - hostseal.secrets.attributes
  - hostseal.secrets.attributes.full
attributes:
  idempotent:
    support: full
seealso:
  - module: hostseal.secrets.mount
"""

EXAMPLES = r"""
- name: Seal for all hosts of the play with one batch
  hostseal.secrets.seal:
    environment: prod
    hosts: "{{ ansible_play_hosts }}"
    mounts:
      - name: db
        secrets:
          - source: db_password
            uid: 999
            mode: "0400"
  run_once: true
"""

RETURN = r"""
envelopes:
  description: The envelopes of the mounts.
  returned: success
  type: list
  elements: dict
  contains:
    host:
      description: Name of the host.
      type: str
      sample: db1
    volume:
      description: The mount as a Docker volume.
      type: str
      sample: prod.db
    sealed:
      description: Whether it was sealed by this task, or would be in check mode.
      type: bool
      sample: true
"""

from ansible_collections.hostseal.secrets.plugins.module_utils._options import (
    BACKEND,
    MOUNTS,
    STORE,
    refuse_to_run_on_a_host,
)

ARGUMENT_SPEC = {
    "environment": {"type": "str"},
    "hosts": {"type": "list", "elements": "str"},
    **MOUNTS,
    "mounts_by_host": {"type": "dict"},
    **STORE,
    **BACKEND,
}


def main() -> None:
    """Its work is done by the action plugin of the same name."""
    refuse_to_run_on_a_host(ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
