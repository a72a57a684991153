# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A service of systemd that reads a mount."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .conftest import VALUE, AgentHost, eventually

pytestmark = pytest.mark.thorough

# For a machine that has other work.
SECONDS = 120
HOLD = "hostseal-hold@prod.db.service"
UNIT = f"""\
[Unit]
Requires={HOLD}
After={HOLD}
[Service]
Type=exec
User=deploy
ExecStart=/bin/sh -c 'trap "echo again >>/tmp/said" HUP; cat /run/secrets/password >/tmp/said; while :; do sleep 0.2; done'
BindReadOnlyPaths=/var/lib/hostseal/volumes/prod.db:/run/secrets
LoadCredential=password:/var/lib/hostseal/volumes/prod.db/password
[Install]
WantedBy=multi-user.target
"""


@pytest.fixture
def service(agent: AgentHost) -> Iterator[AgentHost]:
    """The host with a service that runs."""
    agent.deliver(VALUE)
    agent.host.run(["tee", "/etc/systemd/system/reader.service"], input=UNIT)
    agent.host.sh("systemctl daemon-reload; systemctl enable --now reader")
    yield agent
    agent.host.sh("systemctl disable --now reader; systemctl reset-failed; rm -f /tmp/said")


def main_process(agent: AgentHost) -> str:
    return agent.host.out("systemctl", "show", "--property=MainPID", "--value", "reader")


def read(agent: AgentHost, path: str = "/run/secrets/password") -> str:
    """What the service sees now."""
    return agent.host.out("nsenter", "--target", main_process(agent), "--mount", "cat", path)


def said(agent: AgentHost) -> str:
    return agent.host.run(["cat", "/tmp/said"], check=False).stdout


def test_a_service_reads_and_shares_a_mount(service: AgentHost) -> None:
    eventually(lambda: said(service) == VALUE, SECONDS)
    assert read(service, "/run/credentials/reader.service/password") == VALUE
    assert service.mount_status()["held_for_services"]
    service.start("beside")
    service.remove("beside")
    assert read(service) == VALUE
    before = main_process(service)
    service.host.sh("systemctl restart hostseald hostseald.socket")
    assert (main_process(service), read(service)) == (before, VALUE)
    service.host.sh("systemctl restart reader")
    assert read(service) == VALUE
    service.host.sh("systemctl stop reader")
    eventually(lambda: not service.live_files(), SECONDS)
    assert not service.mount_status()["held_for_services"]


def test_changes_reach_a_service(service: AgentHost) -> None:
    eventually(lambda: said(service), SECONDS)
    before = main_process(service)
    service.deliver("second", change_mode="signal", change_signal="SIGHUP")
    assert read(service) == "second"
    eventually(lambda: "again" in said(service), SECONDS)
    assert main_process(service) == before
    service.deliver("third", change_mode="restart")
    eventually(lambda: said(service) == "third", SECONDS)
    assert main_process(service) != before
    assert read(service, "/run/credentials/reader.service/password") == "third"
    assert service.mount_status()["last_change"]["containers"] == [HOLD]


def test_a_service_without_its_mount_does_not_start(service: AgentHost) -> None:
    service.host.sh("systemctl stop reader; systemctl stop hostseald")
    service.ask("DELETE", "/v1/mounts/prod.db")
    assert service.host.run(["systemctl", "start", "reader"], check=False).returncode
    assert "deliver it with" in service.host.out("journalctl", "--unit", HOLD, "--lines=20")
    service.deliver(VALUE)
    service.host.sh("systemctl start reader")
    assert read(service) == VALUE


def test_a_service_is_there_again_after_a_boot(service: AgentHost) -> None:
    for again in (service.host.reboot, service.host.power_cut):
        again()
        eventually(lambda: service.host.run(["systemctl", "is-active", "reader"], check=False).returncode == 0, SECONDS)
        assert read(service) == VALUE
        assert service.mount_status()["held_for_services"]


def test_a_mount_is_taken_away_from_a_service(service: AgentHost) -> None:
    eventually(lambda: said(service), SECONDS)
    service.ask("DELETE", "/v1/mounts/prod.db")
    assert service.host.run(["cat", "/var/lib/hostseal/volumes/prod.db/password"], check=False).returncode
    service.host.sh("systemctl stop reader")
    assert service.host.out("systemctl", "list-units", "--failed", "--plain", "--no-legend") == ""
    assert not service.live_files()
