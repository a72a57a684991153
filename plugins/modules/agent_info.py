#!/usr/bin/python
# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: agent_info
short_description: Tell what the agent of a host has
version_added: 0.1.0
description:
  - Tells the health of a host's agent, its mounts with names and versions, and which containers use them. Never a
    value.
  - What needs somebody's attention is in RV(problems).
author:
  - hostseal contributors (@hostseal)
options:
  receipts:
    description:
      - Record in the store what the host has of the mounts that M(hostseal.secrets.seal) has published, and which it has
        wiped. Until then they count as published, see M(hostseal.secrets.secret_info).
      - In check mode nothing is recorded.
    type: bool
    default: false
  host:
    description:
      - The name that the host is enrolled under, for O(receipts). By default the delegated host's name, else
        C(inventory_hostname).
    type: str
extends_documentation_fragment:
  - hostseal.secrets.store
  - hostseal.secrets.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: none
  action:
    support: full
  idempotent:
    support: full
seealso:
  - module: hostseal.secrets.mount
"""

EXAMPLES = r"""
- name: Ask the agent
  hostseal.secrets.agent_info:
  register: info

- name: Fail when something is wrong
  ansible.builtin.assert:
    that: not info.problems
    fail_msg: "{{ info.problems | join('; ') }}"

- name: Have the store know what hosts have fetched
  hostseal.secrets.agent_info:
    receipts: true
"""

RETURN = r"""
agent:
  description: The agent itself.
  returned: success
  type: dict
  contains:
    installed:
      description: Whether there is an agent. All else is missing when not.
      type: bool
      sample: true
    version:
      description: Its version.
      type: str
      sample: 0.1.0
    host:
      description: The name under which the host is enrolled.
      type: str
      sample: db1
    kid:
      description: RFC 7638 thumbprint of the host's key.
      type: str
      sample: tqD0CbZwNNfkhXDA5LFNo6MdgGdzc2ANKq8NHcUkGmI
    key_protection:
      description:
        - How the host's private key lies on the disk. V(file) in clear, for root alone, otherwise encrypted by V(host), a
          key on the same disk, by V(tpm2), or by both together, V(host+tpm2). V(systemd-creds) when it can't be told.
      type: str
      sample: file
    older_keys:
      description:
        - Keys that were rotated and not destroyed yet, each with V(kid), and V(needed) for whether a mount is still
          sealed for it.
      type: list
      elements: dict
      sample: []
    tmpfs:
      description: The memory file system with V(ok), V(noswap), V(size) and V(free) in bytes, and V(reason).
      type: dict
      sample: {"ok": true, "noswap": true, "size": 67108864, "free": 67104768, "reason": null}
environments:
  description: The pinned environments, each with V(kids), the thumbprints of its verification keys, and V(issued_at).
  returned: when the agent is installed
  type: dict
  sample: {"prod": {"kids": ["q2b8vAq5Vr1sZKcQkA3QhWxCE2VfnVxXYQd7gTzSP0w"], "issued_at": 1767225600000}}
mounts:
  description: The mounts that this host has. Times are in milliseconds since 1970.
  returned: when the agent is installed
  type: list
  elements: dict
  contains:
    volume:
      description: The Docker volume.
      type: str
      sample: prod.db
    environment:
      description: The environment.
      type: str
      sample: prod
    mount:
      description: The mount's name.
      type: str
      sample: db
    issued_at:
      description: When it was sealed.
      type: int
      sample: 1767225600000
    expires_at:
      description: When it expires. V(none) for never.
      type: int
    delivered_at:
      description: When it came to the host.
      type: int
      sample: 1767225600123
    on_expiry:
      description: What becomes of the files in running containers then, V(keep) or V(wipe).
      type: str
      sample: keep
    state_digest:
      description: Names what is delivered. Equal digests mean an equal state.
      type: str
      sample: 9f2d4c5e0b1a
    owner:
      description: The mount's owner label.
      type: str
      sample: default
    valid:
      description: Whether a container can be started with it now.
      type: bool
      sample: true
    reason:
      description: Why not.
      type: str
    secrets:
      description: Its secrets with V(name), V(version), V(target), V(uid), V(gid) and V(mode).
      type: list
      elements: dict
      sample: [{"name": "db_password", "version": 3, "target": "db_password", "uid": 999, "gid": 0, "mode": "0400"}]
    live:
      description: Whether its files are in memory. They are not when it has users but they were wiped at its expiry.
      type: bool
      sample: true
    users:
      description:
        - How often Docker has mounted it and not unmounted. Podman and systemd, which count by themselves, are one user each.
      type: int
      sample: 1
    pending:
      description: What is still to be done after a change, with V(mode), V(issued_at), V(in) seconds and V(tries).
      type: list
      elements: dict
      sample: []
    last_change:
      description:
        - The last signal or restart, with V(mode), V(issued_at), V(at), V(containers) and V(reason) when it
          failed.
      type: dict
    containers:
      description: The containers that use it.
      type: list
      elements: str
      sample: [db]
    held_for_services:
      description: Whether services of the host use it, by the unit C(hostseal-hold@ENVIRONMENT.MOUNT.service).
      type: bool
      sample: false
pull:
  description:
    - What the host has fetched by itself, by environment. V(issued_at) and V(expires_at) are those of the newest manifest, in
      milliseconds since 1970, V(expired) says whether that is over.
    - V(missing) are Docker volumes of envelopes that it names and that the host could not get. V(fetched_at) is when all went
      well last, since the agent was started, and V(reason) why it did not the last time.
  returned: when the agent is installed
  type: dict
  sample:
    prod:
      issued_at: 1767225600000
      expires_at: 1767830400000
      expired: false
      missing: []
      fetched_at: 1767225912345
      reason:
recorded:
  description: Docker volumes of which something new was recorded.
  returned: with O(receipts)
  type: list
  elements: str
  sample: [prod.db]
problems:
  description: What somebody should look at, in words.
  returned: success
  type: list
  elements: str
  sample: ["a local Docker volume bears the name of mount 'prod.db': remove it with 'docker volume rm prod.db'"]
"""

import base64

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hostseal.secrets.plugins.module_utils._agent_client import (
    AgentClient,
    AgentError,
    AgentMissing,
)
from ansible_collections.hostseal.secrets.plugins.module_utils._options import STORE

ARGUMENT_SPEC = {"receipts": {"type": "bool", "default": False}, "host": {"type": "str"}, **STORE}

CREDENTIAL_PATH = "/etc/hostseal/host.key.cred"
# With which key systemd encrypted a credential: its first 16 bytes, see src/shared/creds-util.h of systemd.
KINDS = {
    "5a1c6a86df9d4096b1d5a65e0862f19a": "host",
    "0c7cc07b117645919c4b0bea08bc20fe": "tpm2",
    "faf7eb9341e3412ca1a436f95a29362f": "tpm2",
    "93a894094874449090caf2fc93cab553": "host+tpm2",
    "af4950a849134eb1a73846304ff30c05": "host+tpm2",
}

# How a container gets the driver's volume, and not one that the engine makes by itself.
NAMED = {
    "docker": "name the driver when you launch",
    "podman": "make it with 'podman volume create --driver hostseal {0}' before you launch",
}


def protection(told, path=CREDENTIAL_PATH):
    """What the agent TOLD of its key's file, and of one of systemd's credentials the key that it is encrypted by."""
    if told != "systemd-creds":
        return told
    try:
        with open(path, "rb") as file:
            return KINDS.get(base64.b64decode(file.read(24)[:24])[:16].hex(), told)
    except (OSError, ValueError):
        return told


def engines_of(status):
    """What each of the host's engines told."""
    return {engine: status[engine] for engine in NAMED if engine in status}


def problems_of_engines(status):
    """What of the engines needs attention."""
    problems = []
    for engine, told in engines_of(status).items():
        if not told["ok"]:
            problems.append(f"which containers use the mounts is not known: {told['reason']}")
        for volume in told["shadowed"]:
            problems.append(
                f"a {engine.capitalize()} volume of another driver bears the name of mount {volume!r}, and containers get it in the"
                f" place of the secrets: remove it with '{engine} volume rm {volume}', and {NAMED[engine].format(volume)}"
            )
    return problems


def problems_of(status):
    """What of a status needs attention."""
    problems = []
    if not status["tmpfs"]["ok"]:
        problems.append(f"no container can be started with secrets: {status['tmpfs']['reason']}")
    elif not status["tmpfs"]["noswap"]:
        problems.append(
            "the kernel has no tmpfs option noswap (it came with Linux 6.4): secrets in use may be swapped out"
        )
    for mount in status["mounts"]:
        if not mount["valid"]:
            problems.append(f"mount {mount['volume']!r} can't be used: {mount['reason']}")
        if mount["last_change"] and mount["last_change"]["reason"]:
            problems.append(
                f"{mount['last_change']['mode']} after a change of {mount['volume']!r}: {mount['last_change']['reason']}"
            )
        if mount["users"] and not mount["live"]:
            problems.append(
                f"the running containers of mount {mount['volume']!r} have no files any more: deliver it anew"
            )
    # An agent that was installed earlier does not tell it.
    for environment, source in status.get("pull", {}).items():
        if source["expired"]:
            problems.append(
                f"the manifest of environment {environment!r} has expired: somebody withholds newer ones, or none was"
                " published; publish with hostseal.secrets.seal, and see 'systemctl status hostseal-fetch'"
            )
        if source["reason"]:
            problems.append(f"fetching for environment {environment!r} failed: {source['reason']}")
        elif source["missing"]:
            problems.append(f"not fetched yet: {', '.join(source['missing'])}")
    return problems + problems_of_engines(status)


def gather(client):
    """The module's result from the agent's status."""
    try:
        status = client.status(docker=True)
    except AgentMissing:
        return {"agent": {"installed": False}, "problems": []}
    users = [told["users"] for told in engines_of(status).values()]
    return {
        "agent": {
            "installed": True,
            **{name: status[name] for name in ("version", "host", "kid", "tmpfs")},
            # An agent that was installed earlier does not tell them.
            "older_keys": status.get("older_keys", []),
            "key_protection": protection(status.get("key_protection", "file")),
        },
        "environments": status["environments"],
        "pull": status.get("pull", {}),
        "mounts": [
            {
                "held_for_services": False,  # an agent that was installed earlier does not tell
                **mount,
                "containers": sorted(name for using in users for name in using.get(mount["volume"], [])),
            }
            for mount in status["mounts"]
        ],
        "problems": problems_of(status),
    }


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    try:
        module.exit_json(changed=False, **gather(AgentClient()))
    except AgentError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
