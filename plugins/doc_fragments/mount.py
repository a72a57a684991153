# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations


class ModuleDocFragment:
    DOCUMENTATION = r"""
options:
  secrets:
    description:
      - The files of the mount, at most 256 of them with 8 MiB together.
    type: list
    elements: dict
    suboptions:
      source:
        description: Name of the secret.
        type: str
        required: true
      target:
        description:
          - File name below C(/run/secrets). It may have directories.
          - By default the secret's name.
        type: str
      uid:
        description: Numeric owner of the file. By default 0.
        type: raw
      gid:
        description: Numeric group of the file. By default 0.
        type: raw
      mode:
        description:
          - Mode of the file, a B(quoted) string of octal digits.
          - A number is refused, as YAML reads V(444) as decimal and V(0444) as octal.
          - By default V("0444").
        type: raw
      version:
        description: Pin the file to this version of the secret. By default the newest one is shown.
        type: int
  change_mode:
    description:
      - What the host does with the running containers that use the mount when its files have changed.
      - They see the new files at once in any case.
    type: str
    choices: [noop, signal, restart]
  change_signal:
    description: The signal that V(signal) sends. V(SIGHUP) by default.
    type: str
  splay:
    description: Wait for a random time up to this long before acting, for example V(30s) or V(5m).
    type: str
  on_remove:
    description:
      - What happens to the files in running containers when the mount is taken away.
      - V(wipe) removes them at once, V(keep) when the last container has ended. V(wipe) by default.
    type: str
    choices: [wipe, keep]
  owner:
    description:
      - Label of whoever declares the mount, an application's role for example. Purging looks at mounts of the
        same label alone.
      - V(default) by default.
    type: str
  expires_after:
    description:
      - The host refuses to use the envelope when it is older than this, for example V(12h) or V(30d).
      - A run after half of that time renews it. Without it, an envelope does not expire.
    type: str
  on_expiry:
    description:
      - What happens to the files in running containers when the envelope expires. New containers are refused
        in any case.
      - V(keep) leaves them until the last container has ended, V(wipe) removes them within seconds, also after a
        reboot or when the host's clock is set forward. V(keep) by default.
      - V(wipe) needs C(expires_after), and does not go with C(on_remove=keep).
    type: str
    choices: [keep, wipe]
"""

    # The same for the items of a list: ansible-test reads literals only.
    MOUNTS = r"""
options:
  mounts:
    description: A list of mounts.
    type: list
    elements: dict
    suboptions:
      environment:
        description: Environment of the mount.
        type: str
      name:
        description: Name of the mount. Letters, digits, C(_), C(-) and C(.), at most 128 characters.
        type: str
        required: true
      secrets:
        description:
          - The files of the mount, at most 256 of them with 8 MiB together.
        type: list
        elements: dict
        suboptions:
          source:
            description: Name of the secret.
            type: str
            required: true
          target:
            description:
              - File name below C(/run/secrets). It may have directories.
              - By default the secret's name.
            type: str
          uid:
            description: Numeric owner of the file. By default 0.
            type: raw
          gid:
            description: Numeric group of the file. By default 0.
            type: raw
          mode:
            description:
              - Mode of the file, a B(quoted) string of octal digits.
              - A number is refused, as YAML reads V(444) as decimal and V(0444) as octal.
              - By default V("0444").
            type: raw
          version:
            description: Pin the file to this version of the secret. By default the newest one is shown.
            type: int
      change_mode:
        description:
          - What the host does with the running containers that use the mount when its files have changed.
          - They see the new files at once in any case.
        type: str
        choices: [noop, signal, restart]
      change_signal:
        description: The signal that V(signal) sends. V(SIGHUP) by default.
        type: str
      splay:
        description: Wait for a random time up to this long before acting, for example V(30s) or V(5m).
        type: str
      on_remove:
        description:
          - What happens to the files in running containers when the mount is taken away.
          - V(wipe) removes them at once, V(keep) when the last container has ended. V(wipe) by default.
        type: str
        choices: [wipe, keep]
      owner:
        description:
          - Label of whoever declares the mount, an application's role for example. Purging looks at mounts of the
            same label alone.
          - V(default) by default.
        type: str
      expires_after:
        description:
          - The host refuses to use the envelope when it is older than this, for example V(12h) or V(30d).
          - A run after half of that time renews it. Without it, an envelope does not expire.
        type: str
      on_expiry:
        description:
          - What happens to the files in running containers when the envelope expires. New containers are refused
            in any case.
          - V(keep) leaves them until the last container has ended, V(wipe) removes them within seconds, also after a
            reboot or when the host's clock is set forward. V(keep) by default.
          - V(wipe) needs C(expires_after), and does not go with C(on_remove=keep).
        type: str
        choices: [keep, wipe]
"""
