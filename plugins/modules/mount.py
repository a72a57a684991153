#!/usr/bin/python
# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: mount
short_description: Deliver mounts of secrets to a host
version_added: 0.1.0
description:
  - A mount is what the containers of one service see in C(/run/secrets). On the host it is the Docker volume
    C(ENVIRONMENT.MOUNT) of the driver C(hostseal).
  - Delivers the mount's envelope to the agent on the host, sealing it first where M(hostseal.secrets.seal) has not.
    Running containers see the new files at once.
  - Asks the agent for the state of the mounts that it holds. If they are the desired ones, nothing is changed,
    and no backend is called.
  - The envelope can be opened by this host alone. Nothing in clear leaves the control node.
author:
  - hostseal contributors (@hostseal)
options:
  environment:
    description: The environment of the mount, and of the items of O(mounts) that name none.
    type: str
  name:
    description: Name of the mount. Letters, digits, C(_), C(-) and C(.), at most 128 characters.
    type: str
  state:
    description:
      - V(absent) takes O(name), or each of O(mounts), away from the host.
    type: str
    choices: [present, absent]
    default: present
  purge:
    description:
      - Take away the other mounts of O(environment) on the host that have the label O(owner).
      - They are listed with C(--check --diff).
    type: bool
    default: false
  host:
    description:
      - The name that the host is enrolled under. By default the delegated host's name, else
        C(inventory_hostname).
    type: str
  _request:
    description: What the action plugin hands to its part on the host. Not for playbooks.
    type: dict
extends_documentation_fragment:
  - hostseal.secrets.mount
  - hostseal.secrets.mount.mounts
  - hostseal.secrets.store
  - hostseal.secrets.backend
  - hostseal.secrets.attributes
  - hostseal.secrets.attributes.full
attributes:
  idempotent:
    support: full
seealso:
  - module: hostseal.secrets.seal
  - module: hostseal.secrets.container
  - module: hostseal.secrets.agent_info
"""

EXAMPLES = r"""
- name: Deliver the database's secrets
  hostseal.secrets.mount:
    environment: prod
    name: db
    secrets:
      - source: db_password
        uid: 999
        mode: "0400"
    change_mode: signal
    change_signal: SIGHUP

- name: Deliver the mounts of two services in one task
  hostseal.secrets.mount:
    environment: prod
    mounts:
      - name: db
        secrets:
          - source: db_password
      - name: web
        secrets:
          - source: db_password
            target: database/password
          - source: tls_key
            mode: "0440"
            gid: 33

- name: Take a mount away
  hostseal.secrets.mount:
    environment: prod
    name: web
    state: absent
"""

RETURN = r"""
mounts:
  description: The mounts of the task.
  returned: success
  type: list
  elements: dict
  contains:
    volume:
      description: The mount as a Docker volume.
      type: str
      sample: prod.db
    action:
      description: One of V(delivered), V(removed) and V(unchanged).
      type: str
      sample: delivered
    secrets:
      description: Its secrets with the version that was delivered.
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

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hostseal.secrets.plugins.module_utils._agent_client import (
    AgentClient,
    AgentError,
    AgentMissing,
)
from ansible_collections.hostseal.secrets.plugins.module_utils._options import BACKEND, MOUNT, MOUNTS, STORE

ARGUMENT_SPEC = {
    "environment": {"type": "str"},
    "name": {"type": "str"},
    **MOUNT,
    **MOUNTS,
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "purge": {"type": "bool", "default": False},
    "host": {"type": "str"},
    **STORE,
    **BACKEND,
    "_request": {"type": "dict"},
}


def deliver(client: AgentClient, request: dict, check: bool) -> dict:
    """Do on the host what the action plugin asks for.

    REQUEST holds "host", "key_sets" (environment -> [signing kid, time of issue, key set]), "mounts" (a list of
    {volume, state_digest, renew_before, envelope or None}), "remove" (volumes) and "purge" ([environment, owner
    or None for any] or None).
    The answer's "results" are {volume, action, ...} with the action delivered, unchanged, removed, wanted (an envelope
    is needed) or refused (with a reason).
    """
    try:
        status = client.status()
    except AgentMissing:
        if not check:
            raise
        # A bare host: the play that runs for real installs the agent before.
        wanted = [{"volume": mount["volume"], "action": "wanted", "held": None} for mount in request["mounts"]]
        return {"installed": False, "marks": {}, "engines": {}, "pinned": {}, "results": wanted}
    if status["host"] != request["host"]:
        raise AgentError(
            f"the agent's identity is {status['host']!r}, but the task is about host {request['host']!r}:"
            " set the option host, or enrol again"
        )
    pinned = _check_pins(client, status, request, check)
    held = {mount["volume"]: mount for mount in status["mounts"]}
    results = _deliver(client, request["mounts"], held, check)
    gone = [volume for volume in request["remove"] if volume in held]
    if request["purge"]:
        environment, owner = request["purge"]
        named = {mount["volume"] for mount in request["mounts"]} | set(request["remove"])
        gone += [
            volume
            for volume, mount in held.items()
            if mount["environment"] == environment and owner in (None, mount["owner"]) and volume not in named
        ]
    for volume in gone:
        if not check:
            client.remove(volume)
        results.append({"volume": volume, "action": "removed", "held": held[volume]})
    results += [
        {"volume": volume, "action": "unchanged", "held": None} for volume in request["remove"] if volume not in held
    ]
    # Asked at the end: the engines' local volumes are compared with what the host has now.
    status_now = client.status(docker=True)
    engines = {engine: status_now[engine] for engine in ("docker", "podman") if engine in status_now}
    return {"installed": True, "marks": status["marks"], "engines": engines, "pinned": pinned, "results": results}


def _check_pins(client: AgentClient, status: dict, request: dict, check: bool) -> dict:
    """Hand over newer key sets that a pinned key vouches for; the first one is pinned when the host is enrolled.

    The answer says for each environment whether that was done.
    """
    changed = {}
    for environment, (kid, issued_at, key_set) in request["key_sets"].items():
        pinned = status["environments"].get(environment)
        if pinned is None and not check:
            raise AgentError(
                f"the host has not pinned the keys of environment {environment!r}: enrol it with hostseal.secrets.host"
            )
        changed[environment] = pinned is None or kid not in pinned["kids"] or pinned["issued_at"] < issued_at
        if changed[environment] and not check:
            client.pin(environment, key_set)
    return changed


def _deliver(client: AgentClient, mounts: list, held: dict, check: bool) -> list:
    results = []
    envelopes = {}
    for mount in mounts:
        volume, has = mount["volume"], held.get(mount["volume"])
        result = {"volume": volume, "held": has, "action": "wanted"}
        if (
            has
            and has["valid"]
            and has["state_digest"] == mount["state_digest"]
            and has["issued_at"] >= mount["renew_before"]
        ):
            result.update(action="unchanged", live=has["live"], receipt=has)
        elif mount["envelope"] is not None and not check:
            envelopes[volume] = mount["envelope"]
        results.append(result)
    outcomes = client.deliver(envelopes)
    for result in results:
        outcome = outcomes.get(result["volume"])
        if outcome is not None and "reason" in outcome:
            result.update(action="refused", reason=outcome["reason"])
        elif outcome is not None:
            result.update(action="delivered", live=outcome["live"], receipt=outcome)
    return results


def main() -> None:
    """The host's part: the action plugin hands over sealed envelopes in a parameter of its own."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    request = module.params["_request"]
    if not request:
        module.fail_json(msg="this module is run by its action plugin of the same name")
    try:
        module.exit_json(changed=False, **deliver(AgentClient(), request, module.check_mode))
    except AgentError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
