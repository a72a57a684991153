# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A store in a folder, declared on one machine, committed, and delivered by jobs that have a checkout and a token."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.playbook import ControlNode, Outcome, install, mount
from tests.markers import Markers
from tests.rig.host import ThrowawayHost
from tests.rig.openbao import OpenBao

_SECRET = "hostseal.secrets.secret"


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"},
    ).stdout


class _Node(ControlNode):
    """With a repository in `project`, a token for Vault, and nothing else of its own that lasts."""

    def __init__(self, directory: Path, host: ThrowawayHost, bao: OpenBao, token: str) -> None:
        super().__init__(directory, host)
        self.project = directory / "project"
        self.store_url = f"file://{self.project}/secrets"
        self._vault = {"VAULT_ADDR": bao.url, "VAULT_CACERT": bao.ca_cert, "VAULT_TOKEN": token}
        self.more: dict[str, str] = {}

    def environment(self) -> dict[str, str]:
        state = {"XDG_STATE_HOME": str(self.directory / "state")}
        return {**super().environment(), **self._vault, **state, **self.more}


@contextlib.contextmanager
def _job(directory: Path, origin: Path, host: ThrowawayHost, bao: OpenBao, policy: str) -> Iterator[_Node]:
    """As AWX has it: a fresh checkout, here one that can't be written to at all, and no memory of other jobs."""
    token = bao.client().auth.token.create(policies=[policy])["auth"]["client_token"]
    node = _Node(directory, host, bao, token)
    git(directory, "clone", "-q", str(origin), "project")
    node.more = {"AWX_PRIVATE_DATA_DIR": str(directory), "JOB_ID": "7"}
    subprocess.run(["mount", "--bind", node.project, node.project], check=True, timeout=30)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", node.project], check=True, timeout=30)
        yield node
    finally:
        subprocess.run(["umount", node.project], check=True, timeout=30)
        shutil.rmtree(directory)


def _declare(name: str, value: str) -> dict[str, Any]:
    given = {"environment": name, "name": "password", "value": value, "on_difference": "rotate"}
    return {"name": "Secret", _SECRET: given}


@pytest.mark.thorough
def test_jobs_deliver_from_a_checkout(host: ThrowawayHost, tmp_path: Path) -> None:
    name, first, second = "gitjobs", secrets.token_urlsafe(30), secrets.token_urlsafe(30)
    outputs = []
    with OpenBao() as bao:
        laptop = _Node(tmp_path / "laptop", host, bao, bao.root_token)
        laptop.project.mkdir()
        git(laptop.project, "init", "-q", "-b", "main")
        keys = {"name": "Keys", "hostseal.secrets.vault_transit": {"name": name}}
        environment = {"name": "Environment", "hostseal.secrets.environment": {"name": name, "backend": "vault"}}
        declaring = {"hosts": "localhost", "gather_facts": False, "tasks": [keys, environment, _declare(name, first)]}
        installing = {"hosts": "docker_hosts", "gather_facts": False, "tasks": [install(name)]}
        outputs.append(laptop.playbook([declaring, installing], "-vvv").output)
        git(laptop.project, "add", "-A")
        git(laptop.project, "commit", "-qm", "x")

        mounts = [{"name": "db", "secrets": [{"source": "password"}]}]
        sealing = {
            "name": "Seal",
            "hostseal.secrets.seal": {"environment": name, "hosts": [host.name], "mounts": mounts},
            "run_once": True,
        }
        run = ("docker", "run", "--rm", "-v", f"{name}.db:/run/secrets:ro", "--volume-driver", "hostseal", "busybox")

        def deliver(number: int) -> Outcome:
            with _job(tmp_path / f"job{number}", laptop.project, host, bao, f"hostseal-{name}-deployer") as job:
                outcome = job.tasks(sealing, mount("db", "password", environment=name))
                refused = job.tasks(_declare(name, "other"), check=False)
                # Whoever delivers can declare nothing: not to Vault, and not into a checkout.
                assert refused.results["Secret"]["failed"]
                with pytest.raises(StopIteration):
                    next(path for path in job.directory.rglob("*.db") if job.project in path.parents)
            outputs.extend((outcome.output, refused.output))
            return outcome

        assert deliver(1).results[f"{name}.db"]["changed"]
        assert host.out(*run, "cat", "/run/secrets/password").strip() == first
        # Another job knows nothing of the first; the host does.
        assert not deliver(2).results[f"{name}.db"]["changed"]

        rotated = laptop.tasks(_declare(name, second), hosts="localhost")
        assert rotated.results["Secret"]["changed"]
        assert git(laptop.project, "status", "--porcelain") == (
            f" M secrets/environments/{name}/secrets/password.json\n"
        )
        git(laptop.project, "commit", "-qam", "x")
        assert deliver(3).results[f"{name}.db"]["changed"]
        assert host.out(*run, "cat", "/run/secrets/password").strip() == second

        # The machine that has never delivered does not know what there is to take away.
        revoke = {"name": "Revoke", "hostseal.secrets.revoke": {"environment": name, "secrets": ["password"]}}
        assert "has no record on this machine" in laptop.tasks(revoke, check=False).message("Revoke")
        assert laptop.tasks(mount("db", "password", environment=name), revoke).results["Revoke"]["changed"]
        assert not laptop.tasks(revoke).results["Revoke"]["changed"]
    hunted = Markers({"first": first.encode(), "second": second.encode()})
    for number, output in enumerate(outputs):
        assert not hunted.search_text(output, f"output {number}")
    for path in (tmp_path / "laptop").rglob("*"):
        if path.is_file() and path.name != "play.yml":
            assert not hunted.search_bytes(path.read_bytes(), str(path))
