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
  - M(community.docker.docker_container) with the option O(secrets), which names a mount. The container's programs find
    its files in C(/run/secrets), as if they were Swarm's.
  - All other options are those of M(community.docker.docker_container), and are checked by it.
    Its C(module_defaults) apply, also those of the action group C(community.docker.docker).
  - The container gets the Docker volume C(ENVIRONMENT.MOUNT) of the driver C(hostseal), read-only.
    What the image has at that place is not seen.
  - Before anything is changed it asks the host for that volume. If the host does not have it, or has one of another
    driver, the task fails.
author:
  - hostseal contributors (@hostseal)
options:
  secrets:
    description:
      - The mount that the container sees.
      - Not looked at with C(state=absent).
      - Taking the option away does not take the mount from a container, as with C(mounts) of
        M(community.docker.docker_container).
    type: dict
    suboptions:
      environment:
        description: The environment of the mount.
        type: str
        required: true
      mount:
        description: Name of the mount, which M(hostseal.secrets.mount) has delivered to the host.
        type: str
        required: true
      target:
        description: Directory in the container.
        type: str
        default: /run/secrets
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
    env:
      MARIADB_ROOT_PASSWORD_FILE: /run/secrets/db_password
"""

RETURN = r"""
container:
  description: What M(community.docker.docker_container) returns, here and in its other return values.
  returned: as by M(community.docker.docker_container)
  type: dict
  sample: {}
"""

from ansible_collections.hostseal.secrets.plugins.module_utils._options import refuse_to_run_on_a_host

ARGUMENT_SPEC = {
    # Says which secrets, holds none.
    "secrets": {
        "type": "dict",
        "no_log": False,
        "options": {
            "environment": {"type": "str", "required": True},
            "mount": {"type": "str", "required": True},
            "target": {"type": "str", "default": "/run/secrets"},
        },
    },
}


def main() -> None:
    """Its work is done by the action plugin of the same name."""
    refuse_to_run_on_a_host(ARGUMENT_SPEC)


if __name__ == "__main__":
    main()
