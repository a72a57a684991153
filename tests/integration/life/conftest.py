# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Two hosts with the agent, and control nodes that run the playbooks on both. Each has an environment of its own."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.integration.agent.conftest import AgentHost
from tests.integration.playbook import ControlNode
from tests.rig.engine import Engine
from tests.rig.host import ThrowawayHost

DELIVER = "Deliver the mounts to the host"


@dataclass(frozen=True)
class Run:
    """A run of a playbook: results by the task's name and the host's, what changed by host."""

    rc: int
    output: str
    results: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    stats: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def changed(self) -> dict[str, int]:
        return {host: stats["changed"] for host, stats in self.stats.items()}

    def ok(self) -> Run:
        """Itself, when it went well."""
        assert self.rc == 0, self.output
        return self

    def failed(self, task: str) -> str:
        """Why TASK failed."""
        assert self.rc != 0, self.output
        return next(str(result["msg"]) for result in self.results[task].values() if result.get("failed"))

    def mounts(self, task: str) -> dict[str, dict[str, str]]:
        """What TASK did to the mounts, by host and volume."""
        return {
            host: {mount["volume"]: mount["action"] for mount in result.get("mounts", [])}
            for host, result in self.results[task].items()
        }


class Life(ControlNode):
    """A control node with the environment ENVIRONMENT on two hosts."""

    def __init__(self, directory: Path, environment: str, *hosts: ThrowawayHost) -> None:
        super().__init__(directory, *hosts)
        self.name = environment
        self.hosts = [AgentHost(host, self) for host in hosts]
        self.variables: dict[str, Any] = {}

    def declare(self, **variables: Any) -> None:
        """Set inventory variables of all hosts, beside those that are set already."""
        self.variables |= variables
        (self.directory / "group_vars").mkdir(exist_ok=True)
        text = json.dumps({"hostseal_environments": [self.name], **self.variables})
        (self.directory / "group_vars" / "docker_hosts.json").write_text(text, encoding="utf-8")

    def book(self, playbook: str, *arguments: str, who: str = "", **variables: Any) -> Run:
        """Run a playbook of the collection with VARIABLES as extra ones; WHO called sudo for it."""
        extra = json.dumps(variables)
        environment = {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", **({"SUDO_USER": who} if who else {})}
        book = [{"ansible.builtin.import_playbook": f"hostseal.secrets.{playbook}"}]
        done = self.run(book, "-e", extra, *arguments, **environment)
        return _read(done.returncode, done.stdout, done.stderr)

    def set_up(self, who: str = "") -> None:
        """The hosts as hostseal.secrets.site makes them; once they have the agent, in a third of the time."""
        if self.hosts[0].host.run(["test", "-e", "/etc/hostseal/host.json"], check=False).returncode:
            self.book("site", who=who).ok()
            return
        public_key = "{{ identity.public_key }}"
        enrol = [
            {"hostseal.secrets.localkey": {"name": self.name}, "run_once": True},
            {"hostseal.secrets.environment": {"name": self.name}, "run_once": True},
            {"hostseal.secrets.host_identity": {}, "register": "identity"},
            {"hostseal.secrets.host": {"environments": [self.name], "public_key": public_key}},
        ]
        self._tasks(*enrol, *self._deliver(), who=who).ok()

    def deliver(self) -> Run:
        """What hostseal.secrets.site does to hosts that are enrolled: declare, seal and deliver."""
        return self._tasks(*self._deliver())

    def _deliver(self) -> list[dict[str, Any]]:
        united = "{{ hostvars | hostseal.secrets.declarations(%s) }}"
        secrets = united % f"ansible_play_hosts_all, 'hostseal_secrets', '{self.name}'"
        mounts = united % "[inventory_hostname], 'hostseal_mounts'"
        declare = {"environment": self.name, "secrets": secrets}
        return [
            {"name": "Declare its secrets", "hostseal.secrets.secret": declare, "run_once": True},
            {"name": DELIVER, "hostseal.secrets.mount": {"mounts": mounts}},
        ]

    def _tasks(self, *tasks: dict[str, Any], arguments: tuple[str, ...] = (), who: str = "") -> Run:
        environment = {"ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json", **({"SUDO_USER": who} if who else {})}
        play = {"hosts": "docker_hosts", "gather_facts": False, "tasks": list(tasks)}
        done = self.run([play], *arguments, **environment)
        return _read(done.returncode, done.stdout, done.stderr)

    def task(self, module: str, *arguments: str, who: str = "", check: bool = True, **options: Any) -> dict[str, Any]:
        """Run one module on the control node; its result."""
        options = {"environment": self.name, **options}
        task = {"name": "It", f"hostseal.secrets.{module}": options, "run_once": True}
        run = self._tasks(task, arguments=arguments, who=who)
        if check:
            run.ok()
        return next(iter(run.results["It"].values()))

    def sql(self, *statements: str) -> list[Any]:
        """The rows of the last of STATEMENTS on the store."""
        with sqlite3.connect(self.store) as connection:
            rows = [connection.execute(statement).fetchall() for statement in statements]
        connection.close()
        return rows[-1]


def _read(rc: int, output: str, errors: str) -> Run:
    start = output.find("{\n")
    if start < 0:
        return Run(rc, output + errors)
    report, _end = json.JSONDecoder().raw_decode(output[start:])
    results: dict[str, dict[str, dict[str, Any]]] = {}
    for play in report["plays"]:
        for task in play["tasks"]:
            results.setdefault(task["task"]["name"], {}).update(task["hosts"])
    return Run(rc, output + errors, results, report["stats"])


LifeFactory = Callable[[str], Life]


@pytest.fixture(scope="session")
def pair(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LifeFactory]:
    """Makes control nodes of the same two hosts, each with a store, keys and an environment of its own."""
    hosts = [ThrowawayHost(engine, f"t{os.getpid()}-life{number}") for number in (1, 2)]
    try:
        for host in hosts:
            host.start(load=("busybox",))
        yield lambda environment: Life(tmp_path_factory.mktemp(environment), environment, *hosts)
    finally:
        for host in hosts:
            host.remove()
