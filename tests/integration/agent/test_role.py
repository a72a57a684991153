# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The role on a host: installed, upgraded, resized, uninstalled."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.agent.conftest import VALUE, AgentHost
from tests.integration.playbook import install

UNITS = (
    "hostseald.socket",
    "hostseald.service",
    "hostseal-docker.socket",
    "run-hostseal-volumes.mount",
    "var-lib-hostseal-volumes.mount",
)


def test_install_and_again(agent: AgentHost) -> None:
    for unit in UNITS:
        assert agent.host.out("systemctl", "is-active", unit) == "active"
    again = agent.control.tasks(install())
    assert all(not result.get("changed") for result in again.results.values()), again.output
    exposure = agent.host.out("systemd-analyze", "security", "--no-pager", "hostseald", "hostseal-docker").splitlines()
    numbers = [float(line.split(": ")[1].split()[0]) for line in exposure if "Overall exposure level" in line]
    assert len(numbers) == 2
    assert max(numbers) <= 1.5


def test_become(agent: AgentHost) -> None:
    again = agent.control.playbook(
        [{"hosts": "docker_hosts", "gather_facts": False, "tasks": [install()]}], "-b", "-e", "ansible_user=deploy"
    )
    assert all(not result.get("changed") for result in again.results.values()), again.output


def test_who_may_see_what(agent: AgentHost) -> None:
    name = agent.start("see")
    for user in ("nobody", "hostseal-docker"):
        for path in (
            "/run/hostseal/volumes",
            "/var/lib/hostseal/volumes",
            "/var/lib/hostseal/state",
            "/etc/hostseal/host.key",
        ):
            assert agent.host.run(["test", "-r", f"{path}/prod.db/password"], check=False, user=user).returncode != 0
            assert agent.host.run(["cat", path], check=False, user=user).returncode != 0
    # The agent has the key and no Docker socket, the helper the socket and no key.
    assert "docker" not in agent.host.out("id", "-nG", "hostseal").split()
    assert agent.host.run(["cat", "/etc/hostseal/host.key"], check=False, user="hostseal").returncode != 0
    modes = agent.host.out(
        "stat",
        "-c",
        "%a %U %n",
        "/etc/hostseal/host.key",
        "/run/hostseal/agent.sock",
        "/run/docker/plugins/hostseal.sock",
    )
    assert [line.split()[:2] for line in modes.splitlines()] == [["600", "root"]] * 3
    assert agent.host.out("findmnt", "-no", "FSTYPE", "-T", "/run/hostseal/volumes/prod.db") == "tmpfs"
    agent.remove(name)


def test_an_upgrade_leaves_running_containers_alone(agent: AgentHost) -> None:
    name = agent.start("upgraded")
    before = agent.host.out("systemctl", "show", "-p", "MainPID", "hostseald")
    agent.host.sh("echo >> /usr/local/lib/hostseal/hostseald.pyz")
    outcome = agent.control.tasks(install())
    installed = next(result for task, result in outcome.results.items() if "Install the agent and its units" in task)
    assert installed["files"] == ["/usr/local/lib/hostseal/hostseald.pyz"]
    assert agent.host.out("systemctl", "show", "-p", "MainPID", "hostseald") != before
    assert agent.read(name) == VALUE
    assert agent.mount_status()["users"] == 1
    agent.remove(name)
    assert agent.live_files() == []


@pytest.mark.thorough
def test_another_size_leaves_running_containers_alone(agent: AgentHost) -> None:
    name = agent.start("resized")
    agent.control.tasks(install(hostseal_tmpfs_size="48m"))
    assert agent.ask("GET", "/v1/status")["tmpfs"]["size"] == 48 << 20
    agent.deliver("another value")
    assert agent.read(name) == "another value"
    agent.control.tasks(install())
    assert agent.ask("GET", "/v1/status")["tmpfs"]["size"] == 64 << 20
    assert agent.read(name) == "another value"
    agent.remove(name)
    agent.deliver(VALUE)


def test_what_the_role_refuses(agent: AgentHost) -> None:
    outcome = agent.control.tasks(install(hostseal_tmpfs_size="lots"), check=False)
    assert "hostseal_tmpfs_size is lots" in outcome.output
    outcome = agent.control.tasks(install(hostseal_host_name="another"), check=False)
    assert "rename: true" in outcome.output


def test_a_key_that_others_could_have_read(agent: AgentHost) -> None:
    key = "/etc/hostseal/host.key"
    agent.host.sh(f"chmod 0644 {key}")
    try:
        outcome = agent.control.tasks({"name": "Identity", "hostseal.secrets.host_identity": {}}, check=False)
        assert f"{key} has mode 0644" in outcome.message("Identity")
    finally:
        agent.host.sh(f"chmod 0600 {key}")


@pytest.fixture(autouse=True)
def nothing_is_left(agent: AgentHost) -> Iterator[None]:
    """Every test ends without containers."""
    yield
    agent.host.sh("docker ps -aq | xargs -r docker rm -f >/dev/null")


def test_agent_info(agent: AgentHost) -> None:
    name = agent.start("known")
    task = {"name": "Info", "hostseal.secrets.agent_info": {}}
    info = agent.control.tasks(task).results["Info"]
    assert info["agent"]["installed"]
    assert info["problems"] == []
    assert [(entry["volume"], entry["containers"]) for entry in info["mounts"]] == [("prod.db", [name])]
    agent.host.sh("docker stop -t0 known; docker rm known; docker volume rm prod.db; docker volume create prod.db")
    assert "docker volume rm prod.db" in agent.control.tasks(task).results["Info"]["problems"][0]
    agent.docker("volume", "rm", "prod.db")
    assert agent.control.tasks(task).results["Info"]["problems"] == []


@pytest.mark.thorough
def test_uninstall(agent: AgentHost) -> None:
    name = agent.start("left")
    absent = {**install(), "vars": {"hostseal_state": "absent"}}
    plays = [{"hosts": "docker_hosts", "gather_facts": False, "tasks": [absent]}]
    agent.control.playbook(plays, "--check")
    assert agent.read(name) == VALUE
    agent.control.playbook(plays)
    assert agent.docker("exec", name, "ls", "-A", "/run/secrets").stdout == ""
    places = ("/etc", "/usr/local", "/var/lib/hostseal", "/run")
    left = agent.host.run(["find", *places, "-name", "*hostseal*", "-not", "-path", "/etc/*-"], check=False)
    assert left.stdout == ""
    assert agent.host.run(["id", "hostseal"], check=False).returncode != 0
    assert agent.host.out("stat", "-c", "%U %a", "/var/log/hostseal") == "root 700"
    again = agent.control.playbook(plays)
    assert all(not result.get("changed") for result in again.results.values()), again.output
    info = agent.control.tasks({"name": "Info", "hostseal.secrets.agent_info": {}}).results["Info"]
    assert info["agent"] == {"installed": False}
    agent.control.tasks(install(hostseal_replace_key=True))
    agent.deliver(VALUE)
    assert agent.read(agent.start("again")) == VALUE
