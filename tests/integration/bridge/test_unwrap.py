# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What applications run, as a process, against a real server."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.bridge.conftest import proxy_before
from tests.rig.fault_proxy import Rule
from tests.rig.openbao import OpenBao

PROGRAM = Path(__file__).parents[3] / "roles/host_agent/files/hostseal_unwrap.py"


class Container:
    """A container's files, and the agent's end of its socket."""

    def __init__(self, folder: Path, bao: OpenBao) -> None:
        self.folder = folder
        self.bao = bao
        self.agent = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.agent.bind(str(folder / "..report"))
        client = bao.client()
        client.write_data("auth/token/roles/prod.web", data={"allowed_policies": ["app-web"], "orphan": True})

    def wrapped(self, role: str = "prod.web") -> str:
        reply = self.bao.client().adapter.post(
            f"/v1/auth/token/create/{role}", json={}, headers={"X-Vault-Wrap-TTL": "60s"}
        )
        return str(reply["wrap_info"]["token"])

    def put(self, token: str) -> None:
        (self.folder / "vault-token").write_text(token + "\n")

    def unwrap(self, *options: str, address: str | None = None) -> subprocess.CompletedProcess[str]:
        place = ["--file", str(self.folder / "vault-token"), "--address", address or self.bao.url]
        command = [sys.executable, "-I", str(PROGRAM), "prod.web", *place, "--ca-cert", self.bao.ca_cert, *options]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    def report(self) -> bytes | None:
        try:
            return self.agent.recv(64)
        except BlockingIOError:
            return None


@pytest.fixture
def container(bao: OpenBao, tmp_path: Path) -> Iterator[Container]:
    made = Container(tmp_path, bao)
    yield made
    made.agent.close()


def test_it_waits_and_unwraps_once(container: Container, bao: OpenBao) -> None:
    timer = threading.Timer(1, container.put, [container.wrapped()])
    timer.start()
    output = container.folder / "token"
    done = container.unwrap("--output", str(output), "--wait", "60")
    timer.join()
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert stat.S_IMODE(output.stat().st_mode) == 0o600
    assert bao.client(token=output.read_text()).read("app/web")
    assert container.report() is None
    again = container.unwrap()
    assert (again.returncode, again.stdout) == (3, "")
    assert "was used already, or has expired" in again.stderr
    assert container.report() == b"used"


def test_it_prints(container: Container, bao: OpenBao) -> None:
    container.put(container.wrapped())
    done = container.unwrap()
    assert bao.client(token=done.stdout.strip()).read("app/web")


def test_a_token_of_another_request(container: Container, bao: OpenBao) -> None:
    bao.client().write_data("auth/token/roles/prod.other", data={"allowed_policies": ["app-web"]})
    wrapped = container.wrapped("prod.other")
    container.put(wrapped)
    done = container.unwrap()
    assert done.returncode == 4
    assert "auth/token/create/prod.other: somebody has exchanged it" in done.stderr
    assert wrapped not in done.stderr
    assert container.report() == b"foreign"


def test_vault_comes_up_later(container: Container, bao: OpenBao, tmp_path: Path) -> None:
    container.put(container.wrapped())
    folder = tmp_path / "proxy"
    folder.mkdir()
    with proxy_before(bao, folder) as proxy:
        proxy.add(Rule(status=503, errors=["Vault is sealed"], count=None))
        done = container.unwrap("--wait", "1", address=proxy.url)
        assert (done.returncode, container.report()) == (1, None)
        assert "(status 503)" in done.stderr
        proxy.clear()
        proxy.add(Rule(drop="before", count=1))
        assert container.unwrap("--wait", "60", address=proxy.url).returncode == 0


@pytest.mark.parametrize("address", ["http://127.0.0.1:1", "vault", ""])
def test_addresses_that_are_none(container: Container, address: str) -> None:
    assert container.unwrap("--address", address).returncode == 2


def test_a_file_that_never_comes(container: Container) -> None:
    done = container.unwrap("--wait", "0")
    assert done.returncode == 1
    assert "did not appear in time" in done.stderr
