# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A look into a control node's store, whatever backend it is under; and runs that are killed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends import Backend, Binding, KeyPlace, open_backend
from ansible_collections.hostseal.secrets.plugins.plugin_utils._records import Environment, HostRecord, Version
from ansible_collections.hostseal.secrets.plugins.plugin_utils._vault import VaultSession

from tests.integration.control.conftest import Control, Task
from tests.rig.openbao import OpenBao
from tests.unit.builders import Place


class Stored:
    """What the store of CONTROL has. BAO is asked as root, which no run that is tested does."""

    def __init__(self, control: Control, bao: OpenBao, path: Path | None = None) -> None:
        """PATH is that of a copy."""
        self.bao = bao
        self.place = Place(path or control.place.path, control.place.keys)

    def record(self) -> Environment:
        with self.place.store() as store, store.transaction() as transaction:
            return transaction.environment("prod")

    def versions(self) -> list[Version]:
        with self.place.store() as store, store.transaction() as transaction:
            return transaction.versions("prod")

    def hosts(self) -> dict[str, HostRecord]:
        with self.place.store() as store, store.transaction() as transaction:
            return transaction.hosts("prod")

    @contextmanager
    def backend(self) -> Iterator[Backend]:
        """The one that the environment's record names."""
        record = self.record()
        options = {"url": self.bao.url, "ca_cert": self.bao.ca_cert, "token": self.bao.root_token}
        place = KeyPlace(record.backend, record.key_name, record.engine_mount_point, record.signing_kid)
        sessions: list[VaultSession] = []

        def session() -> VaultSession:
            sessions.append(VaultSession(options))
            return sessions[0]

        try:
            yield open_backend(place, str(self.place.keys), session)
        finally:
            for one in sessions:
                one.close()

    def values(self) -> dict[tuple[str, int], bytes]:
        """Every stored value, by name and number."""
        found = self.versions()
        items = [(Binding("prod", one.name, one.number), one.ciphertext) for one in found]
        with self.backend() as backend:
            return dict(zip(((one.name, one.number) for one in found), backend.decrypt(items), strict=True))

    def whole(self) -> tuple[Any, ...]:
        """Everything that new keys concern."""
        return self.record(), self.versions(), self.hosts()


@contextmanager
def running(control: Control, play: Task, *arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """ansible-playbook with one task on localhost, begun; killed with all its processes at the end."""
    listed = [{"hosts": "localhost", "gather_facts": False, "tasks": [play]}]
    (control.directory / "killed.yml").write_text(json.dumps(listed), encoding="utf-8")
    process = subprocess.Popen(
        [os.path.join(os.path.dirname(sys.executable), "ansible-playbook"), "killed.yml", *arguments],
        env={**control.environment(), "RESULTS": os.devnull, "PYTHONUNBUFFERED": "1", **variables},
        cwd=control.directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        kill(process)


def kill(process: subprocess.Popen[str]) -> None:
    """kill -9 of the run with all its workers, which Ansible puts into sessions of their own; fine when it has ended."""
    if process.poll() is None:
        for pid in _family(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.wait(30)


def _family(pid: int) -> list[int]:
    """A process and all that came from it."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # After the name, which may hold anything: state and parent.
            parent = int(path.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.parent.name))
    family = [pid]
    for one in family:
        family += children.get(one, [])
    return family


def kill_when(process: subprocess.Popen[str], happened: Callable[[], bool], seconds: float = 60) -> None:
    """Kill the run as soon as something has happened; it must not have ended by itself before."""
    # Read, or a run that says much would wait for us.
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(process.stdout or []), daemon=True)
    reader.start()
    deadline = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, "".join(said)
        assert time.monotonic() < deadline, "".join(said)
        time.sleep(0.002)
    kill(process)
    reader.join(30)
    assert process.returncode == -signal.SIGKILL, "".join(said)
