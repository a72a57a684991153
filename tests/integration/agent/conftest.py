# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host with the agent, its environment, and plain docker commands."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.playbook import ControlNode, declare, install, mount
from tests.rig.engine import Engine
from tests.rig.host import ThrowawayHost

VALUE = "old value/+="

# The control API from the host itself; the body comes by stdin.
_CONTROL = """
import http.client, json, socket, sys
class Connection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(sys.argv[1])
connection = Connection("localhost")
connection.request(sys.argv[2], sys.argv[3], body=sys.stdin.buffer.read() or None)
print(connection.getresponse().read().decode())
"""


class AgentHost:
    """HOST with the agent, and the control node that fills it. Mount prod.db holds one file, "password"."""

    def __init__(self, host: ThrowawayHost, control: ControlNode) -> None:
        self.host = host
        self.control = control

    def deliver(self, value: str, name: str = "db", **options: Any) -> None:
        """Give the secret a VALUE and bring it to the host."""
        source = f"password_{name}"
        self.control.tasks(*declare(**{source: value}), hosts="localhost")
        target = {"environment": "prod", "name": name, "secrets": [{"source": source, "target": "password"}], **options}
        self.control.tasks({**mount(name), "hostseal.secrets.mount": target})

    def ask(self, method: str, target: str, body: str = "") -> dict[str, Any]:
        """One request to the agent."""
        done = self.host.run(["python3", "-c", _CONTROL, "/run/hostseal/agent.sock", method, target], input=body)
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def mount_status(self, volume: str = "prod.db") -> dict[str, Any]:
        """What the agent says of one mount."""
        return next(entry for entry in self.ask("GET", "/v1/status")["mounts"] if entry["volume"] == volume)

    def docker(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.host.run(["docker", *arguments], check=check)

    def start(self, name: str, *options: str, command: str = "exec sleep 1000", volume: str = "prod.db") -> str:
        """A container that runs; its name. It ends at once when it is told to."""
        image = "busybox" if "--image" not in options else options[options.index("--image") + 1]
        options = tuple(option for option in options if option not in ("--image", image))
        place = ("-v", f"{volume}:/run/secrets:ro", "--volume-driver", "hostseal")
        self.docker("run", "-d", "--init", "--name", name, *place, *options, image, "sh", "-c", command)
        return name

    def read(self, container: str) -> str:
        """What the container reads."""
        return self.docker("exec", container, "cat", "/run/secrets/password").stdout

    def remove(self, *containers: str) -> None:
        self.docker("rm", "-f", *containers)

    def live_files(self) -> list[str]:
        """All that is on the tmpfs."""
        return self.host.out("find", "/run/hostseal/volumes", "-mindepth", "1").splitlines()

    def with_arguments(self, unit: str, arguments: str) -> None:
        """Run a unit's program with other arguments, until the next call or reboot; with none as it is installed."""
        folder = f"/run/systemd/system/{unit}.service.d"
        command = f"/usr/bin/python3 -I /usr/local/lib/hostseal/hostseald.pyz {arguments}"
        self.host.sh(
            f"mkdir -p {folder}; printf '[Service]\\nExecStart=\\nExecStart={command}\\n' > {folder}/test.conf"
            if arguments
            else f"rm -r {folder}"
        )
        self.host.sh(f"systemctl daemon-reload; systemctl restart {unit}")

    def restart_engine(self, how: str = "restart") -> None:
        """Restart Docker, as often as a test wants: systemd itself allows three times a minute."""
        self.host.sh(f"systemctl reset-failed docker; systemctl {how} docker")
        self.host.wait_ready()

    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.host.out("cat", "/var/log/hostseal/audit.jsonl").splitlines()]


def eventually(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Wait until CONDITION is true; its value."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)
    return result


@pytest.fixture(scope="session")
def machine(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentHost]:
    """A bare host, and a control node with the environment prod and the secret "password"."""
    host = ThrowawayHost(engine, f"t{os.getpid()}-agent")
    try:
        host.start(load=("busybox", "busybox-secrets"))
        control = ControlNode(Path(tmp_path_factory.mktemp("control")), host)
        yield AgentHost(host, control)
    finally:
        host.remove()


@pytest.fixture(scope="session")
def agent(machine: AgentHost) -> AgentHost:
    """The host with the agent installed and prod.db delivered."""
    machine.control.tasks(*declare(password=VALUE), hosts="localhost")
    machine.control.tasks(install())
    machine.deliver(VALUE)
    return machine
