# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Throwaway Docker hosts: containers with systemd as PID 1 and a Docker engine of their own."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from tests.rig import archives
from tests.rig.engine import Engine, RigError
from tests.rig.paths import IDENT

LABEL = "hostseal-rig"
OWNER_LABEL = "hostseal-rig-owner"
MANUAL = "manual"
BOOT_SECONDS = 90

# What a container needs for systemd and an engine inside, where --privileged can't be had.
_UNPRIVILEGED = (
    "--cap-add=ALL",
    "--cap-drop=SYS_RESOURCE",
    "--security-opt=seccomp=unconfined",
    "--security-opt=apparmor=unconfined",
    "--security-opt=systempaths=unconfined",
)


def _process_identity(pid: int) -> str:
    """PID and start time: a pid alone may be another process by now. Empty when there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return f"{pid}-{fields[19]}"


class ThrowawayHost:
    """One host. It belongs to the running process, and `clean_leftovers` removes it when that is gone; with owned=False
    it is nobody's and stays until `remove`."""

    def __init__(self, engine: Engine, name: str, release: str = "bookworm", owned: bool = True) -> None:
        self.engine = engine
        self.name = name
        self.release = release
        self.container = f"hostseal-rig-{IDENT}-{name}"
        self.owner = _process_identity(os.getpid()) if owned else MANUAL

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self, load: Sequence[str] = ("busybox",)) -> ThrowawayHost:
        """Create and boot the host, wait for systemd and its Docker engine, load archives (see archives.archive)."""
        image = archives.prepare(self.engine, self.release, load)
        privileged = self.engine.privileged_works(image)
        self.remove()
        self.engine.docker(
            "run",
            "--detach",
            f"--name={self.container}",
            f"--hostname={self.name}",
            f"--label={LABEL}={IDENT}",
            f"--label={OWNER_LABEL}={self.owner}",
            *(("--privileged",) if privileged else _UNPRIVILEGED),
            "--cgroupns=private",
            "--stop-signal=SIGRTMIN+3",
            "--tmpfs=/run",
            "--tmpfs=/run/lock",
            f"--volume={archives.FOLDER}:/rig/archives:ro",
            image,
        )
        self.wait_ready()
        for name in load:
            self.load(name)
        return self

    def remove(self) -> None:
        """End the host and everything on it. Fine when it does not exist."""
        self.engine.docker("rm", "--force", "--volumes", self.container, check=False)

    def reboot(self) -> None:
        """An orderly reboot: units stop, /run is lost, disks stay."""
        self.engine.docker("restart", "--time=60", self.container)
        self.wait_ready()

    def power_cut(self, wait: bool = True) -> None:
        """Every process dies at once; then the host boots again. With wait=False it stays off until `power_on`."""
        self.engine.docker("kill", self.container)
        if wait:
            self.power_on()

    def power_on(self) -> None:
        self.engine.docker("start", self.container)
        self.wait_ready()

    def exists(self) -> bool:
        return self.engine.docker("container", "inspect", self.container, check=False).returncode == 0

    # -- use ----------------------------------------------------------------------------------------------------

    def run(
        self,
        argv: Sequence[str],
        input: bytes | str | None = None,
        check: bool = True,
        timeout: float | None = 300,
        user: str = "root",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host. With check=True a failure raises RigError with its stderr, not its argv."""
        data = input.encode() if isinstance(input, str) else input
        done = self.engine.docker(
            "exec",
            "--interactive",
            f"--user={user}",
            self.container,
            *argv,
            input=data or b"",
            check=False,
            timeout=timeout,
        )
        out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
        if check and done.returncode != 0:
            raise RigError(f"{argv[0]} on {self.name} ended with {done.returncode}: {err.strip() or out.strip()}")
        return subprocess.CompletedProcess(list(argv), done.returncode, out, err)

    def out(self, *argv: str) -> str:
        """What a command on the host prints, stripped."""
        return self.run(argv).stdout.strip()

    def sh(self, script: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a shell script on the host (it travels by stdin)."""
        return self.run(["bash", "-eu", "-o", "pipefail", "-s"], input=script, check=check)

    def load(self, name: str) -> None:
        """Load an image archive into the host's engine, as NAME:latest."""
        file, inside = archives.archive(self.engine, name), archives.image_name(name)
        self.sh(
            f"docker load --quiet --input /rig/archives/{file.name} >/dev/null\n"
            f"docker tag {inside} {name}:latest\n"
            f"docker rmi {inside} >/dev/null\n"
        )

    def wait_ready(self, engine: bool = True) -> None:
        """Wait until systemd has finished booting and, with `engine`, until Docker answers inside."""
        self._wait("systemd", ["systemctl", "is-system-running", "--wait"], ("running", "degraded"))
        if engine:
            self._wait("docker", ["docker", "info", "--format", "up"], ("up",))

    def _wait(self, what: str, argv: Sequence[str], good: Sequence[str]) -> None:
        deadline = time.monotonic() + BOOT_SECONDS
        while True:
            done = self.run(argv, check=False, timeout=BOOT_SECONDS)
            if done.stdout.strip() in good:
                return
            if time.monotonic() > deadline:
                raise RigError(f"{what} on {self.name} is not up after {BOOT_SECONDS} s: {done.stdout} {done.stderr}")
            time.sleep(0.1)

    def forget_packages(self, *packages: str) -> None:
        """Remove distribution packages, for a host that is barer than the image."""
        self.run(["apt-get", "purge", "--yes", "--quiet", *packages])

    def inventory(self) -> dict[str, str]:
        """Host variables with which Ansible reaches this host."""
        return {
            "ansible_connection": "community.docker.docker_api",
            "ansible_docker_docker_host": self.engine.address,
            "ansible_docker_api_version": "auto",
            "ansible_host": self.container,
            "ansible_python_interpreter": "/usr/bin/python3",
        }


def inventory_text(*hosts: ThrowawayHost, group: str = "docker_hosts") -> str:
    """An INI inventory of HOSTS in one group."""
    lines = [f"[{group}]"]
    for host in hosts:
        lines.append(" ".join([host.name, *(f"{key}={value}" for key, value in host.inventory().items())]))
    return "\n".join(lines) + "\n"


def listed(engine: Engine) -> list[tuple[str, str, str]]:
    """Name, owner and state of each host of this checkout."""
    shown = engine.text(
        "ps",
        "--all",
        f"--filter=label={LABEL}={IDENT}",
        "--format",
        f'{{{{.Names}}}}\t{{{{.Label "{OWNER_LABEL}"}}}}\t{{{{.State}}}}',
    )
    rows = [line.split("\t") for line in shown.splitlines()]
    return [(row[0].removeprefix(f"hostseal-rig-{IDENT}-"), row[1], row[2]) for row in rows]


def clean_leftovers(engine: Engine) -> list[str]:
    """Remove hosts of this checkout whose process is gone (a killed test run); hosts started by hand stay."""
    removed = []
    for name, owner, _state in listed(engine):
        if owner != MANUAL and _process_identity(int(owner.partition("-")[0])) != owner:
            ThrowawayHost(engine, name).remove()
            removed.append(name)
    return removed
