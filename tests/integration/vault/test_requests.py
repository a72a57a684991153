# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How many requests real runs make, by the server's own audit log."""

from __future__ import annotations

import collections
import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.integration.control.conftest import Control, task
from tests.integration.vault.connection import Transit, as_json, defaults, store_bytes
from tests.rig.openbao import OpenBao

SECRETS = 10_000
HOSTS = 100
MOUNTS = 5


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path)


@pytest.fixture
def transit(bao: OpenBao, mount: str) -> Transit:
    return Transit(bao, mount)


def _login(transit: Transit) -> dict[str, Any]:
    """Options of somebody with an AppRole of his own."""
    auth, role_id, secret_id = transit.bao.enable_approle(transit.mount, transit.policies(), mount=transit.mount)
    login = {"auth_method": "approle", "mount_point": auth, "role_id": role_id, "secret_id": secret_id}
    return {"url": transit.bao.url, "ca_cert": transit.bao.ca_cert, **login}


def _counted(transit: Transit, since: int) -> dict[str, int]:
    """Requests by the last part of what they are for."""
    names = [path.split(" ")[1] for path in transit.paths(since)]
    return dict(collections.Counter(name.split("/")[2 if name.startswith("auth/") else 1] for name in names))


def test_ten_thousand_secrets(transit: Transit, control: Control, tmp_path: Path) -> None:
    values = [{"name": f"s{number}", "value": f"value {number}"} for number in range(SECRETS)]
    variables = as_json(tmp_path / "values.json", {"values": values})
    play = {"module_defaults": {"group/hostseal.secrets.hostseal": _login(transit)}, "vars_files": [variables]}
    declaring = task("secrets", "secret", environment="prod", secrets="{{ values }}")
    control.tasks(transit.environment(), play=play)
    start = transit.bao.mark()
    assert control.tasks(declaring, play=play).changed("secrets")
    counted = _counted(transit, start)
    assert counted == {"login": 1, "encrypt": 41, "hmac": 21, "revoke-self": 1}
    assert sum(counted.values()) <= 100
    before, start = store_bytes(control), transit.bao.mark()
    assert not control.tasks(declaring, play=play).changed("secrets")
    assert _counted(transit, start) == {"login": 1, "hmac": 21, "revoke-self": 1}
    assert store_bytes(control) == before


def test_sealing_for_a_hundred_inventory_hosts(transit: Transit, control: Control) -> None:
    hosts = [f"h{number}" for number in range(HOSTS)]
    values = {f"s{number}": f"value {number}" for number in range(MOUNTS * 10)}
    transit.declare_environment(control.place.path)
    transit.declare(control.place.path, values)
    transit.enrol(control.place.path, hosts)
    mounts = [
        {"name": f"m{number}", "secrets": [{"source": name} for name in names]}
        for number, names in enumerate(itertools.batched(values, 10))
    ]
    sealing = task("seal", "seal", environment="prod", hosts="{{ ansible_play_hosts_all }}", mounts=mounts)
    options: dict[str, Any] = {
        "hosts": "all",
        "inventory": "".join(f"{host} ansible_connection=local\n" for host in hosts),
        **defaults(**_login(transit)),
    }
    start = transit.bao.mark()
    run = control.tasks({**sealing, "run_once": True}, **options)
    assert sum(entry["sealed"] for entry in run.result("seal")["envelopes"]) == HOSTS * MOUNTS
    # One decrypt for 50 secrets, and a signature for each of 500 envelopes: 499 go into one request.
    assert _counted(transit, start) == {"login": 1, "keys": 1, "decrypt": 1, "sign": 2, "revoke-self": 1}
    start = transit.bao.mark()
    run = control.tasks({**sealing, "run_once": True}, **options)
    assert not run.changed("seal")
    assert transit.paths(start) == []
