# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The same modules in plays of all shapes: their work is the control node's, whatever host a task is for."""

from __future__ import annotations

from pathlib import Path

from tests.integration.control.conftest import ENVIRONMENT, Control, secret, task

# Nobody listens there, and no user of that name is known: whatever opened a connection would fail.
UNREACHABLE = (
    "ansible_connection=ssh ansible_host=127.0.0.1 ansible_port=9 ansible_ssh_common_args='-oConnectTimeout=2'"
)


def test_fifty_hosts_at_once_declare_one_thing(control: Control) -> None:
    inventory = "".join(f"h{number:02} ansible_connection=local\n" for number in range(50))
    tasks = [
        *ENVIRONMENT,
        secret("generated", generate={}),
        secret("given", value="x", on_difference="rotate"),
        task("list", "secret", environment="prod", generate={}, secrets=[{"name": "a"}, {"name": "b"}]),
    ]
    run = control.play([{"hosts": "all", "gather_facts": False, "tasks": tasks}], "--forks", "50", inventory=inventory)
    assert run.rc == 0, run.output
    assert [run.changed(one["name"]) for one in tasks] == [1] * 5
    with control.place.store() as store, store.transaction() as transaction:
        assert [(found.name, found.number) for found in transaction.versions("prod")] == [
            ("a", 1),
            ("b", 1),
            ("generated", 1),
            ("given", 1),
        ]


def test_task_of_an_unreachable_host_works_on_the_control_node(control: Control) -> None:
    inventory = f"db1 {UNREACHABLE}\ndb2 {UNREACHABLE}\nlocalhost ansible_connection=local\n"
    play = [
        {
            "hosts": "db1,db2",
            "gather_facts": False,
            "become": True,
            "become_user": "nobody-of-this-name",
            "tasks": [
                *ENVIRONMENT,
                {**secret("once", generate={}), "run_once": True},
                {**secret("delegated", generate={}), "delegate_to": "localhost"},
                {**secret("far", generate={}), "delegate_to": "db1"},
                {**secret("local", generate={}), "connection": "local"},
                {
                    **secret("remote environment", generate={}),
                    "name": "with",
                    "environment": {"HOSTSEAL_STORE": "/nowhere"},
                }
                | secret("with", generate={}),
                task("retire", "host", environments=["prod"], state="absent"),
                task("info", "secret_info", environment="prod"),
            ],
        }
    ]
    run = control.play(play, inventory=inventory)
    assert run.rc == 0, run.output
    for name in ("key", "environment", "once", "delegated", "far", "local", "with"):
        assert run.changed(name) == 1, name
    assert {entry["name"] for entry in run.result("info")["secrets"]} == {"once", "delegated", "far", "local", "with"}
    assert [run.result("retire", host)["host"] for host in ("db1", "db2")] == ["db1", "db2"]


def test_name_of_the_host_a_task_is_about(prod: Control) -> None:
    for host in ("db1", "db2", "alias", "elsewhere"):
        prod.place.enrol(host)
    inventory = f"alias {UNREACHABLE}\ndb1 {UNREACHABLE}\n"
    play = [
        {
            "hosts": "alias",
            "gather_facts": False,
            "tasks": [
                {**task("delegated", "host", environments=["prod"], state="absent"), "delegate_to": "db1"},
                task("named", "host", environments=["prod"], state="absent", name="db2"),
                task("own", "host", environments=["prod"], state="absent"),
            ],
        }
    ]
    run = prod.play(play, inventory=inventory)
    assert run.rc == 0, run.output
    assert [run.result(name)["host"] for name in ("delegated", "named", "own")] == ["db1", "db2", "alias"]
    with prod.place.store() as store, store.transaction() as transaction:
        assert set(transaction.hosts("prod")) == {"elsewhere"}


def test_where_store_and_keys_are(control: Control, tmp_path: Path) -> None:
    home = {"HOSTSEAL_STORE": None, "HOSTSEAL_KEY_PATH": None}
    keys = {name: str(tmp_path / name) for name in ("option", "first", "second")}
    run = control.tasks(
        task("key", "localkey", name="a"),
        task("environment", "environment", name="a"),
        variables=home,
    )
    assert run.result("key")["path"] == f"{tmp_path}/home/.config/hostseal/keys/a.jwks"
    assert (tmp_path / "home/.local/share/hostseal/store.db").stat().st_mode & 0o777 == 0o600
    both = {**home, "HOSTSEAL_KEY_PATH": keys["first"], "ENC_KEY_PATH": keys["second"]}
    run = control.tasks(
        task("option", "localkey", name="a", key_path=keys["option"]),
        task("first", "localkey", name="a"),
        task("store", "environment", name="a", store=f"sqlite:///{tmp_path}/option.db"),
        variables={**both, "HOSTSEAL_STORE": str(tmp_path / "variable.db")},
    )
    assert run.result("option")["path"] == f"{keys['option']}/a.jwks"
    assert run.result("first")["path"] == f"{keys['first']}/a.jwks"
    assert (tmp_path / "option.db").exists()
    assert not (tmp_path / "variable.db").exists()
    run = control.tasks(
        task("second", "localkey", name="a"),
        task("store", "environment", name="a"),
        variables={**home, "ENC_KEY_PATH": keys["second"], "HOSTSEAL_STORE": str(tmp_path / "variable.db")},
    )
    assert run.result("second")["path"] == f"{keys['second']}/a.jwks"
    assert (tmp_path / "variable.db").exists()


def test_module_defaults_of_the_action_group(control: Control, tmp_path: Path) -> None:
    defaults = {"store": str(tmp_path / "defaults.db"), "key_path": str(tmp_path / "defaults")}
    run = control.tasks(
        *ENVIRONMENT,
        secret("a", generate={}),
        task("seal", "seal", environment="prod", hosts=[], mounts=[]),
        task("retire", "host", environments=["prod"], name="db1", state="absent"),
        task("info", "secret_info", environment="prod"),
        variables={"HOSTSEAL_STORE": None, "HOSTSEAL_KEY_PATH": None},
        play={"module_defaults": {"group/hostseal.secrets.hostseal": defaults}},
    )
    assert run.result("key")["path"] == f"{tmp_path}/defaults/prod.jwks"
    assert [entry["name"] for entry in run.result("info")["secrets"]] == ["a"]
    assert sorted(path.name for path in tmp_path.glob("*.db")) == ["defaults.db"]
    assert not list((tmp_path / "home").rglob("hostseal"))


def test_seal(prod: Control) -> None:
    prod.place.declare({"name": "a", "value": "x"}, {"name": "b", "value": "y"})
    for number in range(5):
        prod.place.enrol(f"h{number}")
    db = {"name": "db", "secrets": [{"source": "a", "uid": "999", "mode": "0400"}], "change_mode": "restart"}
    web = {"name": "web", "environment": "prod", "secrets": [{"source": "b", "target": "x/y"}, {"source": "a"}]}
    hosts = [f"h{number}" for number in range(5)]
    seal = task("seal", "seal", environment="prod", hosts=hosts, mounts=[db], mounts_by_host={"h3": [web]})
    check = prod.tasks(seal, arguments=("--check", "--diff"))
    assert "+prod.web sealed for h3" in check.output
    first, second = prod.tasks(seal), prod.tasks(seal)
    assert [run.changed("seal") for run in (check, first, second)] == [1, 1, 0]
    assert len(first.result("seal")["envelopes"]) == 6
    assert [entry["sealed"] for entry in first.result("seal")["envelopes"]] == [True] * 6
    assert [entry["sealed"] for entry in second.result("seal")["envelopes"]] == [False] * 6
    prod.place.declare({"name": "b", "value": "new", "on_difference": "rotate"})
    third = prod.tasks(seal, arguments=("--diff",))
    assert [(entry["host"], entry["volume"]) for entry in third.result("seal")["envelopes"] if entry["sealed"]] == [
        ("h3", "prod.web")
    ]


def test_environment_goes_with_what_it_has_only_by_force(prod: Control) -> None:
    prod.place.declare({"name": "a", "value": "x"})
    prod.place.enrol("db1")
    gone = task("gone", "environment", name="prod", state="absent", force=True)
    check = prod.tasks(gone, arguments=("--check",))
    assert check.changed("gone")
    assert prod.place.values() == {"a": b"x"}
    run = prod.tasks(gone, {**gone, "name": "again"}, arguments=("--diff",))
    assert (run.changed("gone"), run.changed("again")) == (1, 0)
    with prod.place.store() as store, store.transaction() as transaction:
        assert transaction.environments() == []
