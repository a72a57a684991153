# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What happens to a host's secrets and key in the course of time, on a real host."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.agent.conftest import VALUE, AgentHost, eventually
from tests.integration.playbook import declare, install, mount

KEY = "/etc/hostseal/host.key"
ROLE = "hostseal.secrets.host_agent : "
INFO = {"name": "Info", "hostseal.secrets.agent_info": {}}


@pytest.fixture(autouse=True)
def nothing_is_left(agent: AgentHost) -> Iterator[None]:
    """Every test ends without containers."""
    yield
    agent.host.sh("docker ps -aq | xargs -r docker rm -f >/dev/null")


def info(agent: AgentHost) -> dict[str, Any]:
    return agent.control.tasks(INFO).results["Info"]


def test_an_expired_mount_is_wiped_under_running_containers(agent: AgentHost) -> None:
    options = {"expires_after": "12s", "on_expiry": "wipe"}
    agent.control.tasks(*declare(brief="brief"), hosts="localhost")
    agent.control.tasks(mount("brief", "brief", **options))
    try:
        name = agent.start("brief", "--restart", "always", volume="prod.brief")
        kept = agent.start("kept")
        assert agent.docker("exec", name, "cat", "/run/secrets/brief").stdout == "brief"
        eventually(lambda: agent.docker("exec", name, "ls", "-A", "/run/secrets").stdout == "")
        assert agent.read(kept) == VALUE
        status = agent.mount_status("prod.brief")
        (line,) = [line for line in agent.audit() if line.get("why") == "its envelope expired"]
        assert line["expires_at"] == status["expires_at"]
        told = info(agent)["problems"]
        assert any("'prod.brief' can't be used: it expired at" in problem for problem in told)
        assert any("of mount 'prod.brief' have no files any more" in problem for problem in told)
        # Nor does it come back with the next boot.
        agent.host.power_cut()
        eventually(lambda: agent.docker("inspect", "-f", "{{.State.Running}}", kept, check=False).returncode == 0)
        assert agent.host.run(["test", "-e", "/run/hostseal/volumes/prod.brief"], check=False).returncode != 0
        # Until somebody delivers it anew, by the same task.
        again = agent.control.tasks(mount("brief", "brief", expires_after="1h", on_expiry="wipe"))
        assert again.results["prod.brief"]["changed"]
        agent.docker("restart", "-t0", name)
        assert agent.docker("exec", name, "cat", "/run/secrets/brief").stdout == "brief"
    finally:
        agent.control.tasks(mount("brief", state="absent", secrets=None))


def kids(agent: AgentHost) -> list[str]:
    told = info(agent)["agent"]
    return [told["kid"], *(key["kid"] for key in told["older_keys"])]


def test_a_host_rotates_its_key(agent: AgentHost) -> None:
    (old,) = kids(agent)
    old_file = agent.host.out("cat", KEY)
    name = agent.start("rotated")
    agent.control.tasks(install(hostseal_rotate_key=True))
    new, still = kids(agent)
    assert still == old
    assert agent.host.out("stat", "-c", "%a %U", KEY) == "600 root"
    assert agent.read(name) == VALUE
    # A container can be started although nothing is sealed to the new key yet, and another run destroys nothing.
    agent.read(agent.start("between"))
    again = agent.control.tasks(install())
    assert all(not result.get("changed") for result in again.results.values()), again.output
    assert kids(agent) == [new, old]
    volume = {"environment": "prod", "name": "db", "secrets": [{"source": "password_db", "target": "password"}]}
    task = {"name": "Deliver", "hostseal.secrets.mount": volume}
    assert agent.control.tasks(task).results["Deliver"]["changed"]
    assert not agent.control.tasks(task).results["Deliver"]["changed"]
    done = agent.control.tasks(install()).results
    assert done[f"{ROLE}Make the host's key pair"]["destroyed_keys"] == [old]
    assert kids(agent) == [new]
    secret = old_file.split('"d":"')[1].split('"')[0]
    for place in ("/etc/hostseal", "/run/credentials", "/var/lib/hostseal"):
        assert agent.host.run(["grep", "-r", secret, place], check=False).returncode == 1
    assert [line["kid"] for line in agent.audit() if line["event"] == "key_destroyed"] == [old]
    assert agent.read(name) == VALUE
    assert agent.read(agent.start("after")) == VALUE
    again = agent.control.tasks(install())
    assert all(not result.get("changed") for result in again.results.values()), again.output


@pytest.mark.thorough
def test_a_rotation_that_was_cut_off_is_finished_by_the_next_run(agent: AgentHost) -> None:
    (old,) = kids(agent)
    rotate = {"name": "Rotate", "hostseal.secrets.host_identity": {"state": "rotated"}}
    assert agent.control.tasks(rotate).results["Rotate"]["restart_needed"]
    assert kids(agent) == [old]  # the agent was not restarted, the host not enrolled
    agent.read(agent.start("unharmed"))
    agent.host.power_cut()
    new, still = kids(agent)
    assert still == old
    agent.control.tasks(install())
    agent.deliver(VALUE)
    assert agent.control.tasks(install()).results[f"{ROLE}Make the host's key pair"]["destroyed_keys"] == [old]
    assert kids(agent) == [new]
    assert agent.read(agent.start("mended")) == VALUE


def test_who_has_only_the_name_is_not_enrolled(agent: AgentHost) -> None:
    """Without the old key there is no proof: a host that was installed anew, or somebody who stands between."""
    before = agent.host.out("cat", KEY)
    agent.host.sh(f"rm {KEY}")
    try:
        outcome = agent.control.tasks(install(), check=False)
        assert "no holder of the former vouches" in outcome.message(f"{ROLE}Enrol the host")
    finally:
        agent.host.run(["sh", "-c", f"cat > {KEY}; systemctl restart hostseald"], input=before + "\n")
        agent.control.tasks(install())
    assert agent.read(agent.start("restored")) == VALUE
