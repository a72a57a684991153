# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the other tests take for granted of the rig's server."""

from __future__ import annotations

import time
from pathlib import Path

import hvac
import pytest
import requests

from tests.integration.vault.conftest import BaoFactory
from tests.rig.fault_proxy import Rule
from tests.rig.openbao import ACTIVE, FOLDER, SEALED, STANDBY, OpenBao, clean_leftovers, listed

POLICY = 'path "x" { capabilities = ["read"] }'


def _paths(entries: list[dict[str, dict[str, str]]]) -> list[tuple[str, str]]:
    return [(entry["request"]["operation"], entry["request"]["path"]) for entry in entries]


def _through(bao: OpenBao, url: str, timeout: float = 10) -> hvac.Client:
    return hvac.Client(url, token=bao.root_token, verify=bao.ca_cert, timeout=timeout)


def test_it_is_a_server_as_in_production(bao: OpenBao) -> None:
    status = bao.client().sys.read_seal_status()
    assert (status["type"], status["storage_type"], status["t"], status["sealed"]) == ("shamir", "raft", 1, False)
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"{bao.url}/v1/sys/health", verify=True, timeout=5)


def test_nobody_else_reads_its_files(bao: OpenBao) -> None:
    assert bao.folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in bao.folder.iterdir() if path.is_file() and path.stat().st_mode & 0o077] == []
    assert Path(bao.token_file).read_text(encoding="ascii") == bao.root_token


def test_requests_are_counted_exactly(bao: OpenBao, mount: str) -> None:
    client = bao.client()
    client.sys.enable_secrets_engine("transit", path=mount)
    start = bao.mark()
    for number in range(3):
        client.secrets.transit.create_key(f"key-{number}", mount_point=mount)
    with pytest.raises(hvac.exceptions.Forbidden):
        bao.client(token="wrong").secrets.transit.list_keys(mount_point=mount)
    seen = bao.requests(since=start)
    assert _paths(seen) == [
        *[("update", f"{mount}/keys/key-{number}") for number in range(3)],
        ("list", f"{mount}/keys/"),
    ]
    assert ["error" in entry for entry in seen] == [False, False, False, True]
    assert bao.requests(since=bao.mark()) == []


def test_kill_and_start_keep_the_data(fresh_bao: BaoFactory) -> None:
    bao = fresh_bao()
    bao.client().sys.create_or_update_policy("kept", POLICY)
    url, token, before = bao.url, bao.root_token, bao.pid
    bao.kill()
    assert bao.pid is None
    assert bao.health() == 0
    bao.start()
    assert (bao.url, bao.root_token) == (url, token)
    assert bao.pid != before
    assert "kept" in bao.client().sys.list_policies()["data"]["policies"]


def test_seal_and_pause(fresh_bao: BaoFactory) -> None:
    bao = fresh_bao()
    bao.seal()
    assert bao.health() == SEALED
    with pytest.raises(hvac.exceptions.VaultDown):
        bao.client().sys.list_policies()
    bao.unseal()
    assert bao.health() == ACTIVE
    bao.pause()
    assert bao.health(timeout=0.5) == 0
    bao.resume()
    assert bao.health() == ACTIVE
    bao.pause()
    assert bao.pid is not None
    bao.stop()
    assert bao.pid is None


def test_a_standby_forwards_and_without_a_leader_nobody_answers(fresh_bao: BaoFactory) -> None:
    leader = fresh_bao()
    standby = fresh_bao(standby_of=leader)
    assert (leader.health(), standby.health()) == (ACTIVE, STANDBY)
    starts = leader.mark(), standby.mark()
    write, read = ("update", "sys/policy/by-standby"), ("read", "sys/policy")
    standby.client().sys.create_or_update_policy("by-standby", POLICY)
    assert "by-standby" in leader.client().sys.list_policies()["data"]["policies"]
    standby.client().sys.list_policies()
    assert _paths(leader.requests(since=starts[0])) == [write, read]
    assert _paths(standby.requests(since=starts[1])) == [write, read]
    leader.kill()
    answer = requests.post(
        f"{standby.url}/v1/sys/policy/too-late",
        json={"policy": POLICY},
        headers={"X-Vault-Token": leader.root_token},
        verify=standby.ca_cert,
        allow_redirects=False,
        timeout=30,
    )
    # The last known leader's address, where nothing listens.
    assert (answer.status_code, answer.headers["Location"]) == (307, f"{leader.url}/v1/sys/policy/too-late")
    with pytest.raises(requests.exceptions.ConnectionError):
        standby.client().sys.create_or_update_policy("too-late", POLICY)
    leader.start()
    assert {"by-standby", "too-late"} & set(leader.client().sys.list_policies()["data"]["policies"]) == {"by-standby"}


def test_a_rule_answers_500_once(bao: OpenBao, mount: str) -> None:
    start = bao.mark()
    with bao.fault_proxy() as proxy:
        rule = proxy.add(Rule(path="/v1/sys/mounts/", method="POST", status=500, errors=["storage is gone"]))
        client = _through(bao, proxy.url)
        with pytest.raises(hvac.exceptions.InternalServerError, match="storage is gone"):
            client.sys.enable_secrets_engine("transit", path=mount)
        client.sys.enable_secrets_engine("transit", path=mount)
        client.secrets.transit.create_key("key", mount_point=mount)
        assert client.secrets.transit.list_keys(mount_point=mount)["data"]["keys"] == ["key"]
        seen = proxy.seen(f"/{mount}\\b")
    assert rule.used == 1
    assert [(one.method, one.forwarded) for one in seen] == [
        ("POST", False),
        ("POST", True),
        ("POST", True),
        ("LIST", True),
    ]
    assert len([path for _operation, path in _paths(bao.requests(since=start)) if mount in path]) == 3


def test_a_429_carries_its_headers_and_skip_lets_some_pass(bao: OpenBao) -> None:
    with bao.fault_proxy() as proxy:
        proxy.add(Rule(status=429, skip=1, count=2, headers={"Retry-After": "7"}))
        answers = [
            requests.get(f"{proxy.url}/v1/sys/seal-status", verify=bao.ca_cert, timeout=10) for _number in range(4)
        ]
    assert [answer.status_code for answer in answers] == [200, 429, 429, 200]
    assert [answer.headers.get("Retry-After") for answer in answers] == [None, "7", "7", None]


def test_lost_requests_lost_answers_and_slow_ones(bao: OpenBao, mount: str) -> None:
    direct = bao.client()
    with bao.fault_proxy() as proxy:
        proxy.add(Rule(path=f"{mount}-a", drop="before"))
        proxy.add(Rule(path=f"{mount}-b", drop="after"))
        proxy.add(Rule(path="sys/seal-status", delay=1, count=2))
        client = _through(bao, proxy.url)
        for suffix in ("a", "b"):
            with pytest.raises(requests.exceptions.ConnectionError):
                client.sys.enable_secrets_engine("transit", path=f"{mount}-{suffix}")
        mounted = direct.sys.list_mounted_secrets_engines()["data"]
        assert f"{mount}-a/" not in mounted
        assert f"{mount}-b/" in mounted
        before = time.monotonic()
        assert client.sys.read_seal_status()["sealed"] is False
        assert time.monotonic() - before >= 1
        with pytest.raises(requests.exceptions.ReadTimeout):
            _through(bao, proxy.url, timeout=0.3).sys.read_seal_status()


def test_every_way_to_log_in(bao: OpenBao) -> None:
    bao.client().sys.create_or_update_policy("reader", POLICY)
    mount, sign = bao.enable_jwt("ci", ["reader"], token_ttl="60s")
    tokens = {"jwt": bao.client(token="").auth.jwt.jwt_login("ci", sign(), path=mount)["auth"]}
    with pytest.raises(hvac.exceptions.VaultError):
        bao.client(token="").auth.jwt.jwt_login("ci", sign(exp=int(time.time()) - 600), path=mount)
    mount, password = bao.enable_userpass("ann", ["reader"])
    tokens["userpass"] = bao.client(token="").auth.userpass.login("ann", password, mount_point=mount)["auth"]
    mount, role_id, secret_id = bao.enable_approle("deploy", ["reader"])
    tokens["approle"] = bao.client(token="").auth.approle.login(role_id, secret_id, mount_point=mount)["auth"]
    mount = bao.enable_cert("machine", ["reader"])
    answer = requests.post(
        f"{bao.url}/v1/auth/{mount}/login",
        json={"name": "machine"},
        cert=(bao.client_cert, bao.client_key),
        verify=bao.ca_cert,
        timeout=10,
    )
    tokens["cert"] = answer.json()["auth"]
    assert {kind: auth["policies"] for kind, auth in tokens.items()} == {kind: ["default", "reader"] for kind in tokens}
    assert tokens["jwt"]["lease_duration"] == 60
    # A second time: the mount is there already.
    assert bao.enable_userpass("ben", ["reader"])[0] == "userpass"


def test_ways_to_log_in_inside_a_namespace(bao: OpenBao, mount: str) -> None:
    bao.client().write_data(f"sys/namespaces/{mount}", data={})
    auth, password = bao.enable_userpass("ann", [], namespace=mount)
    inside = bao.client(token="", namespace=mount).auth.userpass.login("ann", password, mount_point=auth)
    assert inside["auth"]["client_token"]


def test_only_servers_of_dead_processes_are_cleaned(bao: OpenBao) -> None:
    dead = OpenBao(f"{bao.name}-dead")
    dead.owner = "1-0"  # a live process by its number but not by its start time: a killed run's, taken since
    by_hand = OpenBao(f"{bao.name}-by-hand", owned=False)
    try:
        dead.start()
        was_running = dead.pid is not None
        by_hand.start()
        # Another process finds it by its name, running, with its keys.
        again = OpenBao(by_hand.name, owned=False).start()
        assert (again.pid, again.root_token) == (by_hand.pid, by_hand.root_token)
        removed = clean_leftovers()
        is_running = dead.pid is not None
        left = {row[0]: row[2] for row in listed()}
    finally:
        dead.remove()
        by_hand.remove()
    assert (was_running, is_running) == (True, False)
    assert dead.name in removed
    assert not {bao.name, by_hand.name} & set(removed)
    assert left[bao.name] == left[by_hand.name] == "running"
    assert not (FOLDER / dead.name).exists()
