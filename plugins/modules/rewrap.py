#!/usr/bin/python
# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: rewrap
short_description: Encrypt an environment's secrets under the newest version of its key
version_added: 0.1.0
description:
  - After a rotation of the environment's key, encrypts again whatever the store has under an older version of it.
    Values, numbers and fingerprints stay as they are, and no host is concerned.
  - With the backend vault it is Transit's C(rewrap), so no value leaves the server, and the policy C(rotator) suffices.
  - Works in parts of about a thousand. A run that was killed loses nothing, and the next one goes on from there.
author:
  - hostseal contributors (@hostseal)
options:
  environment:
    description: Name of the environment.
    type: str
    required: true
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
"""

EXAMPLES = r"""
- name: Add a version to the key
  hostseal.secrets.localkey:
    name: prod
    state: rotated

- name: Encrypt everything under it
  hostseal.secrets.rewrap:
    environment: prod
"""

RETURN = r"""
rewrapped:
  description: Number of versions of secrets that were, or in check mode would be, encrypted anew.
  returned: success
  type: int
  sample: 12
key_version:
  description: Number of the newest version of the key. V(none) when the environment has no secrets.
  returned: success
  type: int
  sample: 2
"""

from ansible_collections.hostseal.secrets.plugins.module_utils._options import BACKEND, STORE, refuse_to_run_on_a_host

ARGUMENT_SPEC = {
    "environment": {"type": "str", "required": True},
    **STORE,
    **BACKEND,
}


def main() -> None:
    """Its work is done by the action plugin of the same name."""
    refuse_to_run_on_a_host(ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
