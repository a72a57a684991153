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
        description: Name of the secret. An item has this or C(vault_token).
        type: str
      vault_token:
        description:
          - In the place of a secret, a Vault token of its own for each starting container, response-wrapped. At most
            one item of a mount is of this kind, and the container is the only user of the mount.
          - What it may do is set up with M(hostseal.secrets.vault_bridge).
        type: dict
        suboptions:
          role:
            description: Name of the role in the environment.
            type: str
            required: true
          wrap_ttl:
            description: How long the application has to unwrap it, V(5s) to V(1h). V(60s) by default.
            type: str
      target:
        description:
          - File name below C(/run/secrets). It may have directories.
          - By default the secret's name, or V(vault-token).
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
  match:
    description:
      - Which containers may use the mount. Others are refused at their start.
      - Whoever may talk to Docker on the host can give a container any label, and tag any image.
    type: dict
    suboptions:
      image:
        description:
          - The image as the container was started with, V(:latest) where it has no tag, or its ID.
          - When the tag has since been given to another image, no start is accepted.
        type: str
      labels:
        description: Labels that the container has, with their values as strings.
        type: dict
  while_booting:
    description:
      - What happens to a mount with a C(vault_token) or C(match) while Docker itself is starting, after a reboot for
        example, and can't be asked yet which container this is for.
      - V(refuse) makes the container's start fail. V(wait) lets it start with an empty mount, whose files are there
        as soon as Docker has answered. V(refuse) by default.
    type: str
    choices: [refuse, wait]
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
            description: Name of the secret. An item has this or C(vault_token).
            type: str
          vault_token:
            description:
              - In the place of a secret, a Vault token of its own for each starting container, response-wrapped. At most
                one item of a mount is of this kind, and the container is the only user of the mount.
              - What it may do is set up with M(hostseal.secrets.vault_bridge).
            type: dict
            suboptions:
              role:
                description: Name of the role in the environment.
                type: str
                required: true
              wrap_ttl:
                description: How long the application has to unwrap it, V(5s) to V(1h). V(60s) by default.
                type: str
          target:
            description:
              - File name below C(/run/secrets). It may have directories.
              - By default the secret's name, or V(vault-token).
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
      match:
        description:
          - Which containers may use the mount. Others are refused at their start.
          - Whoever may talk to Docker on the host can give a container any label, and tag any image.
        type: dict
        suboptions:
          image:
            description:
              - The image as the container was started with, V(:latest) where it has no tag, or its ID.
              - When the tag has since been given to another image, no start is accepted.
            type: str
          labels:
            description: Labels that the container has, with their values as strings.
            type: dict
      while_booting:
        description:
          - What happens to a mount with a C(vault_token) or C(match) while Docker itself is starting, after a reboot for
            example, and can't be asked yet which container this is for.
          - V(refuse) makes the container's start fail. V(wait) lets it start with an empty mount, whose files are there
            as soon as Docker has answered. V(refuse) by default.
        type: str
        choices: [refuse, wait]
"""
