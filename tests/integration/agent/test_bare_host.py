# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Before the agent is installed. The tests of the other files, which come later, install it on the same host."""

from __future__ import annotations

from tests.integration.agent.conftest import VALUE, AgentHost
from tests.integration.playbook import declare, install


def test_a_bare_host_in_check_mode(machine: AgentHost) -> None:
    machine.host.forget_packages("python3-jwcrypto")
    machine.control.tasks(*declare(password=VALUE), hosts="localhost")
    outcome = machine.control.playbook(
        [{"hosts": "docker_hosts", "gather_facts": False, "tasks": [install()]}], "--check", "--diff"
    )
    assert "hostseald.service" in outcome.output
    assert not machine.host.run(["ls", "/etc/hostseal", "/usr/local/lib/hostseal"], check=False).stdout
    assert machine.host.run(["id", "hostseal"], check=False).returncode != 0
