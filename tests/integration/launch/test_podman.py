# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Podman on a Debian 13 host, beside Docker and without it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator

import pytest

from tests.docs_code import blocks, matches
from tests.rig.engine import Engine
from tests.rig.host import ThrowawayHost, inventory_text
from tests.rig.paths import ROOT

from .conftest import Control, Outcome

pytestmark = pytest.mark.thorough

# A host of the rig is a container itself: Podman gets storage, limits and a network that work in one.
PODMAN = r"""
apt-get update -qq
apt-get install -qq -y --no-install-recommends podman >/dev/null
mkdir -p /etc/containers/containers.conf.d
printf '[storage]\ndriver = "vfs"\ngraphroot = "/var/lib/docker/podman"\nrunroot = "/run/containers/storage"\n' \
    > /etc/containers/storage.conf
printf '[containers]\npids_limit = 0\nnetns = "none"\ninit = true\n' > /etc/containers/containers.conf.d/rig.conf
apt-get install -qq -y --no-install-recommends catatonit >/dev/null
docker save busybox | podman load -q
systemctl enable -q podman-restart
"""
SECRETS = [{"source": "db_password", "mode": "0400"}]
RUN = ("run", "--detach", "--volume", "prod.db:/run/secrets:ro")
SLEEP = ("busybox", "sh", "-c", 'trap "echo again" HUP; trap exit TERM; while :; do sleep 0.2; done')


def declare(**secret: object) -> dict[str, object]:
    return {"hostseal.secrets.secret": {"environment": "prod", "name": "db_password", **secret}}


def deliver(name: str = "db", **options: object) -> dict[str, object]:
    return {"hostseal.secrets.mount": {"environment": "prod", "name": name, "secrets": SECRETS, **options}}


class Node:
    """A control node, and its host with the agent for ENGINES."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self.host = control.host

    def install(self, *engines: str, state: str = "present") -> Outcome:
        play = {
            "hosts": self.host.name,
            "gather_facts": False,
            "vars": {"hostseal_environments": ["prod"], "hostseal_engines": engines, "hostseal_state": state},
            "roles": ["hostseal.secrets.host_agent"],
        }
        return self.control.playbook([play])

    def tasks(self, *tasks: dict[str, object]) -> Outcome:
        outcome = self.control.tasks(*tasks)
        assert outcome.rc == 0, outcome.output
        return outcome

    def rotated(self, length: int, **options: object) -> None:
        self.tasks(declare(state="rotated", generate={"length": length}), deliver(**options))

    def podman(self, *words: str) -> str:
        return self.host.out("podman", *words)

    def refused(self, *words: str) -> str:
        done = self.host.run(["podman", *words], check=False)
        assert done.returncode, done.stdout
        return done.stderr

    def length(self, container: str, engine: str = "podman") -> int:
        return len(self.host.run([engine, "exec", container, "cat", "/run/secrets/db_password"]).stdout)

    def users(self) -> dict[str, int]:
        shown = self.host.run(["cat", "/run/hostseal/users/prod.db"], check=False).stdout
        return dict(json.loads(shown)["ids"]) if shown else {}

    def files(self) -> str:
        return self.host.out("find", "/run/hostseal/volumes", "-mindepth", "1")

    def info(self) -> dict[str, object]:
        result: dict[str, object] = self.tasks({"hostseal.secrets.agent_info": {}}).results["Task 0"]
        return result

    def with_arguments(self, *more: str) -> None:
        """Have the agent look at its counts often."""
        self.host.sh(
            "mkdir -p /run/systemd/system/hostseald.service.d; sed -n 's/^ExecStart=.*/[Service]\\nExecStart=\\n& "
            f"{' '.join(more)}/p' /etc/systemd/system/hostseald.service > /run/systemd/system/hostseald.service.d/t.conf;"
            " systemctl daemon-reload; systemctl restart hostseald"
        )

    def clean(self) -> None:
        self.host.sh("podman rm -fa -t 0; docker rm -f $(docker ps -aq) || true")
        self.host.sh(
            "rm -rf /run/systemd/system/hostseald.service.d; systemctl daemon-reload; systemctl restart hostseald"
        )


def eventually(condition: Callable[[], object], seconds: float = 180.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.3)


@pytest.fixture(scope="module")
def made(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    host = ThrowawayHost(engine, f"t{os.getpid()}-podman", "trixie")
    try:
        host.start()
        host.sh(PODMAN)
        directory = tmp_path_factory.mktemp("podman")
        (directory / "hosts.ini").write_text(inventory_text(host), encoding="utf-8")
        node = Node(Control(directory, host))
        first = {"hostseal.secrets.localkey": {"name": "prod"}}
        second = {"hostseal.secrets.environment": {"name": "prod"}}
        node.tasks(first, second, declare(generate={"length": 24}))
        outcome = node.install("docker", "podman")
        assert outcome.rc == 0, outcome.output
        assert node.install("docker", "podman").changed == {host.name: 0}
        node.tasks(deliver())
        node.podman("volume", "create", "--driver", "hostseal", "prod.db")
        yield node
    finally:
        host.remove()


@pytest.fixture
def node(made: Node) -> Iterator[Node]:
    yield made
    made.clean()


def test_the_page(node: Node) -> None:
    node.podman("volume", "rm", "prod.db")
    node.host.sh("podman tag busybox nginx; podman run --rm busybox true")
    (block,) = [block for block in blocks(ROOT / "docs/launch.md") if "test_podman.py" in block.reason]
    for command in block.commands():
        text = command.text.replace(" nginx", " nginx sleep 600")
        assert matches(command.output, node.host.sh(text).stdout), command.text


def test_two_containers_of_each_engine_share(node: Node) -> None:
    for name in ("one", "two"):
        node.podman(*RUN, "--name", name, *SLEEP)
        node.control.docker("run", "-d", "--init", "-v", "prod.db:/run/secrets:ro", "--name", name, *SLEEP)
    assert node.users()["podman"] == 1
    assert len(node.users()) == 3
    info = node.info()
    assert (info["mounts"][0]["containers"], info["problems"]) == (["one", "one", "two", "two"], [])
    length = node.length("one") + 1
    node.rotated(length, change_mode="signal", change_signal="SIGHUP")
    seen = [node.length(name, engine) for name in ("one", "two") for engine in ("podman", "docker")]
    assert seen == [length] * 4
    eventually(lambda: all("again" in node.podman("logs", name) for name in ("one", "two")))
    node.podman("stop", "-t", "0", "one")
    node.control.docker("rm", "-f", "one", "two")
    assert (node.users(), node.length("two")) == ({"podman": 1}, length)
    node.podman("rm", "-f", "-t", "0", "two")
    assert (node.users(), node.files()) == ({}, "")


def test_a_restart_by_a_change(node: Node) -> None:
    node.podman(*RUN, "--name", "one", *SLEEP)
    before = node.podman("inspect", "one", "--format", "{{.State.StartedAt}}")
    node.rotated(40, change_mode="restart")
    eventually(lambda: node.podman("inspect", "one", "--format", "{{.State.StartedAt}}") != before)
    eventually(lambda: node.podman("inspect", "one", "--format", "{{.State.Status}}") == "running")
    assert node.length("one") == 40


def test_running_containers_are_never_taken_for_leaked(node: Node) -> None:
    node.with_arguments("--quiet", "1", "--gap", "1")
    node.podman(*RUN, "--name", "one", *SLEEP)
    time.sleep(6)
    node.host.sh("systemctl stop hostseal-podman.socket hostseal-podman.service")
    time.sleep(4)
    assert node.users() == {"podman": 1}
    node.host.sh("systemctl start hostseal-podman.socket")
    # What Podman has unmounted while nobody heard it: it has lost its memory of the volume.
    node.host.sh("podman kill one; cp /run/hostseal/users/prod.db /run/kept || true; podman rm -f one")
    node.host.sh(
        "systemctl stop hostseald; [ -e /run/hostseal/users/prod.db ] || printf"
        ' \'{"ids": {"podman": 1}, "changed_at": 1}\' > /run/hostseal/users/prod.db;'
        " chown hostseal: /run/hostseal/users/prod.db; systemctl start hostseald"
    )
    eventually(lambda: node.users() == {})
    assert node.files() == ""


def test_refusals(node: Node) -> None:
    assert 'has no mount "prod.other"' in node.refused("volume", "create", "--driver", "hostseal", "prod.other")
    node.tasks(deliver("certain", match={"image": "busybox"}))
    node.podman("volume", "create", "--driver", "hostseal", "prod.certain")
    said = node.refused("run", "--rm", "--volume", "prod.certain:/run/secrets", "busybox", "true")
    assert "only Docker can tell apart" in said
    # A local volume of that name, as `podman run` makes it where there is none.
    node.podman("volume", "rm", "prod.certain")
    node.podman("volume", "create", "prod.certain")
    outcome = node.control.tasks(deliver("certain", match={"image": "busybox"}))
    assert "podman volume create --driver hostseal" in outcome.message("Task 0")
    node.podman("volume", "rm", "prod.certain")
    node.tasks({"hostseal.secrets.mount": {"environment": "prod", "name": "certain", "state": "absent"}})


def test_a_reboot_and_a_power_cut(node: Node) -> None:
    node.podman(*RUN, "--restart", "always", "--name", "always", *SLEEP)
    length = node.length("always")
    for again in (node.host.reboot, node.host.power_cut):
        again()
        eventually(lambda: node.podman("inspect", "always", "--format", "{{.State.Status}}") == "running")
        assert (node.length("always"), node.users()) == (length, {"podman": 1})


def test_podman_alone_and_no_more(node: Node) -> None:
    node.host.sh("docker rm -f $(docker ps -aq) || true; systemctl disable -q --now docker.service docker.socket")
    try:
        outcome = node.install("podman")
        assert outcome.rc == 0, outcome.output
        assert node.install("podman").changed == {node.host.name: 0}
        node.podman(*RUN, "--name", "alone", *SLEEP)
        length = node.length("alone") + 1
        node.rotated(length)
        assert node.length("alone") == length
        assert node.info()["problems"] == []
        assert node.host.run(["test", "-e", "/run/docker/plugins/hostseal.sock"], check=False).returncode
        node.podman("rm", "-f", "-t", "0", "alone")
        assert (node.users(), node.files()) == ({}, "")
        assert node.install("podman", state="absent").rc == 0
        left = "/etc/containers/containers.conf.d/hostseal.conf /etc/systemd/system/hostseal* /run/hostseal"
        assert node.host.sh(f"ls -d {left} 2>/dev/null || true").stdout == ""
    finally:
        node.host.sh("systemctl enable -q --now docker.socket docker.service")
        node.install("docker", "podman")
        node.tasks(deliver())
