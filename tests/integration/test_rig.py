# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the other integration tests take for granted of a throwaway host."""

from __future__ import annotations

import time

import pytest

from tests.integration.conftest import HostFactory
from tests.rig.engine import Engine
from tests.rig.host import ThrowawayHost, clean_leftovers, listed


def _wait_running(host: ThrowawayHost, name: str) -> None:
    deadline = time.monotonic() + 30
    while host.out("docker", "ps", "--quiet", "--filter", f"name={name}") == "":
        assert time.monotonic() < deadline, f"{name} did not come back"
        time.sleep(0.2)


@pytest.mark.parametrize("outage", ["reboot", "power_cut"])
def test_an_outage_loses_run_keeps_disks_and_containers_come_back(fresh_host: HostFactory, outage: str) -> None:
    host = fresh_host()
    host.sh("touch /run/marker /var/lib/marker")
    host.run(["docker", "run", "--detach", "--init", "--restart=always", "--name=keeper", "busybox", "sleep", "9999"])
    getattr(host, outage)()
    assert host.run(["test", "-e", "/run/marker"], check=False).returncode == 1
    assert host.run(["test", "-e", "/var/lib/marker"], check=False).returncode == 0
    _wait_running(host, "keeper")
    assert host.out("systemctl", "--failed", "--no-legend") == ""


def test_only_hosts_of_dead_processes_are_cleaned(engine: Engine, fresh_host: HostFactory) -> None:
    mine = fresh_host(load=())
    dead = ThrowawayHost(engine, f"{mine.name}-dead")
    dead.owner = "1-0"  # a live process by its number but not by its start time: a killed run's, taken since
    by_hand = ThrowawayHost(engine, f"{mine.name}-by-hand", owned=False)
    try:
        dead.start(load=())
        by_hand.start(load=())
        removed = clean_leftovers(engine)
        left = [row[0] for row in listed(engine)]
    finally:
        dead.remove()
        by_hand.remove()
    assert dead.name in removed
    assert mine.name not in removed
    assert {mine.name, by_hand.name} <= set(left)
    assert dead.name not in left
