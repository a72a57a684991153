# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A control node in a directory: inventory, store, keys, and runs of the real ansible-playbook."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.rig.host import ThrowawayHost, inventory_text
from tests.rig.paths import BUILD

TIMEOUT_SECONDS = 900


@dataclass(frozen=True)
class Outcome:
    """A run. `results` are those of the first host of each task, by the task's name."""

    rc: int
    output: str
    results: dict[str, dict[str, Any]] = field(default_factory=dict)

    def message(self, task: str) -> str:
        """Why TASK failed."""
        assert self.results[task].get("failed"), f"{task} did not fail"
        return str(self.results[task]["msg"])


class ControlNode:
    """Everything below DIRECTORY; hosts are in the group docker_hosts."""

    def __init__(self, directory: Path, *hosts: ThrowawayHost) -> None:
        self.directory = directory
        self.store = directory / "store.db"
        # What the option store is, if not that file.
        self.store_url = ""
        self.keys = directory / "keys"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "hosts.ini").write_text(inventory_text(*hosts), encoding="utf-8")

    def environment(self) -> dict[str, str]:
        """What the runs get beside the present environment."""
        return {
            "ANSIBLE_COLLECTIONS_PATH": f"{BUILD / 'sym'}:{BUILD / 'collections'}",
            "ANSIBLE_HOME": str(self.directory / "ansible"),
            "ANSIBLE_INVENTORY": str(self.directory / "hosts.ini"),
            "ANSIBLE_PIPELINING": "true",
            "HOSTSEAL_STORE": self.store_url or str(self.store),
            "HOSTSEAL_KEY_PATH": str(self.keys),
        }

    def run(self, plays: list[dict[str, Any]], *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """ansible-playbook with PLAYS; VARIABLES are added to its environment."""
        path = self.directory / "play.yml"
        path.write_text(json.dumps(plays), encoding="utf-8")
        return subprocess.run(
            [str(Path(sys.executable).with_name("ansible-playbook")), str(path), *arguments],
            env={**os.environ, **self.environment(), **variables},
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )

    def playbook(self, plays: list[dict[str, Any]], *arguments: str, check: bool = True) -> Outcome:
        """Run PLAYS and read their results; with CHECK a failed run fails the test."""
        done = self.run(plays, *arguments, ANSIBLE_STDOUT_CALLBACK="ansible.posix.json")
        results: dict[str, dict[str, Any]] = {}
        start = done.stdout.find("{\n")
        if start >= 0:
            report, _end = json.JSONDecoder().raw_decode(done.stdout[start:])
            for play in report["plays"]:
                for task in play["tasks"]:
                    if task["hosts"]:
                        results[task["task"]["name"]] = next(iter(task["hosts"].values()))
        outcome = Outcome(done.returncode, done.stdout + done.stderr, results)
        assert outcome.rc == 0 or not check, outcome.output
        return outcome

    def tasks(self, *tasks: dict[str, Any], hosts: str = "docker_hosts", check: bool = True, **play: Any) -> Outcome:
        """Run TASKS, each whatever became of those before it unless CHECK."""
        listed = [{"ignore_errors": not check, **task} for task in tasks]
        return self.playbook([{"hosts": hosts, "gather_facts": False, "tasks": listed, **play}], check=check)


def declare(environment: str = "prod", **values: str) -> list[dict[str, Any]]:
    """Tasks that make ENVIRONMENT with a key of its own, and secrets of these VALUES."""
    secrets = [{"name": name, "value": value} for name, value in values.items()]
    return [
        {"name": f"Key {environment}", "hostseal.secrets.localkey": {"name": environment}},
        {"name": f"Environment {environment}", "hostseal.secrets.environment": {"name": environment}},
        {
            "name": f"Secrets {environment}",
            "hostseal.secrets.secret": {"environment": environment, "secrets": secrets, "on_difference": "rotate"},
        },
    ]


def mount(name: str = "db", *sources: str, environment: str = "prod", **options: Any) -> dict[str, Any]:
    """A task, named after the volume."""
    secrets = [{"source": source} for source in sources or ("password",)]
    arguments = {"environment": environment, "name": name, "secrets": secrets, **options}
    return {"name": f"{environment}.{name}", "hostseal.secrets.mount": arguments}


def install(*environments: str, **variables: Any) -> dict[str, Any]:
    """The role, as a task."""
    return {
        "name": "Install",
        "ansible.builtin.include_role": {"name": "hostseal.secrets.host_agent"},
        "vars": {"hostseal_environments": list(environments or ("prod",)), **variables},
    }
