# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A Debian 13 host, and the ways to start a container that are not ours: docker run, Docker Compose, a Swarm service."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator

import pytest

from tests.rig.engine import Engine
from tests.rig.host import ThrowawayHost, inventory_text

from .conftest import Control

pytestmark = pytest.mark.thorough

COMPOSE = """\
services:
  app:
    image: busybox
    command: sleep 600
    init: true
    environment:
      PASSWORD_FILE: /run/secrets/password
    volumes:
      - type: volume
        source: secrets
        target: /run/secrets
        read_only: true
        volume:
          nocopy: true
volumes:
  secrets:
    name: prod.app
    driver: hostseal
"""
SECRETS = [{"source": "password", "mode": "0400"}]
DECLARE = [
    {"hostseal.secrets.localkey": {"name": "prod"}},
    {"hostseal.secrets.environment": {"name": "prod"}},
    {"hostseal.secrets.secret": {"environment": "prod", "name": "password", "generate": {"length": 24}}},
]
ROTATE = {
    "hostseal.secrets.secret": {
        "environment": "prod",
        "name": "password",
        "state": "rotated",
        "generate": {"length": 30},
    }
}


def deliver(name: str) -> dict[str, object]:
    return {"hostseal.secrets.mount": {"environment": "prod", "name": name, "secrets": SECRETS}}


@pytest.fixture(scope="module")
def node(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    """A control node and a host with Debian 13, Compose and Swarm; the host has the mounts app and service."""
    host = ThrowawayHost(engine, f"t{os.getpid()}-ways", "trixie")
    try:
        host.start()
        directory = tmp_path_factory.mktemp("ways")
        (directory / "hosts.ini").write_text(inventory_text(host), encoding="utf-8")
        control = Control(directory, host)
        localhost = {"hosts": "localhost", "gather_facts": False, "tasks": DECLARE}
        install = {
            "hosts": host.name,
            "gather_facts": False,
            "vars": {"hostseal_environments": ["prod"]},
            "roles": ["hostseal.secrets.host_agent"],
            "tasks": [deliver("app"), deliver("service")],
        }
        outcome = control.playbook([localhost, install])
        assert outcome.rc == 0, outcome.output
        outcome = control.playbook([localhost, install])
        assert outcome.changed == {"localhost": 0, host.name: 0}, outcome.output
        yield control
    finally:
        host.remove()


def rotated(node: Control, mount: str) -> None:
    outcome = node.tasks(ROTATE, deliver(mount))
    assert outcome.rc == 0, outcome.output


def test_compose(node: Control) -> None:
    node.host.run(["tee", "/root/compose.yml"], input=COMPOSE)

    def compose(*words: str) -> str:
        return node.docker("compose", "--file", "/root/compose.yml", *words).stdout

    def length() -> str:
        return compose("exec", "--no-TTY", "app", "sh", "-c", 'wc -c <"$PASSWORD_FILE"').strip()

    compose("up", "--detach")
    before = length()
    container = compose("ps", "--quiet")
    rotated(node, "app")
    assert (before, length()) == ("24", "30")
    compose("up", "--detach")
    assert compose("ps", "--quiet") == container
    # `down -v` removes the project's volumes: ours stays, it is the host's and not the project's.
    compose("down", "--volumes", "--timeout", "0")
    compose("up", "--detach")
    assert length() == "30"
    compose("down", "--timeout", "0")


def test_swarm_service(node: Control) -> None:
    node.docker("swarm", "init", "--advertise-addr", "127.0.0.1")
    try:
        mount = "type=volume,source=prod.service,target=/run/secrets,volume-driver=hostseal,volume-nocopy,readonly"
        node.docker(
            "service", "create", "--name", "web", "--no-resolve-image", "--mount", mount, "busybox", "sleep", "600"
        )
        task = _task(node)
        before = node.docker("exec", task, "cat", "/run/secrets/password").stdout
        rotated(node, "service")
        # The same task sees it; a Swarm secret would have needed another.
        after = node.docker("exec", task, "cat", "/run/secrets/password").stdout
        assert (_task(node), len(after)) == (task, 30)
        assert after != before
        inspected = json.loads(node.docker("service", "inspect", "web").stdout)
        assert "Secrets" not in inspected[0]["Spec"]["TaskTemplate"]["ContainerSpec"]
    finally:
        node.docker("swarm", "leave", "--force")


def _task(node: Control) -> str:
    """The id of the service's only running container."""
    for _attempt in range(300):
        listed = node.docker("ps", "--quiet", "--filter", "label=com.docker.swarm.service.name=web").stdout.split()
        if len(listed) == 1:
            return listed[0]
        time.sleep(0.2)
    raise AssertionError(node.docker("service", "ps", "--no-trunc", "web").stdout)
