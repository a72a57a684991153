# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The main job with the store on a server: declare, enrol, seal, deliver, start; and no value or password in clear."""

from __future__ import annotations

import secrets
from pathlib import Path

from tests.integration.playbook import ControlNode, declare, install, mount
from tests.integration.stores.places import ServerPlace
from tests.markers import Markers
from tests.rig.databases import PASSWORD
from tests.rig.host import ThrowawayHost


class _Control(ControlNode):
    place: ServerPlace

    def environment(self) -> dict[str, str]:
        return {
            **super().environment(),
            "HOSTSEAL_STORE": self.place.url,
            "HOSTSEAL_STORE_PASSWORD_FILE": str(self.place.server.password_file),
        }


def test_main_job(host: ThrowawayHost, place: ServerPlace, tmp_path: Path) -> None:
    name = place.database.replace("_", "-")
    value = secrets.token_urlsafe(30)
    control = _Control(tmp_path / "control", host)
    control.place = place
    plays = [
        {"hosts": "localhost", "gather_facts": False, "tasks": declare(name, password=value)},
        {
            "hosts": "docker_hosts",
            "gather_facts": False,
            "tasks": [install(name), mount("db", "password", environment=name)],
        },
    ]
    outputs = []
    for changed in (True, False):
        outcome = control.playbook(plays, "-vvv")
        outputs.append(outcome.output)
        assert outcome.results[f"{name}.db"]["changed"] is changed
        assert outcome.results[f"Secrets {name}"]["changed"] is changed
    run = ("docker", "run", "--rm", "-v", f"{name}.db:/run/secrets:ro", "--volume-driver", "hostseal", "busybox")
    assert host.out(*run, "cat", "/run/secrets/password").strip() == value
    with place.store(read_only=True) as store, store.transaction() as transaction:
        [receipt] = transaction.receipts(name)
        assert (receipt.host, receipt.secrets) == (host.name, [{"name": "password", "version": 1}])
        assert [record.action for record in transaction.audit()].count("mount.delivered") == 1
    assert not control.store.exists()
    hunted = Markers({"value": value.encode(), "database password": PASSWORD.encode()})
    for number, output in enumerate(outputs):
        assert not hunted.search_text(output, f"output {number}")
    assert not hunted.search_bytes(place.content(), "database")
