# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Before the agent is installed."""

from __future__ import annotations

from pathlib import Path

from tests.integration.agent.conftest import VALUE
from tests.integration.conftest import HostFactory
from tests.integration.playbook import ControlNode, declare, install


def test_a_bare_host_in_check_mode(fresh_host: HostFactory, tmp_path: Path) -> None:
    host = fresh_host(load=())
    host.forget_packages("python3-jwcrypto")
    control = ControlNode(tmp_path, host)
    control.tasks(*declare(password=VALUE), hosts="localhost")
    outcome = control.playbook(
        [{"hosts": "docker_hosts", "gather_facts": False, "tasks": [install()]}], "--check", "--diff"
    )
    assert "hostseald.service" in outcome.output
    assert not host.run(["ls", "/etc/hostseal", "/usr/local/lib/hostseal"], check=False).stdout
    assert host.run(["id", "hostseal"], check=False).returncode != 0
