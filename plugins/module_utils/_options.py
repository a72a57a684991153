# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Argument specs that modules share, and the guard of those that live on the control node alone."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule, env_fallback

STORE: dict[str, Any] = {
    "store": {"type": "str", "fallback": (env_fallback, ["HOSTSEAL_STORE"])},
}
BACKEND: dict[str, Any] = {
    # A path, not a key: it may be shown.
    "key_path": {"type": "path", "no_log": False, "fallback": (env_fallback, ["HOSTSEAL_KEY_PATH", "ENC_KEY_PATH"])},
}
_FILE: dict[str, Any] = {
    "source": {"type": "str", "required": True},
    "target": {"type": "str"},
    # raw: whether a number or a string was given decides what it means, see check_mode().
    "uid": {"type": "raw"},
    "gid": {"type": "raw"},
    "mode": {"type": "raw"},
    "version": {"type": "int"},
}
MOUNT: dict[str, Any] = {
    # Names and places of secrets, no values.
    "secrets": {"type": "list", "elements": "dict", "no_log": False, "options": _FILE},
    "change_mode": {"type": "str", "choices": ["noop", "signal", "restart"]},
    "change_signal": {"type": "str"},
    "splay": {"type": "str"},
    "on_remove": {"type": "str", "choices": ["wipe", "keep"]},
    "owner": {"type": "str"},
    "expires_after": {"type": "str"},
}
MOUNTS: dict[str, Any] = {
    "mounts": {
        "type": "list",
        "elements": "dict",
        "options": {"environment": {"type": "str"}, "name": {"type": "str", "required": True}, **MOUNT},
    },
}


def refuse_to_run_on_a_host(argument_spec: dict[str, Any]) -> None:
    """The main() of a module whose work is done by its action plugin on the control node."""
    module = AnsibleModule(argument_spec=argument_spec, supports_check_mode=True)
    module.fail_json(
        msg="it works on the control node through its action plugin of the same name, it can't be run on a host"
    )
