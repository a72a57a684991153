#!/usr/bin/python
# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host
short_description: Enrol a host in environments
version_added: 0.1.0
description:
  - Signs the host's public key with the signing key of each environment and pins it in the store. From then on
    mounts can be sealed for the host.
  - Pins the environment's verification keys on the host, so that its agent takes envelopes of this environment
    from nobody else.
  - A key that has changed, on the host or in the store, is refused. Find out why before you say O(replace_key=true).
  - A host that rotated its key with M(hostseal.secrets.host_identity) is enrolled with the new one at once. Its agent
    proves that it has the old one too.
author:
  - hostseal contributors (@hostseal)
options:
  environments:
    description: The environments.
    type: list
    elements: str
    required: true
    aliases: [environment]
  name:
    description:
      - Name of the host, unique in the store.
      - By default the delegated host's name, else C(inventory_hostname).
    type: str
  public_key:
    description:
      - The host's public key as M(hostseal.secrets.host_identity) returns it.
      - Required when O(state=present), except in check mode.
    type: dict
  state:
    description:
      - V(absent) retires the host. No mount can be sealed for it any more. What the host has is not touched.
    type: str
    choices: [present, absent]
    default: present
  replace_key:
    description:
      - Accept another key of the host than the one that is pinned in the store, and other keys of the
        environment than those that are pinned on the host.
    type: bool
    default: false
  _request:
    description: What the action plugin hands to its part on the host. Not for playbooks.
    type: dict
extends_documentation_fragment:
  - hostseal.secrets.store
  - hostseal.secrets.backend
  - hostseal.secrets.attributes
  - hostseal.secrets.attributes.full
attributes:
  idempotent:
    support: full
seealso:
  - module: hostseal.secrets.host_identity
"""

EXAMPLES = r"""
- name: Make the host's key pair
  hostseal.secrets.host_identity:
  register: identity

- name: Enrol the host
  hostseal.secrets.host:
    environments: [prod]
    public_key: "{{ identity.public_key }}"

- name: Retire a host
  hostseal.secrets.host:
    environments: [prod]
    name: db7.example.com
    state: absent
"""

RETURN = r"""
host:
  description: Name of the host.
  returned: success
  type: str
  sample: db1
kid:
  description: RFC 7638 thumbprint of its key. V(none) in check mode when the key is still to be made.
  returned: when state is present
  type: str
  sample: tqD0CbZwNNfkhXDA5LFNo6MdgGdzc2ANKq8NHcUkGmI
environments:
  description: What was done in each environment.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The environment.
      type: str
      sample: prod
    action:
      description: One of V(enrolled), V(key_rotated), V(key_replaced), V(retired) and V(unchanged).
      type: str
      sample: enrolled
    pinned:
      description: Whether the environment's keys were pinned on the host by this task.
      type: bool
      sample: true
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.hostseal.secrets.plugins.module_utils._agent_client import (
    AgentClient,
    AgentError,
    AgentMissing,
)
from ansible_collections.hostseal.secrets.plugins.module_utils._options import BACKEND, STORE

ARGUMENT_SPEC = {
    "environments": {"type": "list", "elements": "str", "required": True, "aliases": ["environment"]},
    "name": {"type": "str"},
    # The public half.
    "public_key": {"type": "dict", "no_log": False},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "replace_key": {"type": "bool", "default": False, "no_log": False},
    **STORE,
    **BACKEND,
    "_request": {"type": "dict"},
}


def pin(client: AgentClient, request: dict, check: bool) -> dict:
    """Pin key sets on the host.

    REQUEST holds "host", "kid", "replace_key" and "key_sets" (environment -> [signing kid, time of issue, key set]).
    A key set that is None was not checked with the backend yet, as that is only needed where it has to be pinned.
    The answer says for each environment whether something was, or with None is to be, pinned.
    """
    try:
        status = client.status()
    except AgentMissing:
        if not check:
            raise
        return dict.fromkeys(request["key_sets"], True)
    if (status["host"], status["kid"]) != (request["host"], request["kid"]):
        raise AgentError(
            f"the agent has the identity {status['host']!r} with key {status['kid']}, not {request['host']!r} with"
            f" {request['kid']}: restart hostseald if its identity was made anew, or check whom this task talks to"
        )
    pinned = {}
    for environment, (kid, issued_at, key_set) in request["key_sets"].items():
        known = status["environments"].get(environment, {"kids": [], "issued_at": 0})
        pinned[environment] = kid not in known["kids"] or known["issued_at"] < issued_at
        if pinned[environment] and key_set and not check:
            client.pin(environment, key_set, request["replace_key"])
    return pinned


def prove(client: AgentClient, challenges: dict) -> dict:
    """Have the agent answer challenges, by the thumbprint of the key they are for. Those it can't answer are left out."""
    proofs = {}
    for kid, challenge in challenges.items():
        try:
            proofs[kid] = client.prove(challenge)["proof"]
        except AgentMissing:
            break
        except AgentError as error:
            if error.status is None:
                raise
    return proofs


def main() -> None:
    """The host's part: the action plugin hands over public keys in a parameter of its own."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    request = module.params["_request"]
    if not request:
        module.fail_json(msg="this module is run by its action plugin of the same name")
    try:
        if "challenges" in request:
            module.exit_json(changed=False, proofs=prove(AgentClient(), request["challenges"]))
        module.exit_json(changed=False, pinned=pin(AgentClient(), request, module.check_mode))
    except AgentError as error:
        module.fail_json(msg=str(error))


if __name__ == "__main__":
    main()
