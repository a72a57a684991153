# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Jobs as AWX starts them: credentials rendered into variables and files, ansible-runner, an execution environment.

What AWX does is in awx/main/models/credential.py (CredentialType.inject_credential), awx/main/models/unified_jobs.py
(awx_meta_vars) and awx/main/tasks/jobs.py (RunJob) of its source, version 24.6.1.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jinja2 import sandbox

from tests.rig.engine import Engine
from tests.rig.paths import ROOT

TYPES = ROOT / "playbooks/files/awx"
JOB_SECONDS = 1500
_IN_CONTAINER = "/runner"
_numbers = itertools.count(417)


class _Namespace:
    """What templates see as `tower`."""


@dataclass(frozen=True)
class Credential:
    """A credential of the type in playbooks/files/awx/KIND.yml, with what was typed in."""

    kind: str
    inputs: dict[str, str]

    def inject(self, folder: Path) -> dict[str, str]:
        """The job's environment variables; files go to FOLDER/env and are named as the container sees them."""
        injectors = yaml.safe_load((TYPES / f"{self.kind}.yml").read_text(encoding="utf-8"))["injectors"]
        environment = sandbox.ImmutableSandboxedEnvironment()
        tower, names = _Namespace(), _Namespace()
        tower.filename = names  # type: ignore[attr-defined]
        # A field that was left empty is not defined.
        namespace = {"tower": tower, **{name: value for name, value in self.inputs.items() if value}}
        for label, template in injectors["file"].items():
            handle, path = tempfile.mkstemp(dir=folder / "env")
            with open(handle, "w", encoding="utf-8") as file:
                file.write(environment.from_string(template).render(**namespace))
            Path(path).chmod(0o600)
            setattr(names, label.partition(".")[2], f"{_IN_CONTAINER}/env/{Path(path).name}")
        return {
            name: environment.from_string(template).render(**namespace) for name, template in injectors["env"].items()
        }


@dataclass(frozen=True)
class Job:
    """A job that has ended. `results` are those of the first host of each task, by the task's name."""

    number: int
    rc: int
    output: str
    events: list[dict[str, Any]] = field(repr=False)

    def ok(self) -> Job:
        """Itself, if it succeeded."""
        assert self.rc == 0, self.output
        return self

    @property
    def changed(self) -> int:
        """How many tasks have changed something."""
        return sum(bool(result.get("changed")) for result in self.results.values())

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for event in self.events:
            if event["event"] in ("runner_on_ok", "runner_on_failed"):
                found.setdefault(event["event_data"]["task"], event["event_data"]["res"])
        return found


@dataclass(frozen=True)
class Controller:
    """Starts jobs on the machine itself, with the collection's own repository as their project."""

    engine: Engine
    image: str
    inventory: dict[str, Any]
    ssh_key: Path
    folder: Path

    def launch(
        self,
        playbook: str | list[dict[str, Any]],
        *credentials: Credential,
        user: str = "alice",
        arguments: str = "",
        exposed: Path | None = None,
        **extra: Any,
    ) -> Job:
        """Run PLAYBOOK, a path in the project or plays.

        ARGUMENTS are more for ansible-playbook, EXTRA are variables. EXPOSED is a path that jobs share.
        """
        number = next(_numbers)
        folder = self.folder / f"awx_{number}"
        for name in ("env", "inventory"):
            (folder / name).mkdir(parents=True)
        folder.chmod(0o700)
        shutil.copytree(ROOT / "playbooks", folder / "project/playbooks")
        if not isinstance(playbook, str):
            (folder / "project/play.yml").write_text(json.dumps(playbook), encoding="utf-8")
            playbook = "play.yml"
        variables = self._variables(number, folder)
        for credential in credentials:
            variables.update(credential.inject(folder))
        about = {
            f"{prefix}_{name}": value
            for prefix in ("awx", "tower")
            for name, value in {"job_id": number, "user_name": user, "job_launch_type": "manual"}.items()
        }
        for name, content in {
            "inventory/hosts.json": self.inventory,
            "env/envvars": variables,
            "env/extravars": {**about, **extra},
            "env/settings": {"suppress_ansible_output": True, "suppress_output_file": False},
        }.items():
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
        (folder / "env/cmdline").write_text(arguments, encoding="utf-8")
        shutil.copy(self.ssh_key, folder / "env/ssh_key")
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("ansible-runner")),
                *("run", str(folder), "--playbook", playbook, "--ident", str(number)),
                *("--process-isolation", "--process-isolation-executable", "docker"),
                *("--container-image", self.image, "--container-option=--network=host", "--omit-env-files"),
                *(("--container-volume-mount", f"{exposed}:{exposed}:z") if exposed else ()),
            ],
            env={**os.environ, "DOCKER_HOST": self.engine.address},
            capture_output=True,
            text=True,
            timeout=JOB_SECONDS,
            check=False,
        )
        artifacts = folder / "artifacts" / str(number)
        output = (artifacts / "stdout").read_text(encoding="utf-8") if artifacts.exists() else ""
        events = [
            json.loads(path.read_text(encoding="utf-8")) for path in sorted(artifacts.glob("job_events/*-*.json"))
        ]
        return Job(number, done.returncode, output + done.stdout + done.stderr, events)

    @staticmethod
    def _variables(number: int, folder: Path) -> dict[str, str]:
        return {
            "ANSIBLE_FORCE_COLOR": "False",
            "ANSIBLE_HOST_KEY_CHECKING": "False",
            "ANSIBLE_RETRY_FILES_ENABLED": "False",
            "AWX_HOST": "https://awx.example.com",
            "AWX_PRIVATE_DATA_DIR": str(folder),
            "INVENTORY_ID": "1",
            "JOB_ID": str(number),
            "MAX_EVENT_RES": "700000",
        }
