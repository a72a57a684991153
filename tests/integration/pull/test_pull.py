# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pull mode on a real host: the timer fetches from a static HTTPS server, and nothing reaches the host otherwise."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.agent.conftest import AgentHost, eventually
from tests.integration.playbook import ControlNode, declare, install
from tests.rig import certificates
from tests.rig.engine import Engine
from tests.rig.host import ThrowawayHost
from tests.rig.web import Instead, WebServer

pytestmark = pytest.mark.thorough

SECONDS = 90


class Fleet:
    """One host of it, and the directory that is published."""

    def __init__(self, machine: AgentHost, web: WebServer) -> None:
        self.machine = machine
        self.web = web
        self.control = machine.control

    def seal(self, *arguments: str, mounts: tuple[str, ...] = ("db",), **options: Any) -> dict[str, Any]:
        """On the control node alone; the module's result."""
        listed = [{"name": name, "secrets": [{"source": "password_db", "target": "password"}]} for name in mounts]
        task = {
            "environment": "prod",
            "hosts": [self.machine.host.name],
            "mounts": listed,
            "publish_to": str(self.web.root),
            **options,
        }
        play = {"hosts": "localhost", "gather_facts": False, "tasks": [{"name": "Seal", "hostseal.secrets.seal": task}]}
        return self.control.playbook([play], *arguments).results["Seal"]

    def info(self, **options: Any) -> dict[str, Any]:
        return self.control.tasks({"name": "Info", "hostseal.secrets.agent_info": options}).results["Info"]

    def secret(self) -> dict[str, Any]:
        task = {"name": "Secrets", "hostseal.secrets.secret_info": {"environment": "prod", "names": ["password_db"]}}
        found: dict[str, Any] = self.control.tasks(task, hosts="localhost").results["Secrets"]["secrets"][0]
        return found


@pytest.fixture(scope="module")
def fleet(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A host that fetches every other second, with a client certificate; and a mount that is published for it."""
    folder = Path(tmp_path_factory.mktemp("pull"))
    (folder / "web").mkdir()
    gateway = engine.text("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}").strip()
    host = ThrowawayHost(engine, f"t{os.getpid()}-pull")
    try:
        with WebServer(folder / "web", folder, gateway, clients=True) as web:
            host.start(load=("busybox",))
            identity = certificates.issue(web.authority, folder, "client", host.name, client=True)
            for path in (identity.cert, identity.key):
                host.run(["sh", "-c", f"umask 077; cat > /etc/{path.name}"], input=path.read_bytes())
            control = ControlNode(folder / "control", host)
            made = Fleet(AgentHost(host, control), web)
            control.tasks(*declare(password_db="first"), hosts="localhost")
            role = install(
                hostseal_pull_url=web.url,
                hostseal_pull_ca=web.authority.cert.read_text(),
                hostseal_pull_client_cert=f"/etc/{identity.cert.name}",
                hostseal_pull_client_key=f"/etc/{identity.key.name}",
                hostseal_pull_interval=2,
            )
            control.tasks(role)
            yield made
    finally:
        host.remove()


def test_a_host_that_nothing_reaches_has_its_secrets(fleet: Fleet) -> None:
    machine, name = fleet.machine, fleet.machine.host.name
    # Check mode says it all and does nothing.
    predicted = fleet.seal("--check", "--diff")
    assert predicted["changed"]
    assert f"prod.db published for {name}" in predicted["diff"]["after"]
    assert list(fleet.web.root.iterdir()) == []
    done = fleet.seal()
    assert done["published"] == predicted["published"]
    assert done["published"] == [{"host": name, "environment": "prod", "added": ["prod.db"], "removed": []}]
    assert not fleet.seal()["changed"]
    assert [place["host"] for place in fleet.secret()["published"]] == [name]
    assert fleet.secret()["delivered"] == []

    eventually(lambda: machine.ask("GET", "/v1/status")["mounts"], SECONDS)
    container = machine.start("app")
    assert machine.read(container) == "first"
    fleet.web.take_seen()
    eventually(lambda: (f"{name}/prod/manifest", 304) in fleet.web.seen, SECONDS)

    # What the host says becomes what the store knows.
    info = fleet.info(receipts=True)
    assert info["recorded"] == ["prod.db"]
    assert [problem for problem in info["problems"] if "fetch" in problem or "manifest" in problem] == []
    assert fleet.secret()["published"] == []
    assert [(place["host"], place["version"]) for place in fleet.secret()["delivered"]] == [(name, 1)]

    # New bytes come to the running container.
    fleet.control.tasks(*declare(password_db="second"), hosts="localhost")
    fleet.seal()
    eventually(lambda: machine.read(container) == "second", SECONDS)

    # The server is away: what is here stays, and it is told.
    fleet.web.instead["manifest"] = Instead(503)
    eventually(lambda: "it can't answer now" in " ".join(fleet.info()["problems"]), SECONDS)
    assert machine.read(container) == "second"
    fleet.web.instead.clear()

    # Taken away by a manifest that does not name it. A person need not wait for the timer.
    gone = fleet.seal(mounts=("db",), state="absent")
    assert gone["published"] == [{"host": name, "environment": "prod", "added": [], "removed": ["prod.db"]}]
    assert not fleet.seal(mounts=("db",), state="absent")["changed"]
    machine.host.run(["systemctl", "start", "hostseal-fetch"])
    eventually(lambda: machine.live_files() == ["/run/hostseal/volumes/prod.db"], SECONDS)
    assert fleet.info(receipts=True)["recorded"] == ["prod.db"]
    assert fleet.secret()["delivered"] == []
    machine.remove(container)


def test_the_fetcher_has_no_key_and_few_rights(fleet: Fleet) -> None:
    host = fleet.machine.host
    score = host.out("systemd-analyze", "security", "hostseal-fetch", "--no-pager")
    found = re.search(r"exposure level for hostseal-fetch.service: ([0-9.]+)", score)
    assert found
    assert float(found[1]) <= 2.0
    unit = host.out("systemctl", "cat", "hostseal-fetch")
    assert re.findall(r"^LoadCredential=(\S+?):", unit, re.MULTILINE) == [
        "fetch.json",
        "fetch-ca.pem",
        "fetch-client.pem",
        "fetch-client.key",
    ]
    assert (
        host.out("stat", "--format=%A %U %G", "/run/hostseal/fetch/agent.sock") == "srw-rw---- hostseal hostseal-fetch"
    )
    # Its user may talk to that socket alone.
    for path in ("/run/hostseal/agent.sock", "/run/docker/plugins/hostseal.sock", "/run/docker.sock"):
        script = f"import socket; socket.socket(socket.AF_UNIX).connect({path!r})"
        done = host.run(["python3", "-c", script], user="hostseal-fetch", check=False)
        assert "PermissionError" in done.stderr
    settings = json.loads(host.out("cat", "/etc/hostseal/fetch.json"))
    assert settings == {"url": fleet.web.url, "interval": 2}
