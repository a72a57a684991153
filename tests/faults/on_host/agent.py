# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent under test: its sockets, its process, its unit."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

CONTROL = "/run/hostseal/agent.sock"
PLUGIN = "/run/docker/plugins/hostseal.sock"
UNIT = "hostseald.service"
AUDIT = Path("/var/log/hostseal/audit.jsonl")


class BrokenOff(Exception):
    """The agent ended before it answered."""


class Refused(Exception):
    """The agent answered that it does not."""


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _ask(path: str, method: str, target: str, body: str | None, seconds: float) -> dict[str, Any]:
    with closing(_Connection(path, seconds)) as connection:
        try:
            connection.request(method, target, body=body)
            response = connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise BrokenOff(type(error).__name__) from None
    reason = answer.get("Err") or answer.get("reason")
    if response.status != 200 or answer.get("Err"):
        raise Refused(reason)
    return answer


def control(method: str, target: str, body: str | None = None, seconds: float = 60) -> dict[str, Any]:
    """One request of a module."""
    return _ask(CONTROL, method, target, body, seconds)


def plugin(call: str, volume: str, user: str, seconds: float = 60) -> dict[str, Any]:
    """One request of Docker's."""
    return _ask(PLUGIN, "POST", f"/VolumeDriver.{call}", json.dumps({"Name": volume, "ID": user}), seconds)


def deliver(volume: str, envelope: str) -> dict[str, Any]:
    return control("PUT", f"/v1/mounts/{volume}", envelope)


def status() -> dict[str, Any]:
    """What the agent says of itself, as soon as it is there (again)."""
    answer: dict[str, Any] = until(_status, 60, "the agent answers")
    return answer


def _status() -> dict[str, Any] | None:
    try:
        return control("GET", "/v1/status?docker=1", seconds=30)
    except BrokenOff:
        return None


def systemctl(*arguments: str) -> str:
    return subprocess.run(["systemctl", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def pid() -> int:
    """The agent's process, which has answered."""
    status()
    return int(systemctl("show", "--property=MainPID", "--value", UNIT))


def restart(**drop_in: str) -> None:
    """Restart the agent, with lines of a [Service] section until the next call."""
    folder = Path(f"/run/systemd/system/{UNIT}.d")
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"{key.rstrip('_')}={value}" for key, value in drop_in.items()]
    (folder / "fault.conf").write_text("\n".join(["[Service]", *lines, ""]))
    systemctl("daemon-reload")
    systemctl("restart", UNIT)


def reconciling(quiet: float, gap: float) -> dict[str, str]:
    """Drop-in lines for a reconciliation within seconds. Safe with a short QUIET while no container that has ended is
    started again: a container that is created is known to Docker before it is mounted."""
    command = "/usr/bin/python3 -I /usr/local/lib/hostseal/hostseald.pyz agent"
    return {"ExecStart_": "", "ExecStart": f"{command} --quiet {quiet} --gap {gap}"}


def until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true value of CONDITION; TimeoutError with WHAT when there is none in time."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.05)
    return result


def broken_audit_lines() -> list[str]:
    """What stands in the audit log and is no JSON object with an event."""
    broken = []
    for number, line in enumerate(AUDIT.read_bytes().splitlines(), start=1):
        try:
            json.loads(line)["event"]
        except (ValueError, KeyError, TypeError):
            broken.append(f"{AUDIT}:{number}: {line[:60]!r}")
    return broken


def files_below(*roots: str) -> list[str]:
    """Regular files on the disks below ROOTS, without what else is mounted there."""
    found = []
    for root in roots:
        device = os.stat(root).st_dev
        for folder, folders, files in os.walk(root):
            folders[:] = [name for name in folders if os.lstat(f"{folder}/{name}").st_dev == device]
            found += [f"{folder}/{name}" for name in files if os.path.isfile(f"{folder}/{name}")]
    return found
