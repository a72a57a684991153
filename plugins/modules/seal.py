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
  - With O(publish_to) the envelopes also become files of a static web server, from which hosts fetch their own, see
    P(hostseal.secrets.host_agent#role) and its C(hostseal_pull_url). Nothing else has to reach these hosts then.
author:
  - hostseal contributors (@hostseal)
options:
  environment:
    description: The environment of the mounts that name none themselves, and one to publish even without mounts.
    type: str
  hosts:
    description:
      - The hosts to seal O(mounts) for, by the names that they are enrolled under.
      - Without O(mounts), the hosts to publish with O(publish_to) what the store has for them.
    type: list
    elements: str
  mounts_by_host:
    description:
      - Mounts that differ from host to host, a dictionary from a host's name to a list like O(mounts).
    type: dict
  state:
    description:
      - V(absent) takes the mounts away, of which only names are needed. Hosts wipe them when they fetch the next time.
      - It needs O(publish_to). For hosts that are reached there is M(hostseal.secrets.mount).
    type: str
    choices: [present, absent]
    default: present
  publish_to:
    description:
      - A directory on the control node. It has to be there. In it, each host has a signed manifest of all that the store
        has for it, with the envelopes beside it.
      - It is brought up to date for the hosts of the task, and in the environments of the task for all hosts that were
        published before. A mount that was taken away is not in the manifest any more, and neither is any of a host that
        is retired.
    type: path
  manifest_expires_after:
    description:
      - How long manifests are good, like V(7d) or V(12h). They are renewed when half of it is over, so run this task more
        often than that.
      - A host that gets no newer one until then says so, and goes on with what it has.
    type: str
    default: 7d
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

- name: Publish for hosts that fetch, and keep what is published good
  hostseal.secrets.seal:
    environment: prod
    hosts: "{{ ansible_play_hosts }}"
    mounts:
      - name: db
        secrets:
          - source: db_password
            uid: 999
            mode: "0400"
    publish_to: /srv/hostseal
  run_once: true

- name: Take a mount away from hosts that fetch
  hostseal.secrets.seal:
    environment: prod
    hosts: [edge1, edge2]
    mounts:
      - name: db
    state: absent
    publish_to: /srv/hostseal
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
published:
  description: The hosts whose manifest was written by this task, or would be in check mode.
  returned: success
  type: list
  elements: dict
  contains:
    host:
      description: Name of the host.
      type: str
      sample: db1
    environment:
      description: The environment.
      type: str
      sample: prod
    added:
      description: Docker volumes of new envelopes. With none of both, the manifest was renewed.
      type: list
      elements: str
      sample: [prod.db]
    removed:
      description: Docker volumes that the host will wipe.
      type: list
      elements: str
      sample: []
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
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "publish_to": {"type": "path"},
    "manifest_expires_after": {"type": "str", "default": "7d"},
    **STORE,
    **BACKEND,
}


def main() -> None:
    """Its work is done by the action plugin of the same name."""
    refuse_to_run_on_a_host(ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
