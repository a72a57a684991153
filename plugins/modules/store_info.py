#!/usr/bin/python
# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: store_info
short_description: Tell what kind of store there is and how much is in it
version_added: 0.1.0
description:
  - Tells the engine, the schema's version, the size and the number of what a store holds. Nothing is changed, and a
    database user who may only read is enough.
author:
  - hostseal contributors (@hostseal)
extends_documentation_fragment:
  - hostseal.secrets.store
  - hostseal.secrets.attributes
  - hostseal.secrets.attributes.full
attributes:
  diff_mode:
    support: none
  idempotent:
    support: full
seealso:
  - module: hostseal.secrets.store
  - module: hostseal.secrets.secret_info
  - module: hostseal.secrets.audit_info
"""

EXAMPLES = r"""
- name: Look at the store
  hostseal.secrets.store_info:
  register: found
"""

RETURN = r"""
store:
  description: The store.
  returned: success
  type: dict
  contains:
    location:
      description: The file, the folder, or the server and database.
      type: str
      sample: postgresql+psycopg://hostseal@db.example/hostseal
    engine:
      description: The kind of store, one of C(sqlite), C(mariadb), C(mysql), C(postgresql), C(file) (a folder for Git).
      type: str
      sample: postgresql
    engine_version:
      description: The database's version, empty for a folder.
      type: str
      sample: "15.18"
    schema_version:
      description: The version of the tables, which a newer collection upgrades.
      type: int
      sample: 2
    created_at:
      description: When it was made, in UTC.
      type: str
      sample: "2026-11-22T09:30:00Z"
    bytes:
      description: Size of the file or files, or of the tables on the server.
      type: int
      sample: 151552
    rows:
      description: How many there are of each kind, deleted secrets and removed envelopes included as long as their numbers are kept.
      type: dict
      sample: {"audit": 12, "environment": 1, "envelope": 2, "host": 1, "receipt": 2, "secret": 3, "secret_version": 5}
"""

from ansible_collections.hostseal.secrets.plugins.module_utils._options import STORE, refuse_to_run_on_a_host

ARGUMENT_SPEC = {**STORE}


def main() -> None:
    """Its work is done by the action plugin of the same name."""
    refuse_to_run_on_a_host(ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
