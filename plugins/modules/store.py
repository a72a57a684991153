#!/usr/bin/python
# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: store
short_description: Make, upgrade, copy or verify a store
version_added: 0.1.0
description:
  - Makes a store where there is none, and upgrades one of an older version of this collection. Other modules do so, too;
    this one is for doing it apart, for example as a database administrator.
  - Copies a store with everything in it to another place, for example from a file to a database server, or to a folder
    for Git and back.
  - Verifies that a store holds together.
author:
  - hostseal contributors (@hostseal)
options:
  copy_to:
    description:
      - Another place, as in O(store), to which everything is copied in one transaction, while no other run can write to
        either. What is there must be empty, or the same already.
      - Playbooks have to be given the new place afterwards. Nothing is deleted from the old one.
    type: str
  copy_to_password:
    description: The password of the database's user there.
    type: str
  copy_to_password_file:
    description: A file on the control node that holds that password.
    type: path
  verify:
    description:
      - With V(records) the audit log's chain, key sets, the signed records of hosts, the envelopes' signatures and the
        numbers of versions are checked. No key is needed.
      - With V(values) each ciphertext is opened, too, with the backends of all environments. No value is kept or returned.
      - After copying, the copy is verified.
      - That the whole store is an older copy does not show; RV(hostseal.secrets.audit_info#module:head) kept elsewhere
        tells.
    type: str
    choices: [none, records, values]
    default: none
extends_documentation_fragment:
  - hostseal.secrets.store
  - hostseal.secrets.backend
  - hostseal.secrets.attributes
  - hostseal.secrets.attributes.full
attributes:
  idempotent:
    support: full
seealso:
  - module: hostseal.secrets.store_info
  - module: hostseal.secrets.audit_info
"""

EXAMPLES = r"""
- name: Make or upgrade the store
  hostseal.secrets.store:

- name: Take everything from the file to a server, and verify it there
  hostseal.secrets.store:
    store: /srv/hostseal/store.db
    copy_to: postgresql+psycopg://hostseal@db.example/hostseal?sslmode=verify-full&sslrootcert=/etc/ssl/db-ca.pem
    copy_to_password_file: /srv/hostseal/db-password
    verify: values

- name: Take everything from the file to a folder that is committed to Git
  hostseal.secrets.store:
    store: /srv/hostseal/store.db
    copy_to: file:///srv/infrastructure/secrets
"""

RETURN = r"""
found:
  description: The schema version that the store had, V(none) if there was none.
  returned: success
  type: int
  sample: 2
copied:
  description: Whether it was, or in check mode would be, copied.
  returned: success
  type: bool
  sample: true
problems:
  description: What is wrong with it, a line each. The task fails if there is something.
  returned: O(verify) is not V(none)
  type: list
  elements: str
  sample: ["audit log: record 12 does not follow from the one before"]
"""

from ansible_collections.hostseal.secrets.plugins.module_utils._options import (
    BACKEND,
    STORE,
    STORE_COPY,
    refuse_to_run_on_a_host,
)

ARGUMENT_SPEC = {
    **STORE_COPY,
    "verify": {"type": "str", "choices": ["none", "records", "values"], "default": "none"},
    **STORE,
    **BACKEND,
}


def main() -> None:
    """Its work is done by the action plugin of the same name."""
    refuse_to_run_on_a_host(ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
