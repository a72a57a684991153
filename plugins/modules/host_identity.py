#!/usr/bin/python
# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_identity
short_description: Make or rotate the key pair of a host
version_added: 0.1.0
description:
  - Makes an X25519 key pair on the host and returns its public half, which M(hostseal.secrets.host) enrols. Secrets are
    encrypted to it.
  - The private key never leaves the host. A key that is there and good is never overwritten.
  - With O(state=rotated) a new pair is made beside the old one, and the agent opens what is sealed for either, so
    that there is no gap. A later run with O(state=present) destroys the old key, as soon as no mount of the host is
    sealed for it any more.
  - A key file that is readable for others, not owned by root, a symbolic link or malformed is an error, and
    nothing is changed.
author:
  - hostseal contributors (@hostseal)
requirements:
  - python3-jwcrypto on the host
options:
  name:
    description:
      - Name of the host, unique in the store.
      - By default the delegated host's name, else C(inventory_hostname).
    type: str
  rename:
    description:
      - Accept that the host had another name before. Envelopes that were made for the old name are refused
        from then on.
    type: bool
    default: false
  state:
    description:
      - V(rotated) always makes a new key pair. Restart the agent, enrol the host with M(hostseal.secrets.host) and deliver
        its mounts with M(hostseal.secrets.mount) afterwards.
    type: str
    choices: [present, rotated]
    default: present
  key_protection:
    description:
      - How the private key lies on the disk. V(file) is a file that root alone can read, V(systemd-creds) one that
        systemd encrypts by the TPM 2 of the host where there is one, else by a key of the host that lies on its disk too.
      - A key is converted when it lies there in the other form. Both files are kept until an agent runs that was given
        the wanted one.
    type: str
    choices: [file, systemd-creds]
    default: file
  config_dir:
    description: Directory of C(host.key) or C(host.key.cred), and C(host.json).
    type: path
    default: /etc/hostseal
extends_documentation_fragment:
  - hostseal.secrets.attributes
  - hostseal.secrets.attributes.full
attributes:
  idempotent:
    support: partial
    details: With O(state=rotated) it always makes a new key pair.
seealso:
  - module: hostseal.secrets.host
"""

EXAMPLES = r"""
- name: Make the host's key pair
  hostseal.secrets.host_identity:
  register: identity

- name: Rotate it
  hostseal.secrets.host_identity:
    state: rotated
  register: identity

- name: Make the agent know the new key
  ansible.builtin.systemd_service:
    name: hostseald.service
    state: restarted
  when: identity.restart_needed

- name: Show the public key
  ansible.builtin.debug:
    var: identity.public_key
"""

RETURN = r"""
host:
  description: Name of the host.
  returned: success
  type: str
  sample: db1
public_key:
  description: The public half as a JWK (RFC 7517). V(none) in check mode when it is still to be made.
  returned: success
  type: dict
  sample:
    crv: X25519
    kid: tqD0CbZwNNfkhXDA5LFNo6MdgGdzc2ANKq8NHcUkGmI
    kty: OKP
    x: hSDwCYkwp1R0i33ctD73Wg2_Og0mOBr066SpjqqbTmo
older_keys:
  description: Thumbprints of keys that were rotated and are still needed to open what the host has.
  returned: success
  type: list
  elements: str
  sample: []
destroyed_keys:
  description: Thumbprints of keys that were destroyed by this task.
  returned: success
  type: list
  elements: str
  sample: []
converting:
  description:
    - Whether the key still lies there in the other form too. Run the task again when the agent was started with the
      wanted one.
  returned: success
  type: bool
  sample: false
restart_needed:
  description: Whether there is an agent that was started with another name or other keys.
  returned: success
  type: bool
  sample: false
"""

import contextlib
import glob
import json
import os
import stat
import subprocess

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.hostseal.secrets.plugins.module_utils import _jose, _key_file
from ansible_collections.hostseal.secrets.plugins.module_utils._agent_client import (
    AgentClient,
    AgentError,
    AgentMissing,
)
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError, check_name

# The name under which systemd hands it to the agent; it is bound into the encrypted one.
CREDENTIAL = "host.key"


class Identity:
    """The two files in FOLDER. The private keys are read and written here and go nowhere else.

    SEALED is whether the key file is to be one of systemd's credentials; KEY_PATH is the wanted one, OTHER_PATH that of
    the other form.
    """

    def __init__(self, folder, sealed=False):
        self.folder = folder
        self.sealed = sealed
        self.key_path = os.path.join(folder, CREDENTIAL + ".cred" if sealed else CREDENTIAL)
        self.other_path = os.path.join(folder, CREDENTIAL if sealed else CREDENTIAL + ".cred")
        self.name_path = os.path.join(folder, "host.json")

    def load_keys(self):
        """The private keys, the newest first; none when there is no file, HostsealError when it is not to be trusted."""
        for path in (self.key_path, self.other_path):
            if os.path.lexists(path):
                return _load_keys(path)
        return []

    def is_to_be_converted(self):
        """Whether the key lies there in the other form alone."""
        return os.path.lexists(self.other_path) and not os.path.lexists(self.key_path)

    def is_converting(self):
        """Whether the key lies there in the other form, too or alone."""
        return os.path.lexists(self.other_path)

    def write_keys(self, keys):
        """Write KEYS where no key file of the wanted form is."""
        temporary = _key_file.write(self.key_path, self._text(keys), 0o600)
        try:
            os.link(temporary, self.key_path)
        finally:
            os.unlink(temporary)
        _key_file.sync(self.folder)

    def drop_other_form(self):
        """Overwrite and remove the key file of the other form."""
        _key_file.shred(self.other_path, self.key_path)
        _key_file.sync(self.folder)

    def _text(self, keys):
        text = _jose.dump_host_keys(keys)
        if not self.sealed:
            return text
        # By pipes: it is on no disk before it is encrypted.
        return _systemd_creds(["encrypt", "--with-key=auto", f"--name={CREDENTIAL}", "-", "-"], text.encode()).decode()

    def load_name(self):
        """The host's name so far, None when there is none or its file is not readable as such."""
        try:
            with open(self.name_path, encoding="utf-8") as file:
                return check_name("host", json.load(file)["host"])
        except (OSError, ValueError, TypeError, KeyError, HostsealError):
            return None

    def wanted_name_file(self, name, public_key):
        return json.dumps({"host": name, "jwk": public_key}, sort_keys=True) + "\n"

    def name_file_is(self, text):
        try:
            with open(self.name_path, encoding="utf-8") as file:
                details = os.fstat(file.fileno())
                return file.read() == text and stat.S_IMODE(details.st_mode) == 0o644 and details.st_uid == os.geteuid()
        except (OSError, ValueError):
            return False

    def make_key(self):
        """Make a key pair; the public JWK as a dict. A key that appears meanwhile is not overwritten."""
        key = _jose.new_host_key()
        os.makedirs(self.folder, mode=0o755, exist_ok=True)
        self.write_keys([key])
        return key

    def replace_keys(self, keys):
        """Put KEYS in the place of the present ones, whose file is overwritten before it goes."""
        self.shred_leftovers()
        temporary = _key_file.write(self.key_path, self._text(keys), 0o600)
        # A second name, so that a later run finds what was not overwritten when this one is killed.
        os.link(self.key_path, self.key_path + ".old")
        os.rename(temporary, self.key_path)
        _key_file.sync(self.folder)
        self.shred_leftovers()

    def shred_leftovers(self):
        """Overwrite and remove key files that are not in use, also those of a run that was killed."""
        unfinished = glob.glob(os.path.join(glob.escape(self.folder), "host.*.new"))
        for path in (self.key_path + ".old", self.other_path + ".old", *unfinished):
            with contextlib.suppress(FileNotFoundError):
                _key_file.shred(path, self.key_path, self.other_path)
        _key_file.sync(self.folder)

    def write_name_file(self, text):
        os.rename(_key_file.write(self.name_path, text, 0o644), self.name_path)
        _key_file.sync(self.folder)


def _load_keys(path):
    """The private keys of a file; HostsealError when it is not to be trusted."""
    text = _key_file.read(path, "run again, and enrol the host with replace_key")
    try:
        if path.endswith(".cred"):
            text = _systemd_creds(["decrypt", f"--name={CREDENTIAL}", "-", "-"], text)
        return _jose.load_host_keys(text)
    except HostsealError as error:
        raise HostsealError(
            f"{path} is damaged: {error}. Restore it, or remove it, run again and enrol the host with replace_key"
        ) from None


def _systemd_creds(arguments, data=None):
    """What systemd-creds(1) answers; its own words are not repeated, as it was given a key."""
    try:
        # Plain Python, tested without a module. pylint: disable-next=ansible-bad-function
        done = subprocess.run(["systemd-creds", *arguments], input=data, capture_output=True, timeout=60, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired) as error:
        raise HostsealError(f"systemd-creds can't be run ({type(error).__name__})") from None
    if done.returncode:
        raise HostsealError(f"systemd-creds {arguments[0]} failed with status {done.returncode}: see the journal")
    return done.stdout


def ensure(identity, name, rename, check, rotate=False, client=None):
    """Bring the files to what they should be: the result for Ansible. CLIENT is the agent's, when there may be one."""
    keys = identity.load_keys()
    known = identity.load_name()
    if keys and known is not None and known != name and not rename:
        raise HostsealError(
            f"this host is {known!r} in {identity.name_path}, not {name!r}: say rename: true if it has a new name,"
            " or check whom this task talks to"
        )
    before = _described(known, [key.thumbprint() for key in keys]) if keys else ""
    status = _status(client)
    destroyed = []
    made = not keys or rotate
    if not check and keys:
        identity.shred_leftovers()
    if rotate and len(keys) == _jose.MAX_HOST_KEYS:
        raise HostsealError(
            f"this host has {len(keys)} keys already: deliver its mounts, so that the older ones can be destroyed"
        )
    converts = identity.is_to_be_converted()
    if converts and not check:
        identity.write_keys(keys)
    if made and not check:
        if keys:
            keys = [_jose.new_host_key(), *keys]
            identity.replace_keys(keys)
        else:
            keys = [identity.make_key()]
    elif not made:
        destroyed = _not_needed(keys, status)
        if destroyed and not check:
            for kid in destroyed:
                client.forget_key(kid)
            keys = [key for key in keys if key.thumbprint() not in destroyed]
            identity.replace_keys(keys)
    public_key = keys[0].export_public(as_dict=True) if keys else None
    text = identity.wanted_name_file(name, public_key)
    named = made or not identity.name_file_is(text)
    if named and not check:
        identity.write_name_file(text)
    protection = "systemd-creds" if identity.sealed else "file"
    # An agent that is started with the other file goes on to need it.
    dropped = identity.is_converting() and status is not None and status.get("key_protection", "file") == protection
    if dropped and not check:
        identity.drop_other_form()
    kids = [key.thumbprint() for key in keys]
    remaining = [kid for kid in kids if kid not in destroyed]
    after = _described(name, ["a new key", *remaining] if check and made else remaining)
    return {
        "changed": made or named or converts or dropped or bool(destroyed),
        "host": name,
        "public_key": public_key,
        "older_keys": remaining[1:],
        "destroyed_keys": destroyed,
        # Systemd keeps what it handed over until the next start, a destroyed key too.
        "converting": identity.is_converting(),
        "restart_needed": status is not None
        and (bool(destroyed) or status["host"] != name or status["kid"] not in kids[:1]),
        "diff": {"before": before, "after": after},
    }


def _described(name, kids):
    return f"host {name}, key {kids[0]}\n" + "".join(f"older key {kid}\n" for kid in kids[1:])


def _status(client):
    """What the agent says; None when there is none, or none that works."""
    try:
        return client.status() if client else None
    except AgentMissing:
        return None
    except AgentError as error:
        if error.status is None:
            return None
        raise


def _not_needed(keys, status):
    """Thumbprints of older keys that an agent which knows the newest one does not need."""
    if status is None or status["kid"] != keys[0].thumbprint():
        return []
    needed = {key["kid"] for key in status.get("older_keys", []) if key["needed"]}
    return [key.thumbprint() for key in keys[1:] if key.thumbprint() not in needed]


def main():
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str"},
            "rename": {"type": "bool", "default": False},
            "state": {"type": "str", "choices": ["present", "rotated"], "default": "present"},
            "key_protection": {
                "type": "str",
                "choices": ["file", "systemd-creds"],
                "default": "file",
                "no_log": False,
            },
            "config_dir": {"type": "path", "default": "/etc/hostseal"},
        },
        supports_check_mode=True,
    )
    name = module.params["name"]
    identity = Identity(module.params["config_dir"], sealed=module.params["key_protection"] == "systemd-creds")
    if not _jose.HAS_JWCRYPTO:
        # A bare host in check mode: the package comes with the same run.
        if module.check_mode and not os.path.lexists(identity.key_path) and not identity.is_converting():
            module.exit_json(
                changed=True,
                host=name,
                public_key=None,
                older_keys=[],
                destroyed_keys=[],
                converting=False,
                restart_needed=False,
            )
        module.fail_json(msg=missing_required_lib("jwcrypto"))
    rotate = module.params["state"] == "rotated"
    try:
        checked = check_name("host", name)
        module.exit_json(**ensure(identity, checked, module.params["rename"], module.check_mode, rotate, AgentClient()))
    except HostsealError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.strerror}: {error.filename}")


if __name__ == "__main__":
    main()
