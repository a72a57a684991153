# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The EXAMPLES of each module, against the options that its documentation has with all fragments."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from tests.rig.paths import BUILD, ROOT

COLLECTION = "hostseal.secrets"
MODULES = sorted(path.stem for path in (ROOT / "plugins/modules").glob("[a-z]*.py"))
# What stands for a template, by the type of the option.
RENDERED = {"list": [], "dict": {}, "int": 1, "bool": True}


@pytest.fixture(scope="module")
def documented() -> dict[str, Any]:
    """What ansible-doc has of each module."""
    names = [f"{COLLECTION}.{module}" for module in MODULES]
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-doc")), "--json", "--type", "module", *names],
        env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": f"{BUILD / 'sym'}:{BUILD / 'collections'}"},
        capture_output=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _spec(options: dict[str, Any]) -> dict[str, Any]:
    """An argument spec with what the documentation of OPTIONS says."""
    kept = ("type", "elements", "required", "choices", "aliases")
    return {
        name: {key: option[key] for key in kept if key in option}
        | ({"options": _spec(option["suboptions"])} if "suboptions" in option else {})
        for name, option in options.items()
    }


def _render(arguments: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    """ARGUMENTS as if templates had been filled in."""
    rendered = {}
    for name, value in arguments.items():
        option = spec.get(name, {})
        if isinstance(value, str) and "{{" in value:
            rendered[name] = RENDERED.get(option.get("type", "str"), "rendered")
        elif isinstance(value, list) and "options" in option:
            rendered[name] = [_render(item, option["options"]) for item in value]
        elif isinstance(value, dict) and "options" in option:
            rendered[name] = _render(value, option["options"])
        else:
            rendered[name] = value
    return rendered


def _complaints(documented: dict[str, Any], tasks: list[dict[str, Any]]) -> list[str]:
    """What is wrong with our modules in TASKS."""
    found = []
    for task in tasks:
        if not task.get("name", "-")[0].isupper():
            found.append(f"{task}: no name")
        for name in [key for key in task if key.startswith(f"{COLLECTION}.")]:
            spec = _spec(documented[name]["doc"]["options"])
            # Its other options are docker_container's.
            arguments = {
                key: value
                for key, value in (task[name] or {}).items()
                if key in spec or name != f"{COLLECTION}.container"
            }
            found += ArgumentSpecValidator(spec).validate(_render(arguments, spec)).error_messages
    return found


@pytest.mark.parametrize("module", MODULES)
def test_examples_use_the_module_as_it_is_documented(documented: dict[str, Any], module: str) -> None:
    tasks = yaml.safe_load(documented[f"{COLLECTION}.{module}"]["examples"])
    assert any(f"{COLLECTION}.{module}" in task for task in tasks)
    assert _complaints(documented, tasks) == []


def test_wrong_examples_are_found(documented: dict[str, Any]) -> None:
    for arguments, culprit in (
        ({"environment": "prod", "nmae": "x"}, "nmae"),
        ({"name": "x"}, "environment"),
        ({"environment": "prod", "generate": {"length": "long"}}, "length"),
        ({"environment": "prod", "secrets": [{"name": "x", "state": "gone"}]}, "gone"),
    ):
        [complaint] = _complaints(documented, [{"name": "Task", f"{COLLECTION}.secret": arguments}])
        assert culprit in complaint
