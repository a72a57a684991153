#!/usr/bin/python
# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: bridge_key
short_description: Make the key with which a host logs in at Vault
version_added: 0.1.0
description:
  - Makes an Ed25519 key pair on the host, with which its bridge logs in at Vault for one-time tokens of containers, and
    returns its public half for M(hostseal.secrets.vault_bridge).
  - The private key never leaves the host. A key that is there and good is never overwritten.
  - It is another key than that of M(hostseal.secrets.host_identity), which opens the host's secrets and is not for a
    program that speaks to the network.
  - Used by the role P(hostseal.secrets.host_agent#role).
author:
  - hostseal contributors (@hostseal)
requirements:
  - python3-jwcrypto on the host
options:
  state:
    description:
      - V(rotated) always makes a new key in the place of the old one. No container gets a token until
        M(hostseal.secrets.vault_bridge) was given the new one, and C(hostseal-bridge.service) was restarted.
    type: str
    choices: [present, rotated]
    default: present
  config_dir:
    description: Directory of C(bridge.key).
    type: path
    default: /etc/hostseal
extends_documentation_fragment:
  - hostseal.secrets.attributes
attributes:
  check_mode:
    support: full
  diff_mode:
    support: full
  action:
    support: none
  idempotent:
    support: partial
    details: With O(state=rotated) it always makes a new key.
seealso:
  - module: hostseal.secrets.vault_bridge
"""

EXAMPLES = r"""
- name: Make the bridge's key
  hostseal.secrets.bridge_key:
  register: bridge

- name: Show the public key
  ansible.builtin.debug:
    var: bridge.public_key
"""

RETURN = r"""
public_key:
  description: The public half as a JWK (RFC 8037). V(none) in check mode when it is still to be made.
  returned: success
  type: dict
  sample:
    crv: Ed25519
    kid: kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k
    kty: OKP
    x: 11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo
"""

import os

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.hostseal.secrets.plugins.module_utils import _jose, _key_file
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError

REMEDY = "run again, and give hostseal.secrets.vault_bridge the new public key"


def ensure(path, rotate, check):
    """Bring the file to what it should be: the result for Ansible."""
    key = load(path) if os.path.lexists(path) else None
    before = key.thumbprint() if key else "none"
    make = key is None or rotate
    if make and not check:
        folder = os.path.dirname(path)
        os.makedirs(folder, mode=0o755, exist_ok=True)
        new = _jose.new_signing_key()
        temporary = _key_file.write(path, new.export_private() + "\n", 0o600)
        if key is not None:
            _key_file.shred(path)
        os.rename(temporary, path)
        _key_file.sync(folder)
        key = new
    known = key is not None and not (make and check)
    after = key.thumbprint() if known else "a new key"
    return {
        "changed": make,
        "public_key": key.export_public(as_dict=True) if known else None,
        "diff": {"before": f"bridge key {before}\n", "after": f"bridge key {after}\n"},
    }


def load(path):
    """The private key; HostsealError when it is not to be trusted."""
    text = _key_file.read(path, REMEDY)
    try:
        return _jose.load_signing_key(text, private=True)
    except HostsealError as error:
        raise HostsealError(f"{path} is damaged: {error}. Restore it, or remove it, {REMEDY}") from None


def main():
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "rotated"], "default": "present"},
            "config_dir": {"type": "path", "default": "/etc/hostseal"},
        },
        supports_check_mode=True,
    )
    path = os.path.join(module.params["config_dir"], "bridge.key")
    if not _jose.HAS_JWCRYPTO:
        # A bare host in check mode: the package comes with the same run.
        if module.check_mode and not os.path.lexists(path):
            module.exit_json(changed=True, public_key=None)
        module.fail_json(msg=missing_required_lib("jwcrypto"))
    try:
        module.exit_json(**ensure(path, module.params["state"] == "rotated", module.check_mode))
    except HostsealError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.strerror}: {error.filename}")


if __name__ == "__main__":
    main()
