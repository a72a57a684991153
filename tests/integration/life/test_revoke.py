# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: S608 - the SQL here is that of whoever edits the store
"""hostseal.secrets.revoke on two hosts: a secret, a host, an environment, and a host that is down meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.agent.conftest import AgentHost

from .conftest import Life, LifeFactory

ENVIRONMENT = "take"
TAKE_AWAY = "Take them away"
LEFT = "Tell which hosts have to be reached yet"
_STATE = "/var/lib/hostseal/state"


def _mount(name: str, *secrets: str | dict[str, Any]) -> dict[str, Any]:
    listed = [{"source": secret} if isinstance(secret, str) else secret for secret in secrets]
    return {"environment": ENVIRONMENT, "name": name, "secrets": listed}


@pytest.fixture(scope="module")
def life(pair: LifeFactory) -> Iterator[Life]:
    """Both hosts with the secret "token" in three mounts, once alone, and a container of each mount."""
    made = pair(ENVIRONMENT)
    made.declare(
        hostseal_secrets=[
            {"environment": ENVIRONMENT, "name": name, "generate": {"length": 32}}
            for name in ("token", "password", "certificate")
        ],
        hostseal_mounts=[
            _mount("db", "token", {"source": "password", "uid": 7, "mode": "0400", "version": 1}, "certificate"),
            _mount("web", {"source": "token", "target": "api/token"}, {"source": "certificate", "target": "tls/cert"}),
            _mount("api", "token"),
            _mount("quiet", "certificate"),
        ],
    )
    made.set_up()
    # The pinned mount keeps version 1.
    made.task("secret", name="password", generate={}, state="rotated")
    for host in made.hosts:
        for name in ("db", "web", "api"):
            host.start(f"take-{name}", "--restart", "always", volume=f"{ENVIRONMENT}.{name}")
    yield made
    for host in made.hosts:
        host.remove("take-db", "take-web", "take-api")


def _files(host: AgentHost, container: str) -> str:
    """Names, modes, owners and contents of what a container sees."""
    script = "cd -P /run/secrets && find -L . -type f -not -path './..*' | sort | while read f; do"
    script += " echo \"$f $(stat -L -c '%a %u' $f) $(cat $f)\"; done"
    return host.docker("exec", f"take-{container}", "sh", "-c", script).stdout


def _held(host: AgentHost) -> dict[str, list[tuple[str, int]]]:
    """The secrets in the envelopes of this environment on the host's disk."""
    return {
        mount["mount"]: [(secret["name"], secret["version"]) for secret in mount["secrets"]]
        for mount in host.ask("GET", "/v1/status")["mounts"]
        if mount["environment"] == ENVIRONMENT
    }


def _without_token(text: str) -> str:
    return "".join(line + "\n" for line in text.splitlines() if "token" not in line)


def test_what_hosts_have_is_not_deleted_by_the_way(life: Life) -> None:
    before = life.store.read_bytes()
    refused = life.task("secret", check=False, name="token", state="absent")
    assert refused["failed"]
    for host in life.hosts:
        for mount in ("api", "db", "web"):
            assert f"{host.host.name} in mount '{mount}'" in refused["msg"]
    assert life.store.read_bytes() == before


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"hostseal_environment": ENVIRONMENT}, "either hostseal_revoke with names"),
        ({"hostseal_revoke": ["token"]}, "Say hostseal_environment"),
        ({"hostseal_environment": ENVIRONMENT, "hostseal_revoke": ["tokem"]}, "'tokem' is not in environment"),
    ],
)
def test_what_is_not_clear_is_refused(life: Life, variables: dict[str, Any], words: str) -> None:
    """A misspelt variable must not delete an environment."""
    before = life.store.read_bytes()
    run = life.book("revoke", **variables)
    assert run.rc != 0
    assert words in run.output
    assert life.store.read_bytes() == before


def test_a_secret_goes_everywhere_and_from_a_host_that_was_down_later(life: Life) -> None:
    first, second = life.hosts
    seen = {name: _files(first, name) for name in ("db", "web", "api")}
    assert all("token" in text for text in seen.values())
    old = _held(second)
    predicted = life.book("revoke", "--check", hostseal_environment=ENVIRONMENT, hostseal_revoke="token").ok()
    assert _held(first) == old
    second.host.power_cut(wait=False)

    run = life.book("revoke", hostseal_environment=ENVIRONMENT, hostseal_revoke="token")
    assert run.failed(LEFT).endswith(f": {second.host.name}")
    expected = {f"{ENVIRONMENT}.{name}": "delivered" for name in ("db", "web")} | {f"{ENVIRONMENT}.api": "removed"}
    assert run.mounts(TAKE_AWAY)[first.host.name] == expected == predicted.mounts(TAKE_AWAY)[first.host.name]
    assert run.stats[second.host.name]["unreachable"] + run.stats[second.host.name]["ignored"] > 0
    assert life.sql("SELECT count(*) FROM secret_version WHERE name = 'token'") == [(0,)]
    _assert_gone(first, seen)

    # It comes back with what it had: nothing but the next run can tell it.
    second.host.power_on()
    assert _held(second) == old
    assert _files(second, "api") == seen["api"]
    left = life.task("secret_info", names=["token"])["secrets"][0]
    assert (left["version"], left["behind"]) == (None, [second.host.name])

    again = life.book("revoke", hostseal_environment=ENVIRONMENT, hostseal_revoke="token").ok()
    assert again.mounts(TAKE_AWAY) == {first.host.name: {}, second.host.name: expected}
    _assert_gone(second, seen)

    before = life.store.read_bytes()
    third = life.book("revoke", hostseal_environment=ENVIRONMENT, hostseal_revoke="token").ok()
    assert set(third.changed.values()) == {0}
    assert life.store.read_bytes() == before


def _assert_gone(host: AgentHost, seen: dict[str, str]) -> None:
    for name in ("db", "web"):
        assert _files(host, name) == _without_token(seen[name]) != ""
    assert _files(host, "api") == ""
    held = _held(host)
    assert held == {
        "db": [("password", 1), ("certificate", 1)],
        "web": [("certificate", 1)],
        "quiet": [("certificate", 1)],
    }
    value = seen["api"].split()[-1]
    found = host.host.run(["grep", "-rlF", value, "/run/hostseal", "/var/lib/hostseal"], check=False)
    assert found.stdout == ""


def test_a_host_that_was_set_back_shows_it_and_a_purge_mends_it(life: Life) -> None:
    """Its disk is an older one: neither the store nor the host can know. Which secrets it has is told, and undone."""
    first = life.hosts[0]
    secret = {"environment": ENVIRONMENT, "name": "extra", "value": "the extra value"}
    extra = {"environment": ENVIRONMENT, "name": "extra", "secrets": [{"source": "extra"}]}
    life.tasks(
        {"name": "Declare", "hostseal.secrets.secret": secret, "run_once": True},
        {"name": "Deliver", "hostseal.secrets.mount": extra},
    )
    first.host.sh(f"cp -a {_STATE} /root/state")
    life.book("revoke", hostseal_environment=ENVIRONMENT, hostseal_revoke="extra").ok()
    first.host.sh(
        f"systemctl stop hostseald.service; rm -r {_STATE}; mv /root/state {_STATE}; systemctl start hostseald"
    )
    assert _held(first)["extra"] == [("extra", 1)]
    mounts = [mount for mount in life.variables["hostseal_mounts"] if mount["name"] == "quiet"]
    purge = {"environment": ENVIRONMENT, "mounts": mounts, "purge": True}
    done = life.tasks({"name": "Purge", "hostseal.secrets.mount": purge}).results["Purge"]
    assert {"volume": f"{ENVIRONMENT}.extra", "action": "removed", "live": None, "secrets": []} in done["mounts"]
    assert set(_held(first)) == {"quiet"}


def test_a_removal_that_the_store_did_not_hear_of_is_noticed(life: Life) -> None:
    """The control node died after the host had done it."""
    for host in life.hosts:
        host.ask("DELETE", f"/v1/mounts/{ENVIRONMENT}.web")
    run = life.book("revoke", hostseal_environment=ENVIRONMENT, hostseal_revoke="certificate").ok()
    assert run.mounts(TAKE_AWAY)[life.hosts[1].host.name][f"{ENVIRONMENT}.quiet"] == "removed"
    assert not any(
        "certificate" in {name for name, _version in secrets} for host in life.hosts for secrets in _held(host).values()
    )
    assert life.sql("SELECT count(*) FROM receipt WHERE mount = 'web'") == [(0,)]


def test_a_whole_host_then_the_whole_environment(life: Life) -> None:
    first, second = life.hosts
    everything = {"hostseal_environment": ENVIRONMENT, "hostseal_revoke_everything": True}
    password = life.variables["hostseal_mounts"][0]["secrets"][1]
    mount = {"environment": ENVIRONMENT, "name": "db", "secrets": [password]}
    life.tasks({"name": "Deliver", "hostseal.secrets.mount": mount})
    assert _held(first) == _held(second) == {"db": [("password", 1)]}
    run = life.book("revoke", "--limit", second.host.name, **everything).ok()
    assert list(run.results[TAKE_AWAY]) == [second.host.name]
    assert (_held(first), _held(second)) == ({"db": [("password", 1)]}, {})
    assert life.sql("SELECT name FROM host") == [(first.host.name,)]
    assert life.sql("SELECT DISTINCT name FROM secret_version") == [("password",)]
    assert set(life.book("revoke", "--limit", second.host.name, **everything).ok().changed.values()) == {0}

    life.book("revoke", **everything).ok()
    assert _held(first) == {}
    for table in ("environment", "secret", "secret_version", "host", "receipt"):
        assert life.sql(f"SELECT count(*) FROM {table}") == [(0,)], table
    told = life.sql("SELECT action, host, secrets FROM audit WHERE action IN ('mount.removed', 'environment.removed')")
    removed = [(host, json.loads(secrets)) for action, host, secrets in told if action == "mount.removed"]
    assert (first.host.name, [{"name": "password", "version": 1}]) in removed
    assert told[-1][0] == "environment.removed"
