#!/usr/bin/python
# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: host_identity
short_description: Make the key pair of a host
version_added: 0.1.0
description:
  - Makes an X25519 key pair on the host, for which envelopes are encrypted, and returns its public half.
  - The private key never leaves the host. A key that is there and good is never overwritten.
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
  config_dir:
    description: Directory of C(host.key) and C(host.json).
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
    support: full
  idempotent:
    support: full
seealso:
  - module: hostseal.secrets.host
"""

EXAMPLES = r"""
- name: Make the host's key pair
  hostseal.secrets.host_identity:
  register: identity

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
"""

import json
import os
import stat

from ansible.module_utils.basic import AnsibleModule, missing_required_lib
from ansible_collections.hostseal.secrets.plugins.module_utils import _envelope
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError, check_name


class Identity:
    """The two files in FOLDER. The private key is read and written here and goes nowhere else."""

    def __init__(self, folder):
        self.folder = folder
        self.key_path = os.path.join(folder, "host.key")
        self.name_path = os.path.join(folder, "host.json")

    def load_public_key(self):
        """The public JWK as a dict, None when there is no key yet; HostsealError when the key file is not to be trusted."""
        try:
            # O_NONBLOCK: a FIFO must not hold us up.
            handle = os.open(self.key_path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise HostsealError(
                f"{self.key_path} can't be opened ({error.strerror}): it must be a regular file, no link"
            ) from None
        try:
            details = os.fstat(handle)
            if not stat.S_ISREG(details.st_mode):
                raise HostsealError(f"{self.key_path} is not a regular file: remove it and run again")
            if details.st_uid != os.geteuid():
                raise HostsealError(
                    f"{self.key_path} belongs to uid {details.st_uid}, which could have read or changed it:"
                    " remove it, run again, and enrol the host with replace_key"
                )
            if stat.S_IMODE(details.st_mode) & 0o077:
                raise HostsealError(
                    f"{self.key_path} has mode {stat.S_IMODE(details.st_mode):04o}, others could have read it:"
                    " remove it, run again, and enrol the host with replace_key; or chmod 0600 if you know that nobody did"
                )
            text = os.read(handle, 1 << 16)
        finally:
            os.close(handle)
        try:
            key = _envelope.load_host_key(text, private=True)
        except HostsealError as error:
            raise HostsealError(
                f"{self.key_path} is damaged: {error}. Restore it, or remove it, run again and enrol the host with replace_key"
            ) from None
        return key.export_public(as_dict=True)

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
        key = _envelope.new_host_key()
        os.makedirs(self.folder, mode=0o755, exist_ok=True)
        temporary = _write(self.key_path, key.export_private() + "\n", 0o600)
        try:
            os.link(temporary, self.key_path)
        finally:
            os.unlink(temporary)
        _sync(self.folder)
        return key.export_public(as_dict=True)

    def write_name_file(self, text):
        os.rename(_write(self.name_path, text, 0o644), self.name_path)
        _sync(self.folder)


def _write(path, text, mode):
    """Write TEXT durably beside PATH; the name of the temporary file."""
    temporary = f"{path}.{os.getpid()}.new"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with open(handle, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask says
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _sync(folder):
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def ensure(identity, name, rename, check):
    """Bring the files to what they should be: the result for Ansible."""
    public_key = identity.load_public_key()
    known = identity.load_name()
    if public_key is not None and known is not None and known != name and not rename:
        raise HostsealError(
            f"this host is {known!r} in {identity.name_path}, not {name!r}: say rename: true if it has a new name,"
            " or check whom this task talks to"
        )
    made = public_key is None
    if made and not check:
        public_key = identity.make_key()
    text = identity.wanted_name_file(name, public_key)
    named = made or not identity.name_file_is(text)
    if named and not check:
        identity.write_name_file(text)
    kid = public_key["kid"] if public_key else "a new key"
    return {
        "changed": made or named,
        "host": name,
        "public_key": public_key,
        "diff": {
            "before": "" if made else f"host {known}, key {kid}\n",
            "after": f"host {name}, key {kid}\n",
        },
    }


def main():
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str"},
            "rename": {"type": "bool", "default": False},
            "config_dir": {"type": "path", "default": "/etc/hostseal"},
        },
        supports_check_mode=True,
    )
    name = module.params["name"]
    identity = Identity(module.params["config_dir"])
    if not _envelope.HAS_JWCRYPTO:
        # A bare host in check mode: the package comes with the same run.
        if module.check_mode and not os.path.lexists(identity.key_path):
            module.exit_json(changed=True, host=name, public_key=None)
        module.fail_json(msg=missing_required_lib("jwcrypto"))
    try:
        module.exit_json(**ensure(identity, check_name("host", name), module.params["rename"], module.check_mode))
    except HostsealError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.strerror}: {error.filename}")


if __name__ == "__main__":
    main()
