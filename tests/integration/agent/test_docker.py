# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How Docker really behaves, and that the agent lives with it."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import pytest

from tests.integration.agent.conftest import VALUE, AgentHost, eventually

RUN = ("--volume-driver", "hostseal", "-v", "prod.db:/run/secrets")


@pytest.fixture(autouse=True)
def nothing_is_left(agent: AgentHost) -> Iterator[None]:
    """Every test ends without containers; then there is no secret in memory and no count."""
    yield
    agent.host.sh("docker ps -aq | xargs -r docker rm -f >/dev/null")
    assert agent.live_files() == []
    assert agent.host.out("ls", "/run/hostseal/users") == ""


def test_read_only_even_when_asked_for_more(agent: AgentHost) -> None:
    script = "cat /run/secrets/password; touch /run/secrets/x || echo; touch /run/secrets/..data/x || grep ' /run/secrets ' /proc/mounts"
    out = agent.docker("run", "--rm", *RUN, "busybox", "sh", "-c", script).stdout.split("\n")
    assert out[0] == VALUE
    assert out[1].startswith("tmpfs /run/secrets tmpfs ro,nosuid,nodev,noexec")


def test_no_driver_named_finds_the_volume(agent: AgentHost) -> None:
    assert (
        agent.docker("run", "--rm", "-v", "prod.db:/run/secrets", "busybox", "cat", "/run/secrets/password").stdout
        == VALUE
    )


def test_an_unknown_mount_fails_with_a_reason(agent: AgentHost) -> None:
    done = agent.docker(
        "run", "--rm", "-v", "prod.nope:/run/secrets", "--volume-driver", "hostseal", "busybox", "true", check=False
    )
    assert done.returncode == 125
    assert 'has no mount "prod.nope": deliver it with hostseal.secrets.mount' in done.stderr
    assert "prod.nope" not in agent.host.out("docker", "volume", "ls")


def test_docker_cp_does_not_take_the_files_away(agent: AgentHost) -> None:
    name = agent.start("cp")
    for _time in range(2):
        agent.docker("cp", f"{name}:/bin/busybox", "/tmp/x")
    assert agent.read(name) == VALUE
    assert agent.mount_status()["users"] == 1


def test_an_image_that_ships_run_secrets(agent: AgentHost) -> None:
    script = "cat /run/secrets/password; ls /run/secrets"
    for more in (
        (),
        ("--mount", "type=volume,src=prod.db,dst=/run/secrets,volume-driver=hostseal,readonly,volume-nocopy"),
    ):
        options = more or RUN
        out = agent.docker("run", "--rm", *options, "busybox-secrets", "sh", "-c", script).stdout
        assert out == f"{VALUE}password\n"
    agent.docker("create", "--name", "never", *RUN, "busybox-secrets", "true")
    assert agent.live_files() == []
    agent.docker("rm", "never")


def test_removing_the_volume_deletes_nothing(agent: AgentHost) -> None:
    """What `docker compose down -v` does."""
    name = agent.start("used")
    agent.remove(name)
    agent.docker("volume", "rm", "prod.db")
    agent.docker("volume", "prune", "-f")
    assert agent.docker("run", "--rm", *RUN, "busybox", "cat", "/run/secrets/password").stdout == VALUE
    listed = agent.docker("volume", "ls", "--format", "{{.Driver}} {{.Name}}").stdout.split("\n")
    assert "hostseal prod.db" in listed


def test_inspect_tells_versions_and_no_value(agent: AgentHost) -> None:
    name = agent.start("inspected")
    (volume,) = json.loads(agent.docker("volume", "inspect", "prod.db").stdout)
    assert volume["Driver"] == "hostseal"
    assert list(volume["Status"]["versions"]) == ["password_db"]
    told = agent.docker("inspect", name).stdout + agent.host.out("journalctl", "-u", "hostseal*", "-u", "docker")
    assert VALUE not in told


def test_many_users_of_one_mount(agent: AgentHost) -> None:
    names = [agent.start(f"many{number}") for number in range(4)]
    assert agent.mount_status()["users"] == 4
    agent.docker("restart", "-t", "0", names[0])
    agent.docker("kill", names[1])
    eventually(lambda: agent.mount_status()["users"] == 3)
    assert agent.read(names[0]) == VALUE
    agent.remove(*names)


def test_a_change_is_seen_at_once_and_signalled(agent: AgentHost) -> None:
    script = "trap 'cat /run/secrets/password > /tmp/seen' HUP; touch /tmp/ready; while :; do sleep 0.1; done"
    agent.start("other")
    name = agent.start("signalled", command=script)
    eventually(lambda: agent.docker("exec", name, "ls", "/tmp/ready", check=False).returncode == 0)
    agent.deliver("second value", change_mode="signal", change_signal="SIGHUP")
    assert agent.read(name) == "second value"
    eventually(lambda: agent.docker("exec", name, "cat", "/tmp/seen", check=False).stdout == "second value")
    last = agent.mount_status()["last_change"]
    assert sorted(last["containers"]) == ["other", "signalled"]
    assert last["reason"] is None
    agent.deliver(VALUE)


def test_a_change_restarts_once(agent: AgentHost) -> None:
    name = agent.start("restarted")
    started = agent.docker("inspect", "-f", "{{.State.StartedAt}}", name).stdout
    agent.deliver("third value", change_mode="restart")
    eventually(lambda: (agent.mount_status()["last_change"] or {}).get("mode") == "restart", 40)
    assert agent.docker("inspect", "-f", "{{.State.StartedAt}}", name).stdout != started
    assert agent.docker("inspect", "-f", "{{.RestartCount}}", name).stdout == "0\n"
    assert agent.read(name) == "third value"
    agent.deliver(VALUE)


def test_the_helper_ends_when_idle_and_has_no_key(agent: AgentHost) -> None:
    agent.with_arguments("hostseal-docker", "docker-helper --idle 4")
    assert agent.ask("GET", "/v1/status?docker=1")["docker"]["ok"]
    assert agent.host.out("systemctl", "is-active", "hostseal-docker.service") == "active"
    pid = agent.host.out("systemctl", "show", "-p", "MainPID", "--value", "hostseal-docker")
    agent.host.sh(f"! nsenter -t {pid} -m setpriv --reuid hostseal-docker --clear-groups cat /etc/hostseal/host.json")
    eventually(
        lambda: agent.host.run(["systemctl", "is-active", "hostseal-docker"], check=False).stdout == "inactive\n"
    )
    assert agent.ask("GET", "/v1/status?docker=1")["docker"]["ok"]
    agent.with_arguments("hostseal-docker", "")


def test_removal_wipes_running_containers(agent: AgentHost) -> None:
    agent.deliver("short life", "gone")
    name = agent.start("gone", volume="prod.gone")
    assert agent.ask("DELETE", "/v1/mounts/prod.gone") == {"changed": True}
    assert agent.docker("exec", name, "ls", "-A", "/run/secrets").stdout == ""
    assert agent.docker("restart", "-t", "0", name, check=False).returncode != 0


def test_no_tmpfs_no_secret(agent: AgentHost) -> None:
    agent.host.sh("umount /var/lib/hostseal/volumes; umount /run/hostseal/volumes")
    done = agent.docker("run", "--rm", *RUN, "busybox", "true", check=False)
    assert done.returncode == 125
    assert "is not a tmpfs" in done.stderr
    assert not agent.ask("GET", "/v1/status")["tmpfs"]["ok"]
    assert agent.host.out("find", "/run/hostseal/volumes", "/var/lib/hostseal/volumes", "-mindepth", "1") == ""
    agent.host.sh("systemctl restart hostseald")
    assert agent.docker("run", "--rm", *RUN, "busybox", "cat", "/run/secrets/password").stdout == VALUE


def test_memory_and_latency(agent: AgentHost) -> None:
    agent.deliver("x" * 65536, "large")
    agent.host.sh("systemctl restart hostseald")
    for _time in range(2):
        agent.docker("run", "--rm", "-v", "prod.large:/run/secrets", "--volume-driver", "hostseal", "busybox", "true")
    pid = agent.host.out("systemctl", "show", "-p", "MainPID", "--value", "hostseald")
    resident = int(agent.host.out("sh", "-c", f"grep VmRSS /proc/{pid}/status").split()[1])
    assert resident < 40 * 1024
    ticks = [
        agent.host.out("sh", "-c", f"cut -d' ' -f14,15 /proc/{pid}/stat") for _time in range(2) if time.sleep(2) is None
    ]
    assert ticks[0] == ticks[1]
    assert agent.ask("DELETE", "/v1/mounts/prod.large") == {"changed": True}
