# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A bare host in two groups of an inventory, and what hostseal.secrets.site makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.rig.engine import Engine
from tests.rig.host import ThrowawayHost, inventory_text
from tests.rig.paths import BUILD

SITE = "hostseal.secrets.site"
# Looks like base64 and like a template: both have to arrive as they are.
SHARED = "c2VjcmV0{{ not a template }}"
GROUP_VARS = {
    "all": {"hostseal_environments": ["prod", {"name": "staging", "key": "shared-key"}]},
    "db": {
        "hostseal_secrets_db": [
            {"environment": "prod", "name": "db_password", "generate": {"length": 40}},
            {"environment": "prod", "name": "shared", "value": {"__ansible_unsafe": SHARED}},
        ],
        "hostseal_mounts_db": [
            {
                "environment": "prod",
                "name": "db",
                "secrets": [{"source": "db_password", "uid": 999, "gid": 998, "mode": "0400"}, {"source": "shared"}],
            }
        ],
    },
    "web": {
        "hostseal_secrets_web": [
            {"environment": "prod", "name": "shared", "value": {"__ansible_unsafe": SHARED}},
            {"environment": "staging", "name": "token", "generate": {"length": 20}},
        ],
        "hostseal_mounts_web": [
            {"environment": "staging", "name": "web", "secrets": [{"source": "token", "target": "api/token"}]},
        ],
    },
}


@dataclass(frozen=True)
class Outcome:
    """An ansible-playbook run. `results` are those of the first host of each task, by the task's name."""

    rc: int
    output: str
    results: dict[str, dict[str, Any]] = field(default_factory=dict)
    changed: dict[str, int] = field(default_factory=dict)

    def message(self, task: str) -> str:
        """Why TASK failed."""
        assert self.results[task].get("failed"), self.results[task]
        return str(self.results[task]["msg"])


@dataclass(frozen=True)
class Control:
    """A control node: an inventory, a store and keys of its own."""

    directory: Path
    host: ThrowawayHost

    def environment(self) -> dict[str, str]:
        return {
            "ANSIBLE_COLLECTIONS_PATH": f"{BUILD / 'sym'}:{BUILD / 'collections'}",
            "ANSIBLE_HOME": str(self.directory / "ansible"),
            "ANSIBLE_INVENTORY": str(self.directory / "hosts.ini"),
            "ANSIBLE_PIPELINING": "true",
            "HOSTSEAL_STORE": str(self.directory / "store.db"),
            "HOSTSEAL_KEY_PATH": str(self.directory / "keys"),
        }

    def playbook(self, playbook: str | list[dict[str, Any]], *arguments: str) -> Outcome:
        """Run a playbook: its name, or its plays."""
        if not isinstance(playbook, str):
            path = self.directory / "play.yml"
            path.write_text(json.dumps(playbook), encoding="utf-8")
            playbook = str(path)
        command = [str(Path(sys.executable).with_name("ansible-playbook")), playbook, *arguments]
        variables = {**os.environ, **self.environment(), "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json"}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=900, check=False)
        return _outcome(done)

    def tasks(self, *tasks: dict[str, Any], arguments: tuple[str, ...] = (), **play: Any) -> Outcome:
        """Run tasks on the host, each whatever became of those before it."""
        listed = [{"name": f"Task {number}", "ignore_errors": True, **task} for number, task in enumerate(tasks)]
        return self.playbook([{"hosts": self.host.name, "gather_facts": False, "tasks": listed, **play}], *arguments)

    def docker(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """The host's docker command."""
        return self.host.run(["docker", *arguments], check=check)


def _outcome(done: subprocess.CompletedProcess[str]) -> Outcome:
    start = done.stdout.find("{\n")
    if start < 0:
        return Outcome(done.returncode, done.stdout + done.stderr)
    report, _end = json.JSONDecoder().raw_decode(done.stdout[start:])
    results = {
        task["task"]["name"]: next(iter(task["hosts"].values()))
        for play in report["plays"]
        for task in play["tasks"]
        if task["hosts"]
    }
    changed = {host: stats["changed"] for host, stats in report["stats"].items()}
    return Outcome(done.returncode, done.stdout + done.stderr, results, changed)


@dataclass(frozen=True)
class Site:
    """Runs of the site playbook: check mode on the bare host, for real, and once more."""

    control: Control
    bare: str
    checked: Outcome
    after_check: str
    first: Outcome
    second: Outcome


@pytest.fixture(scope="session")
def control(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Control]:
    """A control node with a bare host."""
    directory = tmp_path_factory.mktemp("control")
    made = ThrowawayHost(engine, f"t{os.getpid()}-launch")
    try:
        made.start(load=("busybox", "busybox-secrets"))
        groups = "".join(f"[{group}]\n{made.name}\n" for group in ("db", "web"))
        (directory / "hosts.ini").write_text(inventory_text(made) + groups, encoding="utf-8")
        (directory / "group_vars").mkdir()
        for group, variables in GROUP_VARS.items():
            (directory / f"group_vars/{group}.json").write_text(json.dumps(variables), encoding="utf-8")
        yield Control(directory, made)
    finally:
        made.remove()


@pytest.fixture(scope="session")
def site(control: Control) -> Site:
    """The host after hostseal.secrets.site."""
    bare = _state(control)
    checked = control.playbook(SITE, "--check", "--diff")
    after_check = _state(control)
    first = control.playbook(SITE, "--diff")
    assert first.rc == 0, first.output
    return Site(control, bare, checked, after_check, first, control.playbook(SITE))


def _state(control: Control) -> str:
    """What a run in check mode must not change, on both sides."""
    here = [str(path.relative_to(control.directory)) for path in control.directory.rglob("*")]
    script = (
        "find /etc /usr/local /var/lib -xdev -not -path '/var/lib/apt/*' -not -path '/var/lib/docker/*'"
        " -printf '%p %s %m %U\\n' | sort;"
        " systemctl list-unit-files --no-legend; ls /run; docker volume ls; docker ps -a"
    )
    kept = [name for name in sorted(here) if not name.startswith("ansible")]
    return "\n".join(kept) + control.host.sh(script).stdout
