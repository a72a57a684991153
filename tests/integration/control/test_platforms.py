# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the role host_agent makes of a distribution, by facts that a test has set: no such host is there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig.paths import BUILD

# Distribution, version, and how packages are installed; "" where the role refuses.
PLATFORMS = [
    ("Debian", "12.12", "apt"),
    ("Debian", "13.1", "apt"),
    ("Ubuntu", "22.04", "apt"),
    ("Ubuntu", "24.04", "apt"),
    ("RedHat", "9.6", "dnf"),
    ("RedHat", "10.0", "dnf"),
    ("AlmaLinux", "9.6", "dnf"),
    ("Rocky", "10.0", "dnf"),
    ("CentOS", "9", "dnf"),
    ("Fedora", "44", "dnf"),
    ("Debian", "11.11", ""),
    ("Ubuntu", "20.04", ""),
    ("Ubuntu", "23.10", ""),
    ("RedHat", "8.10", ""),
    ("Fedora", "40", ""),
    ("Alpine", "3.20.1", ""),
    ("Archlinux", "", ""),
]
TASKS = [
    {
        "name": "Facts",
        "ansible.builtin.set_fact": {
            "distribution": "{{ platform[0] }}",
            "distribution_version": "{{ platform[1] }}",
            "service_mgr": "{{ manager }}",
            "selinux": {"status": "disabled"},
            "cacheable": True,
        },
    },
    {
        "name": "Platform",
        "ansible.builtin.include_role": {
            "name": "hostseal.secrets.host_agent",
            "tasks_from": "platform",
            "public": True,
            "rolespec_validate": False,
        },
    },
    {
        "name": "Choice",
        "ansible.builtin.debug": {"msg": "{{ hostseal__package_manager }} {{ hostseal__packages | join(' ') }}"},
    },
]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """For each of PLATFORMS, and some more, what was chosen or why it was refused."""
    folder = Path(tmp_path_factory.mktemp("platforms"))
    hosts = {
        f"{name} {version}": {"platform": [name, version], "manager": "systemd"}
        for name, version, _manager in PLATFORMS
    }
    hosts["without systemd"] = {"platform": ["Debian", "12.12"], "manager": "sysvinit"}
    for version in ("22.04", "24.04"):
        hosts[f"creds {version}"] = {"platform": ["Ubuntu", version], "manager": "systemd"}
        hosts[f"creds {version}"]["hostseal_key_protection"] = "systemd-creds"
    inventory = {"all": {"hosts": hosts, "vars": {"ansible_connection": "local"}}}
    (folder / "hosts.json").write_text(json.dumps(inventory), encoding="utf-8")
    (folder / "play.json").write_text(
        json.dumps([{"hosts": "all", "gather_facts": False, "tasks": TASKS}]), encoding="utf-8"
    )
    environment = {
        **os.environ,
        "ANSIBLE_COLLECTIONS_PATH": f"{BUILD / 'sym'}:{BUILD / 'collections'}",
        "ANSIBLE_HOME": str(folder / "ansible"),
        "ANSIBLE_STDOUT_CALLBACK": "ansible.posix.json",
    }
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", folder / "hosts.json", folder / "play.json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    outcomes: dict[str, str] = {}
    for task in json.loads(done.stdout[done.stdout.index("{\n") :])["plays"][0]["tasks"]:
        for host, result in task["hosts"].items():
            if result.get("failed") or task["task"]["name"] == "Choice":
                outcomes[host] = result["msg"]
    return outcomes


@pytest.mark.parametrize(("name", "version", "manager"), PLATFORMS)
def test_packages_or_a_refusal(told: dict[str, str], name: str, version: str, manager: str) -> None:
    said = told[f"{name} {version}"]
    if manager:
        assert said == f"{manager} python3-jwcrypto python3-cryptography"
    else:
        assert said.startswith("hostseal's agent runs on Debian 12, 13; Ubuntu 22.04, 24.04; RedHat 9, 10;")
        assert said.endswith(f"this is {name} {version} with systemd")


def test_systemd_is_needed(told: dict[str, str]) -> None:
    assert told["without systemd"].endswith("with sysvinit")


def test_a_credential_needs_a_newer_systemd(told: dict[str, str]) -> None:
    assert "needs systemd 250" in told["creds 22.04"]
    assert told["creds 24.04"].startswith("apt")
