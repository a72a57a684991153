# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: S608 - the SQL here is that of whoever edits the store
"""hostseal.secrets.rotate on two hosts, going back, and rotating by age."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.agent.conftest import AgentHost, eventually

from .conftest import DELIVER, Life, LifeFactory

ENVIRONMENT = "turn"
GENERATED = ("password", "certificate", "other")
# A pair is read from one generation; it is told once.
_WATCH = """
trap '' HUP
last=
while true; do
  cd -P /run/secrets/..data && pair="$(cat password) $(cat certificate)"
  [ "$pair" = "$last" ] || echo "$pair"
  last=$pair
  sleep 0.02
done
"""
_COUNT_SIGNALS = "trap 'echo told' HUP; while true; do sleep 0.1; done"
_COUNT_STARTS = "echo started; exec sleep 1000"


def _secrets(**options: Any) -> list[dict[str, Any]]:
    common = {"environment": ENVIRONMENT, "generate": {"length": 32}}
    fixed = {"environment": ENVIRONMENT, "name": "fixed", "value": "given"}
    return [*({**common, "name": name, **(options if name == "password" else {})} for name in GENERATED), fixed]


def _mount(name: str, *secrets: str | dict[str, Any], change_mode: str) -> dict[str, Any]:
    listed = [{"source": secret} if isinstance(secret, str) else secret for secret in secrets]
    return {"environment": ENVIRONMENT, "name": name, "secrets": listed, "change_mode": change_mode}


@pytest.fixture(scope="module")
def life(pair: LifeFactory) -> Iterator[Life]:
    """Both hosts with four mounts and a container or two of each."""
    made = pair(ENVIRONMENT)
    made.declare(
        hostseal_secrets=_secrets(),
        hostseal_mounts=[
            _mount("db", "password", "certificate", change_mode="signal"),
            _mount("web", "password", change_mode="restart"),
            _mount("quiet", "other", change_mode="restart"),
            _mount("pinned", {"source": "password", "version": 1}, change_mode="restart"),
        ],
    )
    made.set_up()
    containers = {"watch": ("db", _WATCH), "db": ("db", _COUNT_SIGNALS)}
    containers |= {name: (name, _COUNT_STARTS) for name in ("web", "quiet", "pinned")}
    for host in made.hosts:
        for name, (volume, command) in containers.items():
            host.start(f"turn-{name}", command=command, volume=f"{ENVIRONMENT}.{volume}")
    yield made
    for host in made.hosts:
        host.remove(*(f"turn-{name}" for name in containers))


def _read(host: AgentHost, container: str, name: str = "password") -> str:
    return host.docker("exec", f"turn-{container}", "cat", f"/run/secrets/{name}").stdout


def _logs(host: AgentHost, container: str) -> list[str]:
    return host.docker("logs", f"turn-{container}").stdout.splitlines()


def _started_at(host: AgentHost, container: str) -> str:
    return host.docker("inspect", "--format", "{{.State.StartedAt}}", f"turn-{container}").stdout


def _versions(life: Life, name: str = "password") -> dict[str, Any]:
    found: dict[str, Any] = life.task("secret_info", names=[name])["secrets"][0]
    return found


def test_running_containers_get_the_new_pair_and_only_those_concerned_are_told(life: Life) -> None:
    before = [(_read(host, "watch"), _read(host, "watch", "certificate")) for host in life.hosts]
    started = [[_started_at(host, name) for name in ("watch", "db")] for host in life.hosts]
    assert before[0] == before[1]
    run = life.book("rotate", hostseal_rotate=[f"{ENVIRONMENT}/password", f"{ENVIRONMENT}/certificate"]).ok()
    delivered = run.mounts(DELIVER)
    names = ("db", "web", "quiet", "pinned")
    for host in life.hosts:
        actions = delivered[host.host.name]
        assert [actions[f"{ENVIRONMENT}.{name}"] for name in names] == [
            "delivered",
            "delivered",
            "unchanged",
            "unchanged",
        ]
    after = (_read(life.hosts[0], "watch"), _read(life.hosts[0], "watch", "certificate"))
    assert set(after).isdisjoint(before[0])
    for host, was in zip(life.hosts, started, strict=True):
        pairs = eventually(lambda host=host: lines if len(lines := _logs(host, "watch")) > 1 else None)
        assert [tuple(pair.split()) for pair in pairs] == [before[0], after]
        assert [_started_at(host, name) for name in ("watch", "db")] == was
        assert "told" in _logs(host, "db")
        assert _logs(host, "web") == ["started"] * 2
        assert _logs(host, "quiet") == _logs(host, "pinned") == ["started"]
        assert _read(host, "web") == after[0]
        assert _read(host, "pinned") == before[0][0]
        told = {mount["volume"]: mount["last_change"] for mount in run.results[_TOLD][host.host.name]["mounts"]}
        assert told[f"{ENVIRONMENT}.web"]["containers"] == ["turn-web"]
        assert sorted(told[f"{ENVIRONMENT}.db"]["containers"]) == ["turn-db", "turn-watch"]
        assert told[f"{ENVIRONMENT}.quiet"] is told[f"{ENVIRONMENT}.pinned"] is None


_TOLD = "Wait until its containers have been told"


def test_the_run_stops_at_the_first_host_that_is_unwell_and_one_task_goes_back(life: Life) -> None:
    first, second = life.hosts
    before = _versions(life)
    value = _read(second, "db")
    first.host.run(["touch", "/root/unwell"])
    arguments = {"hostseal_health_command": "test ! -e /root/unwell", "hostseal_health_wait": 2}
    run = life.book("rotate", hostseal_rotate=[f"{ENVIRONMENT}/password"], **arguments)
    assert run.rc != 0
    assert list(run.results[DELIVER]) == [first.host.name]
    assert run.results["Wait until the host is well"][first.host.name]["failed"]
    assert _read(first, "db") != value
    assert _read(second, "db") == _read(second, "watch") == value
    info = _versions(life)
    assert (info["version"], info["behind"]) == (before["version"] + 1, [host.host.name for host in life.hosts])
    assert {place["version"] for place in info["delivered"] if place["mount"] == "db"} == {
        before["version"],
        before["version"] + 1,
    }

    assert life.task("secret", name="password", version=before["version"])["changed"]
    back = life.book("site").ok()
    actions = back.mounts(DELIVER)
    assert actions[first.host.name][f"{ENVIRONMENT}.db"] == "delivered"
    assert set(actions[second.host.name].values()) == {"unchanged"}
    for host in life.hosts:
        assert _read(host, "db") == _read(host, "web") == value
    assert _versions(life)["version"] == before["version"]
    assert set(life.deliver().ok().changed.values()) == {0}


@pytest.mark.thorough
def test_a_nightly_run_rotates_by_age_once_and_keeps_some_versions(life: Life) -> None:
    life.declare(hostseal_secrets=_secrets(rotate_after="90d", keep_versions=2))
    life.deliver().ok()
    before = _versions(life)
    value = _read(life.hosts[0], "db")
    assert set(life.deliver().ok().changed.values()) == {0}
    life.sql(f"UPDATE secret_version SET created_at = created_at - {90 * 86_400_000} WHERE name = 'password'")
    life.deliver().ok()
    rotated = _versions(life)
    assert rotated["version"] > before["version"]
    for host in life.hosts:
        assert _read(host, "db") == _read(host, "web") == _read(life.hosts[0], "db") != value
        assert _read(host, "pinned") not in (value, _read(host, "db"))
    # What hosts had then was spared: the pinned one for good, the one before until the next run.
    last = {rotated["version"] - 1, rotated["version"]}
    assert {1, *last} <= {entry["version"] for entry in rotated["versions"]}
    life.deliver().ok()
    assert {entry["version"] for entry in _versions(life)["versions"]} == {1, *last}
    assert set(life.deliver().ok().changed.values()) == {0}


@pytest.mark.parametrize(
    "wanted",
    [[], [f"{ENVIRONMENT}/password", f"{ENVIRONMENT}/nothing"], [f"{ENVIRONMENT}/fixed"], "password"],
    ids=["nothing", "unknown", "with a given value", "without its environment"],
)
def test_what_cannot_be_rotated_is_refused_before_anything_changes(life: Life, wanted: Any) -> None:
    before = life.store.read_bytes()
    run = life.book("rotate", hostseal_rotate=wanted)
    message = run.failed("Check what is to be rotated")
    odd = wanted if isinstance(wanted, str) else wanted[-1] if wanted else "nothing"
    assert odd in message
    assert "can't be rotated" in message
    assert "given" not in message.replace("with generate", "")
    assert life.store.read_bytes() == before
