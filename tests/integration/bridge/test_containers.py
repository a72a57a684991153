# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Containers on a real host that fetch their secret from a real server with a token of their own, and those who steal it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.agent.conftest import _CONTROL, AgentHost, eventually
from tests.integration.bridge.conftest import SECRET, bridge_task, proxy_before
from tests.integration.playbook import ControlNode, declare, install
from tests.rig.engine import Engine
from tests.rig.fault_proxy import FaultProxy, Rule
from tests.rig.host import ThrowawayHost
from tests.rig.openbao import OpenBao

# What an application does; its secret goes to its log for the test to see.
APPLICATION = """\
import json, os, ssl, sys, urllib.request
token = open("/dev/shm/token").read()
request = urllib.request.Request(os.environ["VAULT_ADDR"] + "/v1/app/web", headers={"X-Vault-Token": token})
context = ssl.create_default_context(cafile=os.environ["VAULT_CACERT"])
print("read:", json.load(urllib.request.urlopen(request, context=context))["data"]["value"], flush=True)
"""
UNWRAP = "python3 -I /usr/local/lib/hostseal/hostseal-unwrap prod.web --output /dev/shm/token"
START = f"{UNWRAP} && python3 -I /usr/local/lib/application.py; echo status $?; exec sleep 1000"
# Busybox with the host's Python.
PYTHON = [part for name in ("/usr:/usr", "/usr/lib:/lib", "/usr/lib64:/lib64") for part in ("-v", f"{name}:ro")]
CA = "/usr/local/lib/ca.pem"


class Site(AgentHost):
    """A host whose containers may have tokens for the mounts web, brief and boot."""

    def __init__(self, host: ThrowawayHost, control: ControlNode, bao: OpenBao, proxy: FaultProxy) -> None:
        super().__init__(host, control)
        self.bao = bao
        self.proxy = proxy

    def role(self) -> dict[str, Any]:
        """The role's task."""
        return install(
            hostseal_bridge_address=self.proxy.url,
            hostseal_bridge_ca=Path(self.bao.ca_cert).read_text(),
            hostseal_alert_command=["/usr/bin/logger", "--tag", "hook"],
        )

    def application(self, name: str, *options: str, command: str = START, volume: str = "prod.web") -> str:
        """A container that reads its secret, when it can."""
        around = ["--network", "host", "-e", f"VAULT_ADDR={self.proxy.url}", "-e", f"VAULT_CACERT={CA}", *PYTHON]
        return self.start(name, *around, *options, command=command, volume=volume)

    def refused(self, *options: str, volume: str = "prod.web") -> str:
        """Why a container can't be started."""
        place = ("-v", f"{volume}:/run/secrets:ro", "--volume-driver", "hostseal")
        done = self.docker("run", "--rm", "--name", "refused", *place, *options, "busybox", "true", check=False)
        self.docker("rm", "-f", "refused", check=False)
        assert done.returncode == 125, done
        return done.stderr

    def log(self, container: str, words: str) -> str:
        """The log of a container as soon as it has WORDS."""

        def look() -> str:
            done = self.docker("logs", container)
            return done.stdout + done.stderr if words in done.stdout + done.stderr else ""

        return str(eventually(look, 90))

    def events(self, event: str, volume: str) -> list[dict[str, Any]]:
        return [line for line in self.audit() if line["event"] == event and line.get("volume") == volume]

    def alerts(self, volume: str) -> list[str]:
        return [line["what"] for line in self.events("alert", volume)]

    def lookup(self, accessor: str) -> bool:
        """Whether a token is alive."""
        reply = self.bao.client().adapter.post(
            "/v1/auth/token/lookup-accessor", json={"accessor": accessor}, raise_exception=False
        )
        return isinstance(reply, dict) and "data" in reply


@pytest.fixture(scope="module")
def site(engine: Engine, bao: OpenBao, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    host = ThrowawayHost(engine, f"t{os.getpid()}-bridge")
    try:
        host.start(load=("busybox",))
        with proxy_before(bao, Path(tmp_path_factory.mktemp("proxy")), engine.gateway()) as proxy:
            made = Site(host, ControlNode(Path(tmp_path_factory.mktemp("control")), host), bao, proxy)
            made.control.tasks(*declare(password="sealed"), hosts="localhost")
            installed = made.control.tasks(made.role())
            [known] = [result for task, result in installed.results.items() if "bridge's public key" in task]
            public_key = known["ansible_facts"]["hostseal_bridge_public_key"]
            bridge = bridge_task(bao, host.name, public_key, ["web", "brief", "boot"])
            made.control.tasks({**bridge, "delegate_to": "localhost"}, mounts())
            made.host.run(["tee", "/usr/local/lib/application.py"], input=APPLICATION)
            made.host.run(["tee", CA], input=Path(bao.ca_cert).read_text())
            yield made
    finally:
        host.remove()


def mounts() -> dict[str, Any]:
    token = {"vault_token": {"role": "web"}}
    brief = {"vault_token": {"role": "web", "wrap_ttl": "5s"}}
    listed = [
        {"name": "web", "secrets": [token, {"source": "password"}], "match": {"image": "busybox"}},
        {"name": "brief", "secrets": [brief], "match": {"labels": {"tier": "front"}}},
        {"name": "boot", "secrets": [token], "while_booting": "wait"},
        {"name": "plain", "secrets": [{"source": "password"}]},
    ]
    return {"name": "Mounts", "hostseal.secrets.mount": {"environment": "prod", "mounts": listed}}


@pytest.fixture(autouse=True)
def nothing_is_left(site: Site) -> Iterator[None]:
    """Every test ends without containers, and then without secrets in memory."""
    yield
    site.proxy.clear()
    site.host.sh("docker ps -aq | xargs -r docker rm -f >/dev/null")
    eventually(lambda: site.live_files() == ["/run/hostseal/volumes/.tokens"] or not site.live_files())


def test_an_application_fetches_its_secret(site: Site) -> None:
    mark = site.bao.mark()
    name = site.application("app")
    assert f"read: {SECRET}\nstatus 0" in site.log(name, "status")
    wrapped = site.docker("exec", name, "cat", "/run/secrets/vault-token").stdout
    assert site.docker("exec", name, "cat", "/run/secrets/password").stdout == "sealed"
    site.docker("cp", f"{name}:/bin/busybox", "/tmp/x")
    assert site.docker("exec", name, "cat", "/run/secrets/vault-token").stdout == wrapped
    made = [one for one in site.bao.requests(since=mark) if one["request"]["path"] == "auth/token/create/prod.web"]
    assert len(made) == 1
    (started,) = site.events("mount", "prod.web")[:1]
    assert (started["container"], started["secrets"]) == ("app", [{"name": "password", "version": 1}])
    told = site.docker("inspect", name).stdout + site.host.out("journalctl", "--no-pager")
    assert wrapped not in told + site.host.out("cat", "/var/log/hostseal/audit.jsonl")

    # The end of the container is the end of its token; a restart gets another one.
    site.docker("restart", "-t", "0", name)
    eventually(lambda: site.log(name, "status").count(f"read: {SECRET}") == 2)
    site.remove(name)
    accessors = [
        line["accessor"]
        for line in eventually(
            lambda: site.events("token_end", "prod.web")[1:] and site.events("token_end", "prod.web")
        )
    ]
    assert len(set(accessors)) == 2
    assert not any(map(site.lookup, accessors))
    assert site.alerts("prod.web") == []


def test_a_stolen_token_shows(site: Site) -> None:
    command = f"while ! [ -e /tmp/go ]; do sleep 0.1; done; {START}"
    name = site.application("victim", command=command)
    stolen = site.docker("exec", name, "cat", "/run/secrets/vault-token").stdout
    accessor = site.bao.client(token=stolen).sys.unwrap()["auth"]["accessor"]
    assert site.lookup(accessor)
    site.docker("exec", name, "touch", "/tmp/go")
    assert "the wrapped token was used already, or has expired" in site.log(name, "status 3")
    alert = eventually(lambda: [one for one in site.events("alert", "prod.web") if one.get("container") == "victim"])[0]
    assert (alert["what"], alert["accessor"]) == ("used", accessor)
    hook = ("journalctl", "--no-pager", "-o", "cat", "-t", "hook")
    eventually(lambda: accessor in [json.loads(line).get("accessor") for line in site.host.out(*hook).splitlines()], 40)
    assert site.host.out("stat", "-c", "%a %U", "/etc/hostseal/alerts.json").strip() == "600 root"
    site.remove(name)
    eventually(lambda: not site.lookup(accessor))


def test_a_token_that_was_exchanged_shows(site: Site) -> None:
    wrapped = site.bao.client().adapter.post(
        "/v1/sys/wrapping/wrap", json={"client_token": "x"}, headers={"X-Vault-Wrap-TTL": "60s"}
    )["wrap_info"]["token"]
    faked = f"echo {wrapped} > /tmp/vault-token; ln -s /run/secrets/..report /tmp/..report"
    command = f"{faked}; {UNWRAP} --file /tmp/vault-token; echo status $?; exec sleep 1000"
    site.application("exchanged", command=command)
    assert "sys/wrapping/wrap: somebody has exchanged it" in site.log("exchanged", "status 4")
    eventually(lambda: site.alerts("prod.web")[-1:] == ["foreign"])


def test_an_unused_token_shows(site: Site) -> None:
    site.start("idle", "--label", "tier=front", volume="prod.brief")
    eventually(lambda: site.alerts("prod.brief") == ["unused"], 40)


def test_starts_that_are_not_genuine(site: Site) -> None:
    name = site.start("one", volume="prod.web")
    token = site.docker("exec", name, "cat", "/run/secrets/vault-token").stdout
    # A second container, and a forged request of whoever can open the plugin's socket.
    assert "each of its tokens is for one container alone" in site.refused()
    forged = json.dumps({"Name": "prod.web", "ID": "f" * 64})
    place = "/run/docker/plugins/hostseal.sock"
    done = site.host.run(["python3", "-c", _CONTROL, place, "POST", "/VolumeDriver.Mount"], input=forged)
    assert "is refused" in done.stdout
    assert site.docker("exec", name, "cat", "/run/secrets/vault-token").stdout == token
    assert site.alerts("prod.web")[-2:] == ["several", "several"]
    site.docker("stop", "-t", "0", name)
    assert "2 containers that it could be for (one, refused)" in site.refused()
    site.remove(name)
    assert "its label 'tier' is not 'front'" in site.refused(volume="prod.brief")
    site.host.sh("docker tag busybox other")
    place = ("-v", "prod.web:/run/secrets:ro", "--volume-driver", "hostseal")
    done = site.docker("run", "--rm", *place, "other", "true", check=False)
    assert "its image is 'other', not 'busybox'" in done.stderr


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (Rule(status=503, errors=["Vault is sealed"]), "it is sealed"),
        (Rule(drop="before"), "can't be reached"),
        (Rule(delay=12), "did not answer in time"),
    ],
)
def test_what_a_start_says_of_vault(site: Site, rule: Rule, words: str) -> None:
    site.proxy.add(rule)
    assert words in site.refused()
    plain = ("-v", "prod.plain:/run/secrets:ro", "--volume-driver", "hostseal")
    assert site.docker("run", "--rm", *plain, "busybox", "cat", "/run/secrets/password").stdout == "sealed"


def test_who_may_have_what(site: Site) -> None:
    again = site.control.tasks(site.role())
    assert all(not result.get("changed") for result in again.results.values()), again.output
    assert site.host.out("stat", "-c", "%U %a", "/etc/hostseal/bridge.key") == "root 600"
    assert site.host.out("stat", "-c", "%U %a", "/run/hostseal/bridge.sock") == "hostseal 600"
    assert "docker" not in site.host.out("id", "-nG", "hostseal-bridge").split()
    exposure = site.host.out("systemd-analyze", "security", "--no-pager", "hostseal-bridge", "hostseal-alert")
    numbers = [float(line.split(": ")[1].split()[0]) for line in exposure.splitlines() if "Overall exposure" in line]
    assert len(numbers) == 2
    assert max(numbers) <= 1.5
    site.host.sh("systemctl start hostseal-bridge")
    pid = site.host.out("systemctl", "show", "-p", "MainPID", "--value", "hostseal-bridge")
    for path in ("/etc/hostseal/host.json", "/run/hostseal/agent.sock", "/run/docker.sock", "/run/hostseal/volumes"):
        site.host.sh(f"! nsenter -t {pid} -m setpriv --reuid hostseal-bridge --clear-groups test -r {path}")


def test_a_reboot(site: Site) -> None:
    site.application("booted", "--restart", "always", volume="prod.boot")
    site.log("booted", "status 0")
    site.host.reboot()
    shown = eventually(lambda: site.events("shown", "prod.boot"), 60)
    assert shown[0]["container"] == "booted"
    eventually(lambda: site.log("booted", "status").count(f"read: {SECRET}") == 2, 60)
    assert [line.get("waiting") for line in site.events("mount", "prod.boot")] == [None, True]


def test_a_retired_host(site: Site) -> None:
    retired = bridge_task(site.bao, site.host.name, None, [], state="absent")
    retired["hostseal.secrets.vault_bridge"]["hosts"] = [{"name": site.host.name}]
    for option in ("roles", "environment"):
        del retired["hostseal.secrets.vault_bridge"][option]
    site.control.tasks(retired, hosts="localhost")
    assert "(status 403): this host's key, mount or role is not among what it trusts (retired?)" in site.refused()
