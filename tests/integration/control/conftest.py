# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A control node with nothing beside it: real runs of ansible-playbook on inventories that need no host."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.rig.paths import BUILD
from tests.unit.builders import Place

Task = dict[str, Any]
_OURS = ("HOSTSEAL_", "ENC_KEY_PATH", "XDG_", "AWX_", "TOWER_", "ANSIBLE_")


@dataclass(frozen=True)
class Run:
    """What a run of ansible-playbook said."""

    rc: int
    output: str
    lines: list[dict[str, Any]] = field(repr=False)

    def _line(self, task: str, host: str | None) -> dict[str, Any]:
        found = [line for line in self.lines if line["task"] == task and not line["item"]]
        found = [line for line in found if host in (None, line["host"])]
        assert found, f"task {task} did not run\n{self.output}"
        return found[0]

    def result(self, task: str, host: str | None = None) -> dict[str, Any]:
        """The result of a task as callbacks see it, of the first host that has one."""
        result: dict[str, Any] = self._line(task, host)["result"]
        return result

    def message(self, task: str, host: str | None = None) -> str:
        """Why a task failed."""
        line = self._line(task, host)
        assert line["failed"], f"task {task} did not fail: {line}"
        return str(line["result"]["msg"])

    def changed(self, task: str) -> int:
        """On how many hosts a task has changed something."""
        return sum(
            bool(line["result"].get("changed")) for line in self.lines if line["task"] == task and not line["item"]
        )


@dataclass(frozen=True)
class Control:
    """A control node with everything it has below DIRECTORY: home, store, keys, playbooks."""

    directory: Path

    @property
    def place(self) -> Place:
        """The store and the keys, for a look into them."""
        return Place(self.directory / "store.db", self.directory / "keys")

    def environment(self) -> dict[str, str]:
        """The environment of runs, clean of what whoever runs the tests has set."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        return {
            **kept,
            "HOME": str(self.directory / "home"),
            "TMPDIR": str(self.directory / "tmp"),
            "ANSIBLE_COLLECTIONS_PATH": f"{BUILD / 'sym'}:{BUILD / 'collections'}",
            "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "callbacks"),
            "ANSIBLE_CALLBACKS_ENABLED": "results",
            "ANSIBLE_NOCOLOR": "true",
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "HOSTSEAL_STORE": str(self.place.path),
            "HOSTSEAL_KEY_PATH": str(self.place.keys),
        }

    def play(
        self,
        play: str | list[dict[str, Any]],
        *arguments: str,
        inventory: str = "localhost ansible_connection=local\n",
        variables: dict[str, str | None] | None = None,
    ) -> Run:
        """Run a playbook, YAML text or plays. VARIABLES change the environment; None takes one away."""
        for name in ("home", "tmp"):
            (self.directory / name).mkdir(exist_ok=True)
        (self.directory / "hosts.ini").write_text(
            inventory + f"[all:vars]\nansible_python_interpreter={sys.executable}\n", encoding="utf-8"
        )
        playbook = self.directory / "play.yml"
        playbook.write_text(play if isinstance(play, str) else json.dumps(play), encoding="utf-8")
        results = self.directory / "results.jsonl"
        results.unlink(missing_ok=True)
        environment = {**self.environment(), "RESULTS": str(results), **(variables or {})}
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("ansible-playbook")),
                "-i",
                str(self.directory / "hosts.ini"),
                str(playbook),
                *arguments,
            ],
            env={name: value for name, value in environment.items() if value is not None},
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        lines = results.read_text(encoding="utf-8").splitlines() if results.exists() else []
        return Run(done.returncode, done.stdout + done.stderr, [json.loads(line) for line in lines])

    def tasks(self, *tasks: Task, arguments: tuple[str, ...] = (), fails: bool = False, **options: Any) -> Run:
        """Run tasks on localhost; with FAILS each is run whatever became of those before it."""
        listed = [{"ignore_errors": fails, **task} for task in tasks]
        play = {"hosts": options.pop("hosts", "localhost"), "gather_facts": False, "tasks": listed}
        run = self.play([{**play, **options.pop("play", {})}], *arguments, **options)
        assert run.rc == 0, run.output
        return run


def task(title: str, module: str, /, **arguments: Any) -> Task:
    """A task of ours."""
    return {"name": title, f"hostseal.secrets.{module}": arguments}


def secret(name: str, /, **arguments: Any) -> Task:
    """A task that declares the secret NAME in prod; it is named after it."""
    return task(name, "secret", environment="prod", name=name, **arguments)


def rotate_at_once(tmp_path: Path, variables: Mapping[str, str | None]) -> None:
    """Three playbooks rotate the secret "shared" at the same time, four times each, with the store of VARIABLES."""
    outputs: list[str] = []

    def rotate(number: int) -> None:
        control = Control(tmp_path / f"control{number}")
        control.directory.mkdir()
        one = secret("shared", state="rotated", generate={})
        outputs.append(control.tasks({**one, "loop": [1, 2, 3, 4]}, variables=variables).output)

    runs = [threading.Thread(target=rotate, args=(number,)) for number in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len(outputs) == 3


ENVIRONMENT = (task("key", "localkey", name="prod"), task("environment", "environment", name="prod"))


@pytest.fixture
def control(tmp_path: Path) -> Control:
    """A control node on which nothing was declared."""
    return Control(tmp_path)


@pytest.fixture
def prod(control: Control) -> Control:
    """The same with the environment prod, made without Ansible."""
    control.place.declare_environment("prod")
    return control
