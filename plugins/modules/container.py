#!/usr/bin/python
# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
module: container
short_description: Run a container that reads secrets
version_added: 0.1.0
description:
  - M(community.docker.docker_container) with the options O(secrets) and O(env_from_secrets). The container's programs find
    their secrets as files in C(/run/secrets), as if they were Swarm's.
  - All other options are those of M(community.docker.docker_container), and are checked by it.
    Its C(module_defaults) apply, also those of the action group C(community.docker.docker).
  - The container gets the Docker volume C(ENVIRONMENT.MOUNT) of the driver C(hostseal), read-only.
    What the image has at that place is not seen.
  - A mount that O(secrets) names has to be on the host already; the task asks for it before anything is changed, and fails
    if the host does not have it, or has a volume of that name of another driver.
  - A list in O(secrets) becomes a mount of the container's own, which this task delivers before it starts the container.
    The store and the backend are then those of the environment variables, or of the C(module_defaults) of
    M(hostseal.secrets.mount) or of the action group C(hostseal.secrets.hostseal).
author:
  - hostseal contributors (@hostseal)
options:
  secrets:
    description:
      - 'Either a dictionary, for a mount that M(hostseal.secrets.mount) has delivered: C(environment), by default
        O(environment); C(mount), the name of the mount; C(target), the directory in the container, by default
        C(/run/secrets).'
      - Or a list, as O(hostseal.secrets.mount#module:secrets) describes it. An item that is a string is the C(source).
      - With O(state=absent) a list takes the container's own mount from the host, after the container is gone.
      - Taking the option away does not take the mount from a container, as with C(mounts) of
        M(community.docker.docker_container).
    type: raw
  environment:
    description:
      - Environment of the secrets.
      - Needed when O(secrets) is a list.
    type: str
  secrets_mount:
    description: Only with a list in O(secrets), what else there is to say of the container's own mount.
    type: dict
    suboptions:
      name:
        description: Name of the mount. By default the container's name.
        type: str
      target:
        description: Directory in the container.
        type: str
        default: /run/secrets
      change_mode:
        description: See O(hostseal.secrets.mount#module:change_mode).
        type: str
        choices: [noop, signal, restart]
      change_signal:
        description: See O(hostseal.secrets.mount#module:change_signal).
        type: str
      splay:
        description: See O(hostseal.secrets.mount#module:splay).
        type: str
      on_remove:
        description: See O(hostseal.secrets.mount#module:on_remove).
        type: str
        choices: [wipe, keep]
      owner:
        description:
          - See O(hostseal.secrets.mount#module:owner).
          - By default V(container), so that purging the mounts of other owners does not take it away.
        type: str
        default: container
      expires_after:
        description: See O(hostseal.secrets.mount#module:expires_after).
        type: str
      on_expiry:
        description: See O(hostseal.secrets.mount#module:on_expiry).
        type: str
        choices: [keep, wipe]
      match:
        description: See O(hostseal.secrets.mount#module:match).
        type: dict
        suboptions:
          image:
            description: See O(hostseal.secrets.mount#module:match.image).
            type: str
          labels:
            description: See O(hostseal.secrets.mount#module:match.labels).
            type: dict
      while_booting:
        description: See O(hostseal.secrets.mount#module:while_booting).
        type: str
        choices: [refuse, wait]
  env_from_secrets:
    description:
      - Environment variables that tell an image where its secrets are, as many official images know them. An item
        C(MARIADB_ROOT_PASSWORD=db_password) gives the container the variable C(MARIADB_ROOT_PASSWORD_FILE) with the path of
        the file, C(/run/secrets/db_password). The variable holds a path, never a value.
      - The values are names of secrets in O(secrets). A mount that is only named has to show the secret under its own name.
      - Many images' entrypoints read that file and export its content to the server that they start. It is then in
        the environment of that process, and of what it starts; C(docker inspect) does not have it.
    type: dict
  name:
    description: Name of the container, as in M(community.docker.docker_container).
    type: str
  state:
    description: As in M(community.docker.docker_container).
    type: str
extends_documentation_fragment:
  - hostseal.secrets.attributes
attributes:
  check_mode:
    support: full
    details:
      - A volume that the host does not have yet is predicted as if the same run delivered it.
  diff_mode:
    support: full
  action:
    support: full
    details:
      - Adds the mount on the control node; M(community.docker.docker_container) then runs on the host.
  idempotent:
    support: full
    details:
      - As far as M(community.docker.docker_container) is with the options that are used.
      - New versions of the secrets are not a reason to make the container anew; it sees them as they come.
requirements:
  - the collection community.docker
seealso:
  - module: hostseal.secrets.mount
  - module: community.docker.docker_container
"""

EXAMPLES = r"""
- name: Start a database whose root password is a secret
  hostseal.secrets.container:
    name: db
    image: mariadb
    restart_policy: always
    secrets:
      environment: prod
      mount: db
    env_from_secrets:
      MARIADB_ROOT_PASSWORD: db_password

- name: Start a web server with a mount of its own, made anew when the certificate changes
  hostseal.secrets.container:
    name: web
    image: nginx
    environment: prod
    secrets:
      - web_certificate
      - source: web_key
        target: private/web.key
        mode: "0400"
    secrets_mount:
      change_mode: signal
      change_signal: SIGHUP

- name: Take both away, container and mount
  hostseal.secrets.container:
    name: web
    state: absent
    environment: prod
    secrets:
      - web_certificate
      - web_key
"""

RETURN = r"""
container:
  description: What M(community.docker.docker_container) returns, here and in its other return values.
  returned: as by M(community.docker.docker_container)
  type: dict
  sample: {}
secrets_mount:
  description: The container's own mount, as an item of RV(hostseal.secrets.mount#module:mounts).
  returned: when O(secrets) is a list
  type: dict
  sample:
    volume: prod.web
    action: delivered
    live: false
    secrets:
      - name: web_certificate
        version: 1
      - name: web_key
        version: 1
"""

from ansible_collections.hostseal.secrets.plugins.module_utils._options import MOUNT, refuse_to_run_on_a_host

DEFAULT_TARGET = "/run/secrets"
# Names and places of secrets, no values.
ARGUMENT_SPEC = {
    "secrets": {"type": "raw", "no_log": False},
    "environment": {"type": "str"},
    "secrets_mount": {
        "type": "dict",
        "no_log": False,
        "options": {
            "name": {"type": "str"},
            "target": {"type": "str", "default": DEFAULT_TARGET},
            **{name: option for name, option in MOUNT.items() if name != "secrets"},
            "owner": {"type": "str", "default": "container"},
        },
    },
    "env_from_secrets": {"type": "dict", "no_log": False},
    # docker_container's own; they are named here because of what they mean to the mount.
    "name": {"type": "str"},
    "state": {"type": "str"},
}


def main() -> None:
    """Its work is done by the action plugin of the same name."""
    refuse_to_run_on_a_host(ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
