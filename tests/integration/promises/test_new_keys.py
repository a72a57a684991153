# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An environment that goes from a local key to Vault and back, on real hosts: containers start at every step."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils._envelope import read_key_set
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _migrating
from ansible_collections.hostseal.secrets.plugins.plugin_utils._records import Environment
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store

from tests.integration.agent.conftest import AgentHost, eventually
from tests.integration.conftest import HostFactory
from tests.integration.playbook import ControlNode, Outcome, mount
from tests.integration.vault.connection import Transit
from tests.rig.openbao import OpenBao

ENGINE = "transit"


class Site(ControlNode):
    """A control node that has the hosts' variables and may log in to Vault."""

    vault: dict[str, str]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), **self.vault}

    def declare(self, environment: Any, value: str) -> None:
        """What the inventory says from now on."""
        variables = {
            "hostseal_environments": [environment],
            "hostseal_secrets": [
                {"environment": "prod", "name": "password", "value": value, "on_difference": "rotate"}
            ],
            "hostseal_mounts": [{"environment": "prod", "name": "db", "secrets": [{"source": "password"}]}],
        }
        (self.directory / "group_vars").mkdir(exist_ok=True)
        (self.directory / "group_vars/docker_hosts.json").write_text(json.dumps(variables), encoding="utf-8")

    def import_playbook(self, name: str, check: bool = True) -> Outcome:
        return self.playbook([{"ansible.builtin.import_playbook": f"hostseal.secrets.{name}"}], check=check)

    def state(self) -> tuple[Environment, _migrating.Rollover]:
        with Store(str(self.store), False) as store, store.transaction() as transaction:
            record = transaction.environment("prod")
            return record, _migrating.rollover(transaction, record)


@pytest.fixture
def bao() -> Iterator[OpenBao]:
    with OpenBao() as server:
        yield server


def reads(host: AgentHost) -> str:
    """What the running container sees; one started now and one that is started again see the same."""
    value = host.read("reader")
    host.docker("restart", "--time", "0", "reader")
    assert host.read("reader") == value
    place = ("-v", "prod.db:/run/secrets:ro", "--volume-driver", "hostseal")
    assert host.docker("run", "--rm", *place, "busybox", "cat", "/run/secrets/password").stdout == value
    return value


def kids(host: AgentHost) -> set[str]:
    """The keys that the host accepts; its mount is good under them."""
    assert host.mount_status()["valid"]
    return set(host.ask("GET", "/v1/status")["environments"]["prod"]["kids"])


@pytest.mark.thorough
def test_to_vault_and_back(fresh_host: HostFactory, bao: OpenBao, tmp_path: Any) -> None:
    machines = [fresh_host(), fresh_host()]
    control = Site(tmp_path, *machines)
    here, away = (AgentHost(machine, control) for machine in machines)
    transit = Transit(bao, ENGINE)
    token = transit.token("writer", "deployer")
    control.vault = {"VAULT_ADDR": bao.url, "VAULT_CACERT": bao.ca_cert, "VAULT_TOKEN": token}
    control.declare("prod", "first")
    control.import_playbook("site")
    for host in (here, away):
        host.start("reader", "--restart", "always")
    old = control.state()[0].signing_kid
    assert (kids(here), kids(away)) == ({old}, {old})

    # One host is off. The other gets its mount under the new key, and the old one is not retired.
    away.host.engine.docker("kill", away.host.container)
    control.declare({"name": "prod", "backend": "vault", "engine_mount_point": ENGINE}, "second")
    outcome = control.import_playbook("migrate", check=False)
    record, rollover = control.state()
    assert record.backend == "vault", outcome.output
    assert rollover.retiring == (old,)
    assert rollover.behind == (
        f"host {away.host.name!r} has not pinned the new key",
        f"host {away.host.name!r} has mount 'db' under the old key",
    )
    assert outcome.rc == 4  # a host is unreachable
    assert f"host '{away.host.name}' has mount 'db' under the old key" in outcome.output
    assert kids(here) == {record.signing_kid, old}
    assert reads(here) == "second"

    # It comes back: what it has is good, with nobody's help. Then it is brought along.
    away.host.power_on()
    eventually(lambda: away.docker("inspect", "-f", "{{.State.Running}}", "reader").stdout == "true\n", 60)
    assert reads(away) == "first"
    control.import_playbook("migrate")
    after, rollover = control.state()
    assert (rollover.retiring, rollover.behind) == ((), ())
    assert [key.thumbprint() for key in read_key_set(after.key_set, None).keys] == [record.signing_kid]
    assert reads(away) == reads(here) == "second"
    # The playbook's last delivery has taken the retired key from the hosts.
    delivery = mount("db")
    assert not control.tasks(delivery).results["prod.db"]["changed"]
    assert kids(here) == kids(away) == {record.signing_kid}
    info = control.tasks({"name": "Info", "hostseal.secrets.agent_info": {}}).results["Info"]
    assert info["environments"]["prod"]["kids"] == [record.signing_kid]

    # Back again, with both hosts there. Then there is neither Vault nor control node.
    migrate = {"name": "Migrate", "hostseal.secrets.environment": {"name": "prod", "migrate": True}, "run_once": True}
    outcome = control.tasks(migrate, delivery, {**migrate, "name": "Retire"})
    assert len(outcome.results["Migrate"]["environment"]["behind"]) == 4
    assert outcome.results["prod.db"]["pinned"] == ["prod"]
    assert (outcome.results["Retire"]["changed"], outcome.results["Retire"]["environment"]["behind"]) == (True, [])
    back = control.state()[0]
    assert (back.backend, back.signing_kid) == ("localkey", old)
    assert kids(here) == kids(away) == {record.signing_kid, old}
    bao.stop()
    control.store.unlink()
    here.host.power_cut()
    eventually(lambda: here.docker("inspect", "-f", "{{.State.Running}}", "reader").stdout == "true\n", 60)
    assert reads(here) == "second"
    assert here.mount_status()["valid"]
