# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module container, and Docker's own command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from .conftest import Control, Site

SECRETS = {"environment": "prod", "mount": "db"}


@pytest.fixture
def node(site: Site) -> Iterator[Control]:
    """The control node; the containers that the test makes are removed."""
    yield site.control
    for name in site.control.docker("ps", "--all", "--quiet").stdout.split():
        site.control.docker("rm", "--force", "--volumes", name)


def container(name: str, **options: Any) -> dict[str, Any]:
    """A task, of the same name as its container."""
    common = {"image": "busybox", "command": "sleep 600", "stop_signal": "KILL"}
    return {"name": name, "hostseal.secrets.container": {"name": name, **common, **options}}


def again(task: dict[str, Any], **options: Any) -> dict[str, Any]:
    """TASK once more, with other options."""
    arguments = {**task["hostseal.secrets.container"], **options}
    return {"name": f"{task['name']} again", "hostseal.secrets.container": arguments}


def identity(node: Control, name: str) -> str:
    return node.docker("inspect", "--format", "{{.Id}}", name).stdout


def test_container_gets_the_mount_read_only_and_is_not_made_anew(node: Control) -> None:
    task = container("plain", secrets=SECRETS)
    outcome = node.tasks(task, again(task))
    assert outcome.rc == 0, outcome.output
    assert [outcome.results[name]["changed"] for name in ("plain", "plain again")] == [True, False]
    mounts = json.loads(node.docker("inspect", "--format", "{{json .HostConfig.Mounts}}", "plain").stdout)
    assert mounts == [
        {
            "Type": "volume",
            "Source": "prod.db",
            "Target": "/run/secrets",
            "ReadOnly": True,
            "VolumeOptions": {"NoCopy": True, "DriverConfig": {"Name": "hostseal"}},
        }
    ]
    assert outcome.results["plain"]["container"]["Name"] == "/plain"
    assert node.docker("exec", "plain", "ls", "/run/secrets").stdout.split() == ["db_password", "shared"]
    refused = node.docker("exec", "plain", "sh", "-c", "echo x > /run/secrets/x", check=False)
    assert "Read-only file system" in refused.stderr


def test_adding_the_mount_makes_the_container_anew_once(node: Control) -> None:
    bare = container("grows")
    assert node.tasks(bare).rc == 0
    before = identity(node, "grows")
    outcome = node.tasks(again(bare, secrets=SECRETS, mounts=[{"target": "/scratch", "type": "tmpfs"}]))
    assert outcome.results["grows again"]["changed"] is True, outcome.output
    after = identity(node, "grows")
    assert after != before
    moved = again(bare, secrets={**SECRETS, "target": "/secrets"}, mounts=[{"target": "/scratch", "type": "tmpfs"}])
    without = {**again(bare), "name": "without"}
    outcome = node.tasks({**moved, "name": "moved"}, {**moved, "name": "moved again"}, without)
    assert [outcome.results[name]["changed"] for name in ("moved", "moved again", "without")] == [True, False, False]
    assert node.docker("exec", "grows", "ls", "/secrets").stdout.split() == ["db_password", "shared"]


def test_check_and_diff_mode_predict(node: Control) -> None:
    wanted = container("foretold", secrets=SECRETS)
    unknown = container("unknown", secrets={"environment": "prod", "mount": "later"})
    outcome = node.tasks(wanted, unknown, arguments=("--check", "--diff"))
    assert outcome.rc == 0, outcome.output
    assert [outcome.results[name]["changed"] for name in ("foretold", "unknown")] == [True, True]
    assert outcome.results["foretold"]["diff"]
    assert "'prod.later'" in outcome.output
    assert "predicted" in outcome.output
    assert node.docker("ps", "--all", "--quiet").stdout == ""


def test_stopped_and_absent(node: Control) -> None:
    task = container("brief", secrets=SECRETS)
    gone = {"environment": "prod", "mount": "never"}
    outcome = node.tasks(
        task,
        {**again(task, state="stopped"), "name": "stop"},
        {"name": "remove", "hostseal.secrets.container": {"name": "brief", "state": "absent", "secrets": gone}},
        {"name": "remove again", "hostseal.secrets.container": {"name": "brief", "state": "absent"}},
    )
    assert outcome.rc == 0, outcome.output
    assert [outcome.results[name]["changed"] for name in ("brief", "stop", "remove", "remove again")] == [
        True,
        True,
        True,
        False,
    ]


@pytest.fixture
def victim(node: Control) -> dict[str, Any]:
    """A running container without secrets; a refused task must leave it as it is."""
    task = container("victim")
    assert node.tasks(task).rc == 0
    return task


def test_refusals_leave_a_running_container_alone(node: Control, victim: dict[str, Any]) -> None:
    before = identity(node, "victim")
    node.docker("volume", "create", "prod.shadow")
    cases: dict[str, tuple[dict[str, Any], list[str]]] = {
        "mounts": (
            {"secrets": SECRETS, "mounts": [{"target": "/run/secrets/", "type": "tmpfs"}]},
            ["mounts already", "/run/secrets"],
        ),
        "volumes": (
            {"secrets": SECRETS, "volumes": ["data:/data", "other:/run/secrets:ro"]},
            ["volumes already", "/run/secrets"],
        ),
        "anonymous": ({"secrets": SECRETS, "volumes": ["/run/secrets"]}, ["volumes already"]),
        "tmpfs": ({"secrets": {**SECRETS, "target": "/s"}, "tmpfs": ["//s:size=1m"]}, ["tmpfs already", "/s"]),
        "unknown": (
            {"secrets": {"environment": "prod", "mount": "bd"}},
            ["no volume 'prod.bd'", "hostseal.secrets.mount"],
        ),
        "shadow": (
            {"secrets": {"environment": "prod", "mount": "shadow"}},
            ["'prod.shadow'", "driver 'local'", "docker volume rm"],
        ),
        "neither": ({"secrets": 4711}, ["secrets is neither a dictionary"]),
        "scopeless": ({"secrets": ["db_password"]}, ["option environment"]),
        "listless": ({"secrets": [], "environment": "prod"}, ["mount 'prod.victim'", "no secrets"]),
        "nameless": ({"secrets": ["shared"], "environment": "prod", "name": None}, ["mount", "name"]),
        "undeclared": ({"secrets": ["shraed"], "environment": "prod"}, ["'shraed'"]),
        "odd": ({"secrets": [{"source": "shared", "mod": "0400"}], "environment": "prod"}, ["'mod'"]),
        "both": ({"secrets": SECRETS, "secrets_mount": {"name": "x"}}, ["secrets_mount", "not a list"]),
        "bare": ({"env_from_secrets": {"A": "shared"}}, ["env_from_secrets", "no secrets"]),
        "variable": ({"secrets": SECRETS, "env_from_secrets": {"A=B": "shared"}}, ["'A=B'"]),
        "nested": ({"secrets": SECRETS, "env_from_secrets": {"A": ["shared"]}}, ["secret name"]),
        "text": ({"secrets": SECRETS, "env_from_secrets": {"A": "shared"}, "env": "B=1"}, ["env is not a dictionary"]),
        "taken": (
            {"secrets": SECRETS, "env_from_secrets": {"A": "shared"}, "env": {"A_FILE": "/x"}},
            ["env has A_FILE already"],
        ),
        "absent": ({"secrets": SECRETS, "env_from_secrets": {"A": "shraed"}}, ["'shraed'", "db_password, shared"]),
        "unlisted": (
            {"secrets": ["shared"], "environment": "prod", "env_from_secrets": {"A": "db_password"}},
            ["'db_password'", "the list secrets"],
        ),
        "missing": ({"secrets": {"environment": "prod"}}, ["mount", "required"]),
        "suboption": ({"secrets": {**SECRETS, "uid": 0}}, ["secrets: unsupported option: uid"]),
        "climbing": ({"secrets": {"environment": "../x", "mount": "db"}}, ["environment name '../x'"]),
        "relative": ({"secrets": {**SECRETS, "target": "run/secrets"}}, ["target 'run/secrets'", "absolute"]),
        "dots": ({"secrets": {**SECRETS, "target": "/run/../secrets"}}, ["absolute"]),
        "misspelt": ({"secrets": SECRETS, "imag": "x"}, ["Unsupported parameters", "imag"]),
        "engine": (
            {"secrets": SECRETS, "docker_host": "unix:///nowhere.sock"},
            ["Docker on the host can't be asked", "Error connecting", "Docker to run"],
        ),
    }
    tasks = [{**again(victim, **options), "name": name} for name, (options, _words) in cases.items()]
    outcome = node.tasks(*tasks)
    node.docker("volume", "rm", "prod.shadow")
    for name, (_options, words) in cases.items():
        message = outcome.message(name)
        assert all(word in message for word in words), f"{name}: {message}"
    assert identity(node, "victim") == before


def test_variables_name_the_files(node: Control) -> None:
    task = container("named", secrets=SECRETS, env_from_secrets={"PASSWORD": "db_password"}, env={"OTHER": "x"})
    outcome = node.tasks(task, again(task))
    assert outcome.rc == 0, outcome.output
    assert outcome.results["named again"]["changed"] is False
    printed = node.docker("exec", "named", "sh", "-c", 'echo "$PASSWORD_FILE $OTHER"; wc -c <"$PASSWORD_FILE"').stdout
    assert printed.split() == ["/run/secrets/db_password", "x", "40"]


def test_list_becomes_the_containers_own_mount(node: Control) -> None:
    listed = ["shared", {"source": "db_password", "target": "db/password", "uid": 7, "mode": "0400"}]
    task = container(
        "own",
        environment="prod",
        secrets=listed,
        env_from_secrets={"DB": "db_password"},
        secrets_mount={"target": "/s"},
    )
    foretold = node.tasks(task, arguments=("--check", "--diff"))
    assert foretold.rc == 0, foretold.output
    assert foretold.results["own"]["changed"] is True
    assert "prod.own" not in node.docker("volume", "ls", "--quiet").stdout

    outcome = node.tasks(task, again(task), arguments=("--diff",))
    assert outcome.rc == 0, outcome.output
    first, second = outcome.results["own"], outcome.results["own again"]
    assert [first["changed"], second["changed"]] == [True, False]
    assert first["secrets_mount"]["action"] == "delivered"
    assert "prod.own owner container: db/password is db_password version" in first["diff"][0]["after"]
    assert second["secrets_mount"]["action"] == "unchanged"
    printed = node.docker("exec", "own", "sh", "-c", "echo $DB_FILE; stat -L -c '%u %a' /s/shared $DB_FILE").stdout
    assert printed.splitlines() == ["/s/db/password", "0 444", "7 400"]

    # Other files, same place: the running container sees them. Another target of the variable's file: made anew.
    before = identity(node, "own")
    fewer = again(task, secrets=listed[1:])
    moved = {**again(task, secrets=[{**listed[1], "target": "moved"}]), "name": "moved"}
    outcome = node.tasks(fewer, again(fewer), moved)
    assert outcome.rc == 0, outcome.output
    assert [outcome.results[name]["changed"] for name in ("own again", "own again again", "moved")] == [
        True,
        False,
        True,
    ]
    assert identity(node, "own") != before
    assert node.docker("exec", "own", "ls", "/s").stdout.split() == ["moved"]

    gone = {**again(task, state="absent"), "name": "gone"}
    outcome = node.tasks(gone, {**gone, "name": "gone again"})
    assert outcome.rc == 0, outcome.output
    assert outcome.results["gone"]["secrets_mount"]["action"] == "removed"
    assert [outcome.results[name]["changed"] for name in ("gone", "gone again")] == [True, False]
    assert "prod.own" not in node.docker("volume", "ls", "--quiet").stdout


def test_fewer_files_do_not_make_the_container_anew(node: Control) -> None:
    task = container("keeps", environment="prod", secrets=["shared", "db_password"])
    assert node.tasks(task).rc == 0
    before = identity(node, "keeps")
    outcome = node.tasks(again(task, secrets=["shared"]))
    assert outcome.results["keeps again"]["changed"] is True, outcome.output
    assert identity(node, "keeps") == before
    assert node.docker("exec", "keeps", "ls", "/run/secrets").stdout.split() == ["shared"]
    purged = {"environment": "prod", "mounts": [], "purge": True}
    outcome = node.tasks({"name": "Purge", "hostseal.secrets.mount": purged}, arguments=("--check",))
    assert "prod.keeps" not in str(outcome.results["Purge"]["mounts"])
    assert node.tasks(again(task, state="absent")).rc == 0


def test_store_of_module_defaults(node: Control) -> None:
    task = container("elsewhere", environment="prod", secrets=["shared"])
    nowhere = {"group/hostseal.secrets.hostseal": {"store": "sqlite:////nowhere/store.db"}}
    outcome = node.tasks(task, module_defaults=nowhere)
    assert "/nowhere/store.db" in outcome.message("elsewhere")
    assert node.docker("ps", "--all", "--quiet").stdout == ""


def test_async_is_refused(node: Control) -> None:
    outcome = node.tasks({**container("later", secrets=SECRETS), "async": 60, "poll": 0})
    assert "async" in outcome.message("later")


def test_module_defaults_of_docker_container_apply_to_both_calls(node: Control) -> None:
    task = container("defaults", secrets=SECRETS)
    wrong = {"group/community.docker.docker": {"docker_host": "unix:///nowhere.sock"}}
    outcome = node.tasks(task, module_defaults=wrong)
    assert "Error connecting" in outcome.message("defaults")
    node.host.sh("ln -sfn /var/run/docker.sock /run/other.sock")
    right = {
        **wrong,
        "community.docker.docker_container": {
            "docker_url": "unix:///run/other.sock",
            "labels": {"from": "{{ 'defaults' }}"},
        },
    }
    right["group/community.docker.docker"] = {"timeout": 30}
    outcome = node.tasks(
        task, again(task), {**again(task, labels={"from": "task"}), "name": "overridden"}, module_defaults=right
    )
    assert outcome.rc == 0, outcome.output
    assert [outcome.results[name]["changed"] for name in ("defaults", "defaults again", "overridden")] == [
        True,
        False,
        True,
    ]
    assert node.docker("inspect", "--format", "{{.Config.Labels.from}}", "defaults").stdout == "task\n"


def test_image_that_ships_files_at_the_target(node: Control) -> None:
    task = container("ships", image="busybox-secrets", secrets=SECRETS)
    outcome = node.tasks(task, again(task))
    assert outcome.rc == 0, outcome.output
    assert outcome.results["ships again"]["changed"] is False
    assert node.docker("exec", "ships", "ls", "/run/secrets").stdout.split() == ["db_password", "shared"]
    without_nocopy = ("run", "--rm", "-v", "prod.db:/run/secrets", "--volume-driver", "hostseal")
    listed = node.docker(*without_nocopy, "busybox-secrets", "ls", "/run/secrets").stdout
    assert listed.split() == ["db_password", "shared"]


def test_docker_run_alone(node: Control) -> None:
    command = ("run", "--rm", "-v", "prod.db:/run/secrets", "--volume-driver", "hostseal", "busybox")
    assert node.docker(*command, "wc", "-c", "/run/secrets/db_password").stdout.split()[0] == "40"
    # Asked for read-write, and gets it read-only all the same.
    assert node.docker(*command, "touch", "/run/secrets/x", check=False).returncode != 0


def test_docker_run_with_a_misspelt_volume_does_not_start(node: Control) -> None:
    refused = node.docker(
        "run", "--rm", "-v", "prod.bd:/run/secrets", "--volume-driver", "hostseal", "busybox", "true", check=False
    )
    assert refused.returncode == 125
    assert "prod.bd" in refused.stderr
    assert "hostseal.secrets.mount" in refused.stderr
    assert "prod.bd" not in node.docker("volume", "ls", "--quiet").stdout


def test_shadowing_volume_is_an_error_of_mount(node: Control) -> None:
    node.docker("volume", "create", "prod.early")
    deliver = {"environment": "prod", "name": "early", "secrets": [{"source": "shared"}]}
    outcome = node.tasks(
        {"name": "Deliver", "hostseal.secrets.mount": deliver},
        container("early", secrets={**SECRETS, "mount": "early"}),
    )
    node.docker("volume", "rm", "prod.early")
    mended = node.tasks(
        {"name": "Deliver", "hostseal.secrets.mount": deliver},
        container("early", secrets={**SECRETS, "mount": "early"}),
        {"name": "Take away", "hostseal.secrets.mount": {"environment": "prod", "name": "early", "state": "absent"}},
    )
    assert all(word in outcome.message("Deliver") for word in ("'prod.early'", "docker volume rm"))
    assert "driver 'local'" in outcome.message("early")
    assert mended.rc == 0, mended.output
