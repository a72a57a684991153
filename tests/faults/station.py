# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The throwaway host that the faults happen to."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ansible_collections.hostseal.secrets.plugins.plugin_utils._zipapp import PACKAGE, agent_sources, build

from tests.integration.playbook import ControlNode, install
from tests.rig.host import ThrowawayHost
from tests.rig.paths import ROOT

ON_HOST = Path(__file__).with_name("on_host")
AGENT = "/usr/local/lib/hostseal/hostseald.pyz"
PYTHONPATH = f"/srv/faults:{AGENT}"


class Station:
    """HOST with the agent as the role installs it, strace, and the part of this package that runs there."""

    def __init__(self, host: ThrowawayHost) -> None:
        self.host = host

    def install(self) -> Station:
        """Install the agent and what else is needed."""
        with tempfile.TemporaryDirectory() as folder:
            ControlNode(Path(folder), self.host).tasks(install(hostseal_environments=[]))
        self.host.sh(
            "command -v strace >/dev/null || { apt-get update -qq; "
            "DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends strace; } >/dev/null 2>&1"
        )
        return self.copy()

    def copy(self) -> Station:
        """Bring this package's part to the host."""
        content = io.BytesIO()
        with tarfile.open(fileobj=content, mode="w") as archive:
            for file in sorted(ON_HOST.glob("*.py")):
                archive.add(file, f"on_host/{file.name}")
        self.host.sh("mkdir -p /srv/faults")
        self.host.run(["tar", "-x", "-C", "/srv/faults"], input=content.getvalue())
        return self

    def replace_agent(self, changes: dict[str, list[tuple[str, str]]]) -> None:
        """Put an agent there whose sources are changed: file name to pieces of text and what comes instead of them."""
        sources = agent_sources(ROOT)
        for name, pieces in changes.items():
            text = sources[f"{PACKAGE}/{name}"].decode()
            for old, new in pieces:
                if text.count(old) != 1:
                    raise ValueError(f"{name} has no such place any more: {old}")
                text = text.replace(old, new)
            sources[f"{PACKAGE}/{name}"] = text.encode()
        self.host.run(["tee", AGENT], input=build(sources))
        self.host.sh("systemctl restart hostseald")

    @contextlib.contextmanager
    def begin(self, fault: str, seed: int, **arguments: Any) -> Iterator[Iterator[dict[str, Any]]]:
        """Run a fault on the host; its lines as they come. It is ended with the block."""
        command = ["docker", "-H", self.host.engine.address, "exec", "--interactive", self.host.container]
        program = ["env", f"PYTHONPATH={PYTHONPATH}", "PYTHONDONTWRITEBYTECODE=1", "python3", "-m", "on_host"]
        with subprocess.Popen(
            [*command, *program, fault, str(seed), json.dumps(arguments)],
            stdin=subprocess.PIPE,  # the other side ends when it is closed
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout
            try:
                yield (json.loads(line) for line in process.stdout)
            finally:
                process.kill()

    def run(self, fault: str, seed: int, say: Callable[[str], None], **arguments: Any) -> dict[str, Any]:
        """Run a fault to its end; its result."""
        with self.begin(fault, seed, **arguments) as lines:
            for line in lines:
                if "result" in line:
                    result: dict[str, Any] = line["result"]
                    return result
                say(line["progress"])
        return {"fault": fault, "violations": ["the harness on the host ended without a result"]}
