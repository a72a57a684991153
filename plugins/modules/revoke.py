#!/usr/bin/python
# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: revoke
short_description: Take secrets away from a host
version_added: 0.1.0
description:
  - Delivers each mount of the host that has one of the O(secrets) anew without them, in the versions that it has of the others.
    A mount that has no others is removed. The files are gone in running containers too when the task ends.
  - Which mounts those are is known from the receipts and envelopes in the store, so no mount has to be declared. A host that
    has none of the secrets is not asked.
  - With a store in a folder for Git they are of the machine that delivers. Where nothing of the environment was ever
    delivered from, the task fails.
  - Nothing is deleted from the store, that does M(hostseal.secrets.secret) with V(absent). The playbook
    C(hostseal.secrets.revoke) does both on all hosts.
  - What a container has read it may still know. Change the password where it is used, too.
author:
  - hostseal contributors (@hostseal)
options:
  environment:
    description: The environment that owns the secrets.
    type: str
    required: true
  secrets:
    description: Names of the secrets. If not set, all mounts of the environment are removed from the host.
    type: list
    elements: str
  host:
    description:
      - Name under which the host is enrolled.
      - By default the host that the task is delegated to, else C(inventory_hostname).
    type: str
extends_documentation_fragment:
  - hostseal.secrets.store
  - hostseal.secrets.backend
  - hostseal.secrets.attributes
  - hostseal.secrets.attributes.full
attributes:
  idempotent:
    support: full
seealso:
  - module: hostseal.secrets.mount
  - module: hostseal.secrets.secret
"""

EXAMPLES = r"""
- name: Take a token away from the host
  hostseal.secrets.revoke:
    environment: prod
    secrets: [api_token]

- name: Take everything of an environment away from the host
  hostseal.secrets.revoke:
    environment: prod
"""

RETURN = r"""
mounts:
  description: The mounts that had one of the secrets.
  returned: success
  type: list
  elements: dict
  contains:
    volume:
      description: The mount as a Docker volume.
      type: str
      sample: prod.db
    action:
      description: V(delivered) when other secrets are left in it, V(removed) when none is, V(unchanged) when the host did not have it.
      type: str
      sample: removed
    secrets:
      description: What is left in it.
      type: list
      elements: dict
      contains:
        name:
          description: Name of the secret.
          type: str
          sample: db_password
        version:
          description: Number of the version.
          type: int
          sample: 2
    live:
      description: Whether running containers use the mount. V(none) in check mode.
      type: bool
      sample: true
pinned:
  description: Environments whose newer signing keys were handed over to the host.
  returned: success
  type: list
  elements: str
  sample: []
"""

from ansible_collections.hostseal.secrets.plugins.module_utils._options import BACKEND, STORE, refuse_to_run_on_a_host

ARGUMENT_SPEC = {
    "environment": {"type": "str", "required": True},
    # Names.
    "secrets": {"type": "list", "elements": "str", "no_log": False},
    "host": {"type": "str"},
    **STORE,
    **BACKEND,
}


def main() -> None:
    """Its work is done by the action plugin of the same name."""
    refuse_to_run_on_a_host(ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
