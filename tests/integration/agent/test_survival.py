# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Reboots, crashes and power cuts, with nobody but the host itself to mend it."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.integration.agent.conftest import VALUE, AgentHost, eventually


@pytest.fixture(autouse=True)
def nothing_is_left(agent: AgentHost) -> Iterator[None]:
    """Every test ends without containers."""
    yield
    agent.host.sh("docker ps -aq | xargs -r docker rm -f >/dev/null")


def running(agent: AgentHost, name: str) -> bool:
    return agent.docker("inspect", "-f", "{{.State.Running}}", name, check=False).stdout == "true\n"


@pytest.mark.parametrize("how", ["reboot", "power_cut"])
def test_containers_come_back_with_their_secrets(agent: AgentHost, how: str) -> None:
    for name in ("one", "two"):
        agent.start(name, "--restart", "always")
    getattr(agent.host, how)()
    for name in ("one", "two"):
        eventually(lambda name=name: running(agent, name), 60)
        assert agent.read(name) == VALUE
    assert agent.mount_status()["users"] == 2
    agent.remove("one", "two")
    eventually(lambda: agent.live_files() == [])


@pytest.mark.parametrize("live_restore", [False, True])
def test_an_engine_restart(agent: AgentHost, live_restore: bool) -> None:
    name = agent.start("kept", "--restart", "always")
    if live_restore:
        agent.host.sh("""echo '{"live-restore": true}' > /etc/docker/daemon.json; systemctl reload docker""")
    try:
        started = agent.docker("inspect", "-f", "{{.State.StartedAt}}", name).stdout
        agent.restart_engine()
        eventually(lambda: running(agent, name), 60)
        assert (agent.docker("inspect", "-f", "{{.State.StartedAt}}", name).stdout == started) == live_restore
        assert agent.read(name) == VALUE
        assert agent.mount_status()["users"] == 1
        agent.deliver("while it ran")
        assert agent.read(name) == "while it ran"
        agent.remove(name)
        eventually(lambda: agent.mount_status()["users"] == 0)
        assert agent.live_files() == []
    finally:
        agent.host.sh("rm -f /etc/docker/daemon.json")
        agent.restart_engine()
        agent.deliver(VALUE)


def test_the_agent_is_killed_while_containers_start_and_stop(agent: AgentHost) -> None:
    agent.host.sh(
        """
        for number in 1 2 3 4 5 6; do
          docker run -d --init --name k$number -v prod.db:/run/secrets --volume-driver hostseal busybox sleep 1000 >/dev/null &
          sleep 0.3
          systemctl kill -s KILL hostseald
        done
        wait
        """
    )
    for number in range(1, 7):
        assert agent.read(f"k{number}") == VALUE
    agent.host.sh(
        """
        for number in 1 2 3 4 5 6; do
          docker rm -f k$number >/dev/null &
          sleep 0.2
          systemctl kill -s KILL hostseald
        done
        wait
        """
    )
    # Docker may have asked twice and been counted twice; nothing may have been counted too little.
    leaked = agent.mount_status()["users"]
    assert (agent.live_files() == []) == (leaked == 0)
    agent.host.sh("systemctl stop hostseald; rm -f /run/hostseal/users/*; systemctl start hostseald")
    assert agent.live_files() == []


def test_an_agent_that_is_down_comes_by_itself(agent: AgentHost) -> None:
    agent.host.sh("systemctl stop hostseald")
    begin = time.monotonic()
    name = agent.start("woken")
    assert time.monotonic() - begin < 10
    assert agent.read(name) == VALUE
    agent.host.sh("systemctl stop hostseald")
    assert agent.read(name) == VALUE
    agent.remove(name)
    assert agent.live_files() == []


def test_an_agent_that_can_not_start_fails_closed(agent: AgentHost) -> None:
    agent.host.sh(
        "systemctl mask --runtime hostseald.service hostseald.socket; systemctl stop hostseald.socket hostseald.service"
    )
    try:
        done = agent.docker(
            "run", "--rm", "-v", "prod.db:/run/secrets", "--volume-driver", "hostseal", "busybox", "true", check=False
        )
        assert done.returncode == 125
    finally:
        agent.host.sh(
            "systemctl unmask --runtime hostseald.service hostseald.socket; systemctl start hostseald.socket hostseald.service"
        )
    assert (
        agent.docker(
            "run",
            "--rm",
            "-v",
            "prod.db:/run/secrets",
            "--volume-driver",
            "hostseal",
            "busybox",
            "cat",
            "/run/secrets/password",
        ).stdout
        == VALUE
    )


def test_counts_that_a_killed_engine_leaked_are_mended(agent: AgentHost) -> None:
    agent.with_arguments("hostseald", "agent --quiet 3 --gap 1")
    try:
        name = agent.start("orphan", "--restart", "always")
        stays = agent.start("stays", "--restart", "always")
        agent.host.sh("systemctl kill -s KILL docker; sleep 1")
        agent.restart_engine("start")
        eventually(lambda: running(agent, name) and running(agent, stays), 60)
        agent.remove(name)
        time.sleep(8)
        assert agent.read(stays) == VALUE
        agent.remove(stays)
        eventually(lambda: agent.mount_status()["users"] == 0, 30)
        assert agent.live_files() == []
    finally:
        agent.with_arguments("hostseald", "")
