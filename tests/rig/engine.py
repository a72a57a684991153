# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The Docker engine that throwaway hosts run on: the machine's own where it answers, else one that the rig starts."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import IO

from tests.rig.paths import IDENT, RIG, RUN, locked

SOCKET = RUN / "docker.sock"
PIDFILE = RUN / "dockerd.pid"
LOG = RIG / "dockerd.log"
BRIDGE = f"hsrig{IDENT}"[:15]
# A /24 of the checkout's own, far from the ranges that Docker picks for itself.
SUBNET = f"10.213.{int(IDENT[:2], 16)}"
START_SECONDS = 60


class RigError(RuntimeError):
    """The rig can't do what was asked; the text says why."""


def _answers(address: str) -> bool:
    command = ["docker", "-H", address, "version", "--format", "{{.Server.Version}}"]
    try:
        return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False


class Engine:
    """A running Docker engine; `address` is what goes after `docker -H`."""

    def __init__(self, address: str) -> None:
        self.address = address

    def docker(
        self,
        *argv: str,
        check: bool = True,
        input: bytes | None = None,
        stdin: IO[bytes] | None = None,
        timeout: float | None = 600,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the docker client. A failure raises RigError with the client's own words."""
        done = subprocess.run(
            ["docker", "-H", self.address, *argv],
            input=input,
            stdin=stdin if input is None else None,
            capture_output=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "DOCKER_BUILDKIT": "0"},
        )
        if check and done.returncode != 0:
            raise RigError(
                f"docker {argv[0]} failed ({done.returncode}): {done.stderr.decode(errors='replace').strip()}"
            )
        return done

    def text(self, *argv: str) -> str:
        """What the docker client prints, stripped."""
        return self.docker(*argv).stdout.decode().strip()

    def gateway(self) -> str:
        """The machine's address on the hosts' network."""
        return self.text("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}")

    def has_image(self, name: str) -> bool:
        return self.docker("image", "inspect", name, check=False).returncode == 0

    def privileged_works(self, image: str) -> bool:
        """Some sandboxes lack a capability, and then the engine can't start a container with --privileged."""
        engine = hashlib.sha256(self.text("info", "--format", "{{.ID}}").encode()).hexdigest()[:12]
        stamp = RIG / f"privileged-{engine}"
        if not stamp.exists():
            done = self.docker("run", "--rm", "--privileged", image, "true", check=False)
            stamp.write_text("yes" if done.returncode == 0 else "no", encoding="utf-8")
        return stamp.read_text(encoding="utf-8") == "yes"


def _run(*argv: str, check: bool = True) -> None:
    done = subprocess.run(argv, capture_output=True, check=False)
    if check and done.returncode != 0:
        raise RigError(f"{' '.join(argv)}: {done.stderr.decode(errors='replace').strip()}")


def _forwarding_rules() -> list[list[str]]:
    """Table, chain and rule for the hosts' way out. The engine runs with --iptables=false: a second engine's chains
    would disturb the first one's."""
    return [
        ["nat", "POSTROUTING", "-s", f"{SUBNET}.0/24", "!", "-o", BRIDGE, "-j", "MASQUERADE"],
        ["filter", "FORWARD", "-i", BRIDGE, "-j", "ACCEPT"],
        ["filter", "FORWARD", "-o", BRIDGE, "-j", "ACCEPT"],
    ]


def _network_down() -> None:
    for table, chain, *rule in _forwarding_rules():
        _run("iptables", "-t", table, "-D", chain, *rule, check=False)
    _run("ip", "link", "delete", BRIDGE, check=False)


def _outer_mtu() -> str:
    """The MTU of the machine's way out; larger packets from hosts would vanish on narrower links."""
    route = subprocess.run(["ip", "-o", "route", "get", "192.0.2.1"], capture_output=True, check=False).stdout.split()
    device = route[route.index(b"dev") + 1].decode() if b"dev" in route else "eth0"
    try:
        return Path(f"/sys/class/net/{device}/mtu").read_text(encoding="ascii").strip()
    except OSError:
        return "1500"


def _network_up(mtu: str) -> None:
    _network_down()
    _run("ip", "link", "add", BRIDGE, "mtu", mtu, "type", "bridge")
    _run("ip", "address", "add", f"{SUBNET}.1/24", "dev", BRIDGE)
    _run("ip", "link", "set", BRIDGE, "up")
    for table, chain, *rule in _forwarding_rules():
        _run("iptables", "-t", table, "-I", chain, *rule)


def _own_pid() -> int | None:
    """The pid of the engine that the rig of this checkout started, if it is alive."""
    try:
        pid = int(PIDFILE.read_text(encoding="ascii"))
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (OSError, ValueError):
        return None
    return pid if str(SOCKET).encode() in command else None


def _alive(pid: int) -> bool:
    try:
        os.waitpid(pid, os.WNOHANG)  # a child of this very process would stay a zombie
    except ChildProcessError:
        pass
    return Path(f"/proc/{pid}").exists()


def _start_own() -> None:
    if not shutil.which("dockerd"):
        raise RigError("no Docker engine answers and dockerd is not installed: run make setup")
    if os.geteuid() != 0:
        raise RigError("no Docker engine answers and only root can start one")
    shutil.rmtree(RUN, ignore_errors=True)
    RUN.mkdir(mode=0o700)
    mtu = _outer_mtu()
    _network_up(mtu)
    with open(LOG, "ab") as log:
        subprocess.Popen(
            [
                "dockerd",
                f"--host=unix://{SOCKET}",
                f"--data-root={RIG / 'engine'}",
                f"--exec-root={RUN / 'exec'}",
                f"--pidfile={PIDFILE}",
                f"--bridge={BRIDGE}",
                f"--mtu={mtu}",
                "--iptables=false",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    deadline = time.monotonic() + START_SECONDS
    while not _answers(f"unix://{SOCKET}"):
        if time.monotonic() > deadline:
            raise RigError(f"the engine did not answer within {START_SECONDS} s; see {LOG}")
        time.sleep(0.2)


def find() -> Engine | None:
    """The engine in use, without starting one."""
    if _own_pid() and _answers(f"unix://{SOCKET}"):
        return Engine(f"unix://{SOCKET}")
    address = os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock"
    return Engine(address) if _answers(address) else None


def ensure() -> Engine:
    """The engine in use; started when there is none."""
    with locked("engine"):
        engine = find()
        if engine is None:
            _start_own()
            engine = find()
    if engine is None:
        raise RigError(f"the engine went away; see {LOG}")
    return engine


def stop() -> bool:
    """End the engine that the rig started (its images stay in build/); the machine's own engine is left alone."""
    with locked("engine"):
        pid = _own_pid()
        if pid is None:
            return False
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + START_SECONDS
        while _alive(pid):
            if time.monotonic() > deadline:
                raise RigError(f"the engine (pid {pid}) did not stop")
            time.sleep(0.1)
        _network_down()
        shutil.rmtree(RUN, ignore_errors=True)
        return True
