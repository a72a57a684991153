# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Options of the role that change how the agent is installed, on a host of its own: remapped users, metrics."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.integration.agent.conftest import AgentHost, eventually
from tests.integration.playbook import ControlNode, declare, install, mount
from tests.rig.engine import Engine
from tests.rig.host import ThrowawayHost

VALUE = "of a remapped user"
ROLE = "hostseal.secrets.host_agent : "
METRICS = "/var/lib/prometheus/node-exporter"


def userns(host: ThrowawayHost) -> str:
    """The host's uid and gid of root in containers, as the role wants it."""
    return ":".join(host.out("docker", "info", "-f", "{{.DockerRootDir}}").rpartition("/")[2].split("."))


@pytest.fixture(scope="module")
def remapped(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentHost]:
    """A host whose Docker remaps users, with the agent and the mount prod.db of a file for uid 999, gid 33."""
    host = ThrowawayHost(engine, f"t{os.getpid()}-options")
    try:
        host.start()
        host.sh(
            """
            mkdir -p /etc/docker
            echo '{"userns-remap": "default"}' > /etc/docker/daemon.json
            systemctl restart docker
            """
        )
        host.wait_ready()
        host.load("busybox")
        host.run(["mkdir", "-p", METRICS])
        control = ControlNode(Path(tmp_path_factory.mktemp("options")), host)
        agent = AgentHost(host, control)
        control.tasks(*declare(password=VALUE), hosts="localhost")
        control.tasks(install(hostseal_userns_remap=userns(host), hostseal_metrics_path=METRICS))
        secrets = [{"source": "password", "uid": 999, "gid": 33, "mode": "0400"}, {"source": "password", "target": "r"}]
        control.tasks(
            {"name": "Deliver", "hostseal.secrets.mount": {"environment": "prod", "name": "db", "secrets": secrets}}
        )
        yield agent
    finally:
        host.remove()


def test_files_belong_to_the_users_of_the_container(remapped: AgentHost) -> None:
    offset = int(userns(remapped.host).split(":", maxsplit=1)[0])
    assert offset > 0
    name = remapped.start("remapped", "--user", "999:33")
    assert remapped.read(name) == VALUE
    seen = remapped.docker("exec", "-u", "0", name, "stat", "-L", "-c", "%u %g %a", "/run/secrets/password").stdout
    assert seen == "999 33 400\n"
    seen = remapped.docker("exec", "-u", "0", name, "stat", "-L", "-c", "%u %g %a", "/run/secrets/r").stdout
    assert seen == "0 0 444\n"
    # Neither another user of the container nor the host's own user 999 can read it.
    refused = remapped.docker("exec", "-u", "998", name, "cat", "/run/secrets/password", check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    owner = remapped.host.out("stat", "-L", "-c", "%u %g", "/run/hostseal/volumes/prod.db/password")
    assert owner == f"{999 + offset} {33 + offset}"
    # Root in the container is nobody on the host, yet reads its files, as it does everywhere.
    assert remapped.docker("exec", "-u", "0", name, "cat", "/run/secrets/password").stdout == VALUE
    remapped.docker("rm", "-f", name)
    assert remapped.live_files() == []


def test_node_exporters_file(remapped: AgentHost) -> None:
    """Through the link in its directory, as an ordinary user."""
    name = remapped.start("measured")
    link = f"{METRICS}/hostseal.prom"
    assert remapped.host.out("readlink", link) == "/run/hostseal/metrics/hostseal.prom"
    remapped.host.sh("systemctl restart hostseald")

    def read() -> dict[str, float]:
        text = remapped.host.run(["cat", link], user="nobody").stdout
        assert VALUE not in text
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return {
            sample.name: sample.value
            for sample in samples
            if sample.labels in ({}, {"environment": "prod", "mount": "db"})
        }

    told = eventually(read)
    assert (told["hostseal_mounts"], told["hostseal_mount_live"], told["hostseal_mount_valid"]) == (1, 1, 1)
    status = remapped.mount_status()
    assert told["hostseal_mount_issued_timestamp_seconds"] == status["issued_at"] / 1000
    remapped.docker("rm", "-f", name)
    exposure = remapped.host.out("systemd-analyze", "security", "--no-pager", "hostseald").splitlines()
    (number,) = [float(line.split(": ")[1].split()[0]) for line in exposure if "Overall exposure level" in line]
    assert number <= 1.5
    again = remapped.control.tasks(mount("none", "password", state="absent", secrets=None))
    assert not again.results["prod.none"]["changed"]


def options_of_tmpfs(agent: AgentHost, selinux: object) -> str | None:
    """What the role would mount on a host that says SELINUX of itself; None for what there is."""
    facts = {
        "distribution": "Debian",
        "distribution_version": "12",
        "distribution_major_version": "12",
        "service_mgr": "systemd",
        "kernel": "6.18.0",
        "selinux": selinux,
    }
    task = install(hostseal_userns_remap=userns(agent.host), hostseal_metrics_path=METRICS, ansible_facts=facts)
    plays = [{"hosts": "docker_hosts", "gather_facts": False, "tasks": [task]}]
    done = agent.control.playbook(plays, "--check", "--diff").results[f"{ROLE}Install the agent and its units"]
    unit = "/etc/systemd/system/run-hostseal-volumes.mount"
    change = next((change for change in done["diff"] if change["after_header"] == unit), None)
    if change is None:
        return None
    (line,) = [line for line in change["after"].splitlines() if line.startswith("Options=")]
    return str(line)


@pytest.mark.thorough
def test_the_label_of_selinux(remapped: AgentHost) -> None:
    """As far as it can be seen without SELinux: the kernel knows no such option here, so nothing is mounted."""
    enabled = {"status": "enabled", "mode": "enforcing", "policyvers": 33}
    options = options_of_tmpfs(remapped, enabled)
    assert options is not None
    assert options.endswith(",noswap,context=system_u:object_r:container_file_t:s0")
    for other in ({"status": "disabled"}, {"status": "Missing selinux Python library"}, False):
        assert options_of_tmpfs(remapped, other) is None


KEY = "/etc/hostseal/host.key"


def install_with(agent: AgentHost, **variables: object) -> dict[str, Any]:
    task = install(hostseal_userns_remap=userns(agent.host), hostseal_metrics_path=METRICS, **variables)
    return agent.control.tasks(task).results


def protected_by(agent: AgentHost) -> str:
    info = agent.control.tasks({"name": "Info", "hostseal.secrets.agent_info": {}}).results["Info"]
    assert info["agent"]["older_keys"] == []
    return str(info["agent"]["key_protection"])


def places_of(host: ThrowawayHost, text: str) -> list[str]:
    """The files on the host's disk that hold TEXT."""
    found = host.run(["grep", "-rlF", text, "/etc", "/var/lib", "/var/log", "/var/tmp", "/tmp", "/root"], check=False)
    return found.stdout.splitlines()


@pytest.mark.thorough
def test_the_key_is_encrypted_by_systemd(remapped: AgentHost) -> None:
    host = remapped.host
    secret = host.out("cat", KEY).split('"d":"')[1].split('"')[0]
    assert places_of(host, secret) == [KEY]
    assert protected_by(remapped) == "file"
    name = remapped.start("converted", "--restart", "always")
    host.run(["cp", "-l", KEY, "/root/inode"])
    install_with(remapped, hostseal_key_protection="systemd-creds")
    assert [name for name in host.out("ls", "/etc/hostseal").split() if "key" in name] == ["host.key.cred"]
    assert host.out("stat", "-c", "%a %U", f"{KEY}.cred") == "600 root"
    assert set(host.out("od", "-An", "-tx1", "-v", "/root/inode").split()) == {"00"}  # overwritten, not only unlinked
    assert places_of(host, secret) == []
    assert protected_by(remapped) == "host"
    assert remapped.read(name) == VALUE
    again = install_with(remapped, hostseal_key_protection="systemd-creds")
    assert not any(result.get("changed") for result in again.values()), again
    host.power_cut()
    eventually(lambda: remapped.docker("inspect", "-f", "{{.State.Running}}", name, check=False).stdout == "true\n", 60)
    assert remapped.read(name) == VALUE
    # A rotation never writes it in clear either.
    install_with(remapped, hostseal_key_protection="systemd-creds", hostseal_rotate_key=True)
    keys = json.loads(host.out("systemd-creds", "decrypt", "--name=host.key", f"{KEY}.cred", "-"))["keys"]
    assert len(keys) == 2
    assert [places_of(host, key["d"]) for key in keys] == [[], []]
    secrets = [{"source": "password", "uid": 999, "gid": 33, "mode": "0400"}]
    deliver = {"environment": "prod", "name": "db", "secrets": secrets}
    remapped.control.tasks({"name": "Deliver", "hostseal.secrets.mount": deliver})
    # And back.
    install_with(remapped, hostseal_key_protection="file")
    assert [name for name in host.out("ls", "/etc/hostseal").split() if "key" in name] == ["host.key"]
    assert protected_by(remapped) == "file"
    assert places_of(host, keys[0]["d"]) == [KEY]
    assert remapped.read(name) == VALUE
