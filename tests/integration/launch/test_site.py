# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The playbook hostseal.secrets.site with an inventory of two groups."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.playbook import ControlNode, declare, install, mount
from tests.release import tarball
from tests.rig.paths import BUILD, ROOT

from .conftest import SHARED, SITE, Control, Site


def _read(control: Control, volume: str, command: str) -> str:
    mount = f"type=volume,source={volume},target=/run/secrets,readonly,volume-nocopy,volume-driver=hostseal"
    return control.docker("run", "--rm", "--mount", mount, "busybox", "sh", "-c", command).stdout


def test_check_mode_on_a_bare_host_predicts_and_changes_nothing(site: Site) -> None:
    assert site.checked.rc == 0, site.checked.output
    assert site.checked.changed[site.control.host.name] > 0
    assert site.after_check == site.bare
    delivered = site.checked.results["Deliver the mounts to the host"]
    assert [(mount["volume"], mount["action"]) for mount in delivered["mounts"]] == [
        ("prod.db", "delivered"),
        ("staging.web", "delivered"),
    ]
    assert "prod.db owner default: db_password is db_password version" in delivered["diff"]["after"]


def test_host_in_two_groups_gets_the_mounts_of_both(site: Site) -> None:
    assert site.first.changed[site.control.host.name] > 0
    listed = _read(site.control, "prod.db", "stat -L -c '%n %a %u %g' /run/secrets/*")
    assert listed.split("\n")[:2] == ["/run/secrets/db_password 400 999 998", "/run/secrets/shared 444 0 0"]
    assert _read(site.control, "prod.db", "cat /run/secrets/shared") == SHARED
    assert len(_read(site.control, "prod.db", "cat /run/secrets/db_password")) == 40
    assert len(_read(site.control, "staging.web", "cat /run/secrets/api/token")) == 20


def test_second_run_changes_nothing(site: Site) -> None:
    assert site.second.rc == 0, site.second.output
    assert site.second.changed == {site.control.host.name: 0}


def test_given_values_are_not_in_the_output(site: Site) -> None:
    loud = site.control.playbook(SITE, "-vvvv")
    assert loud.rc == 0, loud.output
    for outcome in (site.checked, site.first, site.second, loud):
        assert "c2VjcmV0" not in outcome.output


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (
            {"hostseal_secrets_x": [{"environment": "prod", "name": "shared", "value": "marker-4711"}]},
            ["secret prod/shared is declared twice and differently", "hostseal_secrets_db", "hostseal_secrets_x"],
        ),
        (
            {"hostseal_mounts_x": [{"environment": "prod", "name": "db", "secrets": []}]},
            ["mount prod/db is declared twice and differently", "hostseal_mounts_db", "hostseal_mounts_x"],
        ),
        (
            {"hostseal_environments_x": [{"name": "prod", "key": "other"}]},
            ["environment prod is declared twice and differently"],
        ),
        (
            {"hostseal_secrets_x": [{"environment": "pord", "name": "a", "value": "marker-4711"}]},
            ["pord", "hostseal_environments lacks"],
        ),
        (
            {"hostseal_secrets_x": [{"environment": "prod", "value": "marker-4711"}]},
            ["hostseal_secrets_x", "item 1", "name is missing"],
        ),
        ({"hostseal_secrets_x": ["marker-4711"]}, ["hostseal_secrets_x", "item 1 is not a dictionary"]),
        ({"hostseal_secrets_x": {"marker-4711": 1}}, ["hostseal_secrets_x", "is not a list"]),
        (
            {"hostseal_secrets_x": [{"environment": "prod", "name": "a", "value": "marker-4711{{ nowhere }}"}]},
            ["hostseal_secrets_x", "can't be evaluated", "withheld"],
        ),
    ],
)
def test_contradictions_are_refused_before_anything_changes(
    site: Site, tmp_path: Path, variables: dict[str, Any], words: list[str]
) -> None:
    extra = tmp_path / "extra.json"
    extra.write_text(json.dumps(variables), encoding="utf-8")
    outcome = site.control.playbook(SITE, "-vvvv", "-e", f"@{extra}")
    assert outcome.rc != 0
    assert list(outcome.results) == ["Check what the inventory declares"]
    message = outcome.message("Check what the inventory declares")
    assert all(word in message for word in words), message
    assert "marker-4711" not in outcome.output


def test_limit_to_the_host_declares_too(site: Site) -> None:
    outcome = site.control.playbook(SITE, "--limit", site.control.host.name)
    assert outcome.rc == 0, outcome.output
    assert outcome.results["Declare its secrets"]["changed"] is False


def test_tasks_with_become_delegation_and_run_once(site: Site) -> None:
    control, host = site.control, site.control.host.name
    declare = {"environment": "prod", "name": "roaming", "generate": {"length": 24}}
    deliver = {"environment": "prod", "name": "roaming", "secrets": [{"source": "roaming"}]}
    container = {
        "name": "roaming",
        "image": "busybox",
        "command": "sleep 600",
        "stop_signal": "KILL",
        "secrets": {"environment": "prod", "mount": "roaming"},
    }
    user = {"ansible_user": "deploy", "ansible_remote_tmp": "/tmp/deploy"}
    outcome = control.playbook(
        [
            {
                "hosts": "localhost",
                "gather_facts": False,
                "connection": "local",
                "tasks": [
                    {"name": "Declare", "hostseal.secrets.secret": declare},
                    {"name": "Seal", "hostseal.secrets.seal": {"hosts": [host], "mounts": [deliver]}, "run_once": True},
                    {"name": "Deliver", "hostseal.secrets.mount": deliver, "delegate_to": host},
                    {"name": "Launch", "hostseal.secrets.container": container, "delegate_to": host, "run_once": True},
                ],
            },
            {
                "hosts": host,
                "gather_facts": False,
                "become": True,
                "vars": user,
                "tasks": [
                    {"name": "Declare again", "hostseal.secrets.secret": declare, "run_once": True},
                    {
                        "name": "Declare here",
                        "hostseal.secrets.secret": declare,
                        "delegate_to": "localhost",
                        "become": False,
                    },
                    {"name": "Deliver again", "hostseal.secrets.mount": deliver},
                    {"name": "Launch again", "hostseal.secrets.container": container},
                ],
            },
        ]
    )
    assert outcome.rc == 0, outcome.output
    changed = {name: result["changed"] for name, result in outcome.results.items()}
    assert changed == {
        "Declare": True,
        "Seal": True,
        "Deliver": True,
        "Launch": True,
        "Declare again": False,
        "Declare here": False,
        "Deliver again": False,
        "Launch again": False,
    }
    assert len(control.docker("exec", "roaming", "cat", "/run/secrets/roaming").stdout) == 24
    control.docker("rm", "-f", "roaming")


def test_delivery_without_become_fails_and_says_so(site: Site) -> None:
    deliver = {"environment": "prod", "name": "db", "secrets": [{"source": "shared"}]}
    outcome = site.control.tasks(
        {"name": "Deliver", "hostseal.secrets.mount": deliver},
        vars={"ansible_user": "deploy", "ansible_remote_tmp": "/tmp/deploy"},
    )
    assert "become" in outcome.message("Deliver") or "ermission" in outcome.message("Deliver")


class Installed(ControlNode):
    """A control node with nothing but what ansible-galaxy put there."""

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "ANSIBLE_COLLECTIONS_PATH": str(self.directory / "collections")}


def test_the_tarball_alone_does_the_main_job(control: Control, tmp_path: Path) -> None:
    node = Installed(tmp_path / "node", control.host)
    built = tarball.build(ROOT, tmp_path / "dist", 0)
    collections = node.directory / "collections"
    galaxy = Path(sys.executable).with_name("ansible-galaxy")
    subprocess.run(
        [galaxy, "collection", "install", "--offline", "--no-deps", "-p", collections, built],
        env={**os.environ, **node.environment()},
        capture_output=True,
        check=True,
        timeout=120,
    )
    # What Galaxy would bring along.
    for name in ("docker", "library_inventory_filtering_v1"):
        here = f"ansible_collections/community/{name}"
        shutil.copytree(BUILD / "collections" / here, collections / here)
    # The community package's rule: nothing else may be needed.
    kept = {"meta", "playbooks", "plugins", "roles"}
    for path in (collections / "ansible_collections/hostseal/secrets").iterdir():
        if path.is_dir() and path.name not in kept:
            shutil.rmtree(path)
        elif path.name not in kept:
            path.unlink()
    container = {
        "name": "first",
        "image": "busybox",
        "command": "sleep 600",
        "stop_signal": "KILL",
        "secrets": {"environment": "first", "mount": "db"},
    }
    plays = [
        {"hosts": "localhost", "gather_facts": False, "tasks": declare("first", password="the first value")},
        {
            "hosts": "docker_hosts",
            "gather_facts": False,
            "tasks": [install("first"), mount(environment="first"), {"hostseal.secrets.container": container}],
        },
    ]
    done = node.run(plays)
    assert done.returncode == 0, done.stdout + done.stderr
    assert control.docker("exec", "first", "cat", "/run/secrets/password").stdout == "the first value"
    control.docker("rm", "-f", "first")
