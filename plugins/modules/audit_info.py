#!/usr/bin/python
# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: audit_info
short_description: Read and check the audit log
version_added: 0.1.0
description:
  - Lists who did what to environments, secrets, hosts and mounts, from the audit log in the store. Never a value.
  - Each record carries the hash of the one before. The whole log is checked each time, and RV(intact) tells of a record
    that was changed, taken out or put in later. That the newest records were cut off shows if RV(head) of an earlier
    run, kept elsewhere, is given as O(expected_head).
  - The log of a host is its file C(/var/log/hostseal/audit.jsonl), where lines have the same C(delivery).
author:
  - hostseal contributors (@hostseal)
options:
  environment:
    description: Only records of this environment.
    type: str
  host:
    description: Only records about this host.
    type: str
  mount:
    description: Only records about mounts of this name.
    type: str
  secret:
    description: Only records that name this secret.
    type: str
  action:
    description: Only records of this action, for example V(mount.delivered), or of a kind, for example V(secret).
    type: str
  user:
    description: Only what this user did.
    type: str
  job:
    description: Only what this AWX job did.
    type: str
  delivery:
    description: Only records of this delivery.
    type: str
  since:
    description: Only records that are younger than this, for example V(24h) or V(30d).
    type: str
  newest:
    description: Only so many of the newest records.
    type: int
  expected_head:
    description: A hash that must be in the log, RV(head.hash) of an earlier run.
    type: str
extends_documentation_fragment:
  - hostseal.secrets.store
  - hostseal.secrets.backend
  - hostseal.secrets.attributes
  - hostseal.secrets.attributes.full
attributes:
  diff_mode:
    support: none
  idempotent:
    support: full
seealso:
  - module: hostseal.secrets.secret_info
  - module: hostseal.secrets.agent_info
"""

EXAMPLES = r"""
- name: Who touched the database's password in the last month?
  hostseal.secrets.audit_info:
    environment: prod
    secret: db_password
    since: 30d
  register: found

- name: Check that nobody has edited the log
  hostseal.secrets.audit_info:
    expected_head: "{{ lookup('ansible.builtin.file', '/srv/elsewhere/audit-head') }}"
    newest: 1
  register: log
  failed_when: not log.intact
"""

RETURN = r"""
records:
  description: The records, oldest first.
  returned: success
  type: list
  elements: dict
  contains:
    number:
      description: Its number, counted from 1.
      type: int
      sample: 12
    at:
      description: When, in UTC.
      type: str
      sample: "2026-11-22T09:30:00Z"
    user:
      description: Who, the user of AWX or of the control node.
      type: str
      sample: alice
    job:
      description: Id of the AWX job, V(none) outside of AWX.
      type: str
      sample: "417"
    action:
      description:
        - What, one of C(environment.declared), C(environment.migrated), C(environment.keys_retired), C(environment.removed),
          C(host.enrolled), C(host.key_rotated), C(host.key_replaced), C(host.retired), C(secret.created), C(secret.rotated),
          C(secret.rolled_back), C(secret.pruned), C(secret.deleted), C(secret.rewrapped), C(mount.sealed), C(mount.published),
          C(mount.withdrawn), C(mount.delivered), C(mount.refused), C(mount.removed).
      type: str
      sample: mount.delivered
    environment:
      description: The environment.
      type: str
      sample: prod
    host:
      description: The host, V(none) where none is concerned.
      type: str
      sample: web1
    mount:
      description: The mount, V(none) where none is concerned.
      type: str
      sample: db
    secrets:
      description: Names and versions of the secrets.
      type: list
      elements: dict
      sample: [{"name": "db_password", "version": 2}]
    delivery:
      description: Id of the delivery, which the host's own log has too.
      type: str
      sample: web1/prod.db/1795340191000
    result:
      description: V(ok), or why the host refused.
      type: str
      sample: ok
intact:
  description: Whether each record of the log follows from the one before, and O(expected_head) is in it.
  returned: success
  type: bool
  sample: true
broken_at:
  description: Number of the first record that does not. V(none) if the log is intact.
  returned: success
  type: int
  sample: 3
head:
  description: Number and hash of the newest record, V(none) for an empty log. Keep it where the log's editor can't reach.
  returned: success
  type: dict
  contains:
    number:
      description: Its number.
      type: int
      sample: 12
    hash:
      description: Its hash.
      type: str
      sample: 9c56cc51b374c3ba189210d5b6d4bf57790d351c96c47c02190ecf1e430635ab
"""

from ansible_collections.hostseal.secrets.plugins.module_utils._options import BACKEND, STORE, refuse_to_run_on_a_host

ARGUMENT_SPEC = {
    "environment": {"type": "str"},
    "host": {"type": "str"},
    "mount": {"type": "str"},
    # A name.
    "secret": {"type": "str", "no_log": False},
    "action": {"type": "str"},
    "user": {"type": "str"},
    "job": {"type": "str"},
    "delivery": {"type": "str"},
    "since": {"type": "str"},
    "newest": {"type": "int"},
    "expected_head": {"type": "str"},
    **STORE,
    **BACKEND,
}


def main() -> None:
    """Its work is done by the action plugin of the same name."""
    refuse_to_run_on_a_host(ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
