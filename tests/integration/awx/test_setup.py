# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""playbooks/awx_setup.yml against what stands in for AWX: every request is one that AWX takes, and a second run sends none."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.integration.awx.recorder import AWX, TOKEN
from tests.rig.paths import BUILD, ROOT

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(3600)]

IMAGE = "registry.example.com/hostseal-ee:0.1.0"


def _set_up(awx: AWX, folder: Path, *arguments: str, fails: bool = False) -> tuple[str, int]:
    """What the playbook prints, and how many tasks have changed something."""
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            *("hostseal.secrets.awx_setup", "-v", *arguments),
        ],
        env={
            **os.environ,
            "ANSIBLE_COLLECTIONS_PATH": f"{BUILD / 'sym'}:{BUILD / 'collections'}",
            "ANSIBLE_HOME": str(folder / "ansible"),
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_NOCOLOR": "true",
            "CONTROLLER_HOST": awx.url,
            "CONTROLLER_OAUTH_TOKEN": TOKEN,
        },
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    output = done.stdout + done.stderr
    assert bool(done.returncode) is fails, output
    found = re.search(r"changed=(\d+)", output)
    return output, int(found[1]) if found else 0


def _attached(awx: AWX) -> dict[str, list[str]]:
    names = {number: item["name"] for number, item in awx.items["credentials"].items()}
    return {
        name.removeprefix("hostseal "): [names[number] for number in awx.attached[item["id"]]]
        for name, item in awx.named("job_templates").items()
    }


def test_set_up_with_vault_and_again(tmp_path: Path) -> None:
    with AWX() as awx:
        _output, changed = _set_up(awx, tmp_path, "-e", f"hostseal_awx_image={IMAGE}")
        assert changed == 6
        assert awx.named("execution_environments")["hostseal"]["image"] == IMAGE
        kinds = awx.named("credential_types")
        for path in (ROOT / "playbooks/files/awx").glob("*.yml"):
            wanted = yaml.safe_load(path.read_text(encoding="utf-8"))
            # Templates are AWX's, and went through Ansible as they are.
            assert {name: kinds[wanted["name"]][name] for name in wanted} == wanted
        # Like sets: AWX does not keep an order.
        assert {name: set(listed) for name, listed in _attached(awx).items()} == {
            "declare": {"hostseal store", "hostseal writer"},
            "deliver": {"hostseal machine", "hostseal store", "hostseal deployer"},
            "rotate": {"hostseal machine", "hostseal store", "hostseal writer and deployer"},
            "revoke": {"hostseal machine", "hostseal store", "hostseal deployer"},
            "report": {"hostseal machine", "hostseal store"},
        }
        templates = awx.named("job_templates")
        tags = {name: (template["job_tags"], template["skip_tags"]) for name, template in templates.items()}
        assert tags.pop("hostseal declare") == ("declare", "")
        assert tags.pop("hostseal deliver") == ("", "declare")
        assert set(tags.values()) == {("", "")}
        assert "/srv/hostseal/report.html" in templates["hostseal report"]["extra_vars"]
        questions = [question for survey in awx.surveys.values() for question in survey["spec"]]
        assert {question["variable"] for question in questions} == {
            *("hostseal_rotate", "hostseal_serial", "hostseal_environment", "hostseal_revoke"),
        }
        # A survey never asks for a value, and no credential comes with one.
        assert {question["type"] for question in questions} == {"text"}
        assert not any("inputs" in body for _method, where, body in awx.writes if where.endswith("/credentials/"))

        # Somebody has typed in what the credentials are for.
        for item in awx.items["credentials"].values():
            item["inputs"] = {"secret_id": "$encrypted$"}
        before = list(awx.writes)
        output, changed = _set_up(awx, tmp_path, "-e", f"hostseal_awx_image={IMAGE}")
        assert (changed, awx.writes) == (0, before), output

        newer = IMAGE.replace("0.1.0", "0.2.0")
        _output, changed = _set_up(awx, tmp_path, "-e", f"hostseal_awx_image={newer}")
        [(method, address, body)] = awx.writes[len(before) :]
        assert (changed, method, body["image"]) == (1, "PATCH", newer)
        assert address == awx.named("execution_environments")["hostseal"]["url"]


def test_set_up_with_a_local_key_and_a_store_of_the_inventory(tmp_path: Path) -> None:
    with AWX() as awx:
        options = {"backend": "localkey", "store_credential": "false", "inventory": "ours", "report": "/srv/r.html"}
        given = [f"hostseal_awx_{name}={value}" for name, value in {"image": IMAGE, **options}.items()]
        _set_up(awx, tmp_path, *(part for one in given for part in ("-e", one)))
        keyed = ["hostseal local key", "hostseal machine"]
        assert {name: sorted(listed) for name, listed in _attached(awx).items()} == {
            "declare": ["hostseal local key"],
            **dict.fromkeys(("deliver", "rotate", "revoke"), keyed),
            "report": ["hostseal machine"],
        }
        assert set(awx.named("credentials")) == set(keyed)
        assert set(awx.named("inventories")) == {"ours"}


@pytest.mark.parametrize(
    "given", ["hostseal_awx_backend=vault", f"hostseal_awx_image={IMAGE} hostseal_awx_backend=swarm"]
)
def test_bad_variable_fails_before_anything_is_sent(given: str, tmp_path: Path) -> None:
    with AWX() as awx:
        output, _changed = _set_up(awx, tmp_path, "-e", given, fails=True)
        assert "Say hostseal_awx_image, and as hostseal_awx_backend vault or localkey" in output
        assert awx.writes == []
