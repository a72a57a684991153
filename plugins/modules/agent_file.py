#!/usr/bin/python
# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: agent_file
short_description: Install the files of the agent
version_added: 0.1.0
description:
  - Puts the agent, built from the collection's own sources into one deterministic file, and the small text files
    around it on the host, or removes them.
  - All of them go in one call of the module. Used by the role P(hostseal.secrets.host_agent#role).
author:
  - hostseal contributors (@hostseal)
options:
  agent:
    description: Where the agent's file goes.
    type: path
    required: true
  files:
    description: Text files that belong to it.
    type: list
    elements: dict
    default: []
    suboptions:
      dest:
        description: Absolute path of the file. Its directory is made when it is missing.
        type: path
        required: true
      content:
        description: Its text.
        type: str
        default: ""
      private:
        description: Whether only root may read it, and a diff shows nothing of it.
        type: bool
        default: false
  state:
    description: Whether the files should be there.
    type: str
    choices: [present, absent]
    default: present
  _agent:
    description: What the action plugin hands to its part on the host. Not for playbooks.
    type: str
extends_documentation_fragment:
  - hostseal.secrets.attributes
  - hostseal.secrets.attributes.full
attributes:
  idempotent:
    support: full
"""

EXAMPLES = r"""
- name: Install the agent and its unit
  hostseal.secrets.agent_file:
    agent: /usr/local/lib/hostseal/hostseald.pyz
    files:
      - dest: /etc/systemd/system/hostseald.service
        content: "{{ lookup('ansible.builtin.template', 'hostseald.service.j2') }}"
"""

RETURN = r"""
files:
  description: Paths of the files that were changed.
  returned: success
  type: list
  elements: str
  sample: [/usr/local/lib/hostseal/hostseald.pyz]
"""

import base64
import hashlib
import os
import stat
import tempfile

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC = {
    "agent": {"type": "path", "required": True},
    "files": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "dest": {"type": "path", "required": True},
            "content": {"type": "str", "default": ""},
            "private": {"type": "bool", "default": False},
        },
    },
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "_agent": {"type": "str"},
}


def read(path, mode):
    """The content of a regular file with the right MODE and owner; None when there is none such."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            details = os.fstat(file.fileno())
            good = (
                stat.S_ISREG(details.st_mode)
                and stat.S_IMODE(details.st_mode) == mode
                and details.st_uid == os.geteuid()
            )
            return file.read() if good else None
    except OSError:
        return None


def replace(module, path, content, mode):
    """Put CONTENT to PATH, durably and at once."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=module.tmpdir)
    with open(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
        os.fchmod(file.fileno(), mode)
    module.atomic_move(temporary, path)
    module.set_mode_if_different(path, mode, False)


def shown(content, private):
    """What a diff shows of a file: its text, of the agent's file the digest."""
    if content is None:
        return ""
    if private:
        return "private\n"
    if b"\0" in content:
        return f"sha256 {hashlib.sha256(content).hexdigest()}\n"
    return content.decode(errors="replace")


def main():
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    if not module.params["_agent"]:
        module.fail_json(msg="this module is run by its action plugin of the same name")
    contents = {entry["dest"]: entry["content"].encode() for entry in module.params["files"]}
    contents[module.params["agent"]] = base64.b64decode(module.params["_agent"])
    private = {entry["dest"] for entry in module.params["files"] if entry["private"]}
    present = module.params["state"] == "present"
    changed = []
    diff = []
    try:
        for path, content in contents.items():
            mode = 0o600 if path in private else 0o644
            before = read(path, mode)
            if (before == content) if present else not os.path.lexists(path):
                continue
            changed.append(path)
            diff.append(
                {
                    "before_header": path,
                    "after_header": path,
                    "before": shown(before, path in private),
                    "after": shown(content, path in private) if present else "",
                }
            )
            if module.check_mode:
                continue
            if present:
                replace(module, path, content, mode)
            else:
                os.unlink(path)
    except OSError as error:
        module.fail_json(msg=f"{error.strerror}: {error.filename}", files=changed)
    module.exit_json(changed=bool(changed), files=changed, diff=diff)


if __name__ == "__main__":
    main()
