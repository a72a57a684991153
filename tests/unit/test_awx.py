# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The credential types for AWX, and that what stands in for AWX's own checks refuses what AWX refuses."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.hostseal.secrets.plugins.module_utils._options import BACKEND, STORE

from tests.awx_schemas import problems
from tests.rig.paths import ROOT

TYPES = sorted((ROOT / "playbooks/files/awx").glob("*.yml"))


def _read(path: Path) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return read


@pytest.mark.parametrize("path", TYPES, ids=lambda path: path.stem)
def test_credential_type_is_one_that_awx_takes(path: Path) -> None:
    assert problems("credential_types", _read(path)) == []


@pytest.mark.parametrize("path", TYPES, ids=lambda path: path.stem)
def test_secret_is_kept_encrypted_and_goes_by_a_file(path: Path) -> None:
    kind = _read(path)
    secret = {field["id"] for field in kind["inputs"]["fields"] if field.get("secret")}
    assert secret == {field["id"] for field in kind["inputs"]["fields"]} & {"key", "secret_id", "token", "password"}
    for name in secret:
        assert kind["injectors"]["file"][f"template.{name}"] == f"{{{{ {name} }}}}"
        for template in kind["injectors"]["env"].values():
            assert not re.search(rf"{{.*(?<!filename\.)\b{name}\b", template)


@pytest.mark.parametrize("path", TYPES, ids=lambda path: path.stem)
def test_variables_are_those_that_options_read(path: Path) -> None:
    read = {name for option in {**STORE, **BACKEND}.values() for name in option["fallback"][1]}
    assert set(_read(path)["injectors"]["env"]) <= read


def _second_field(kind: dict[str, Any]) -> None:
    kind["inputs"]["fields"].append(copy.deepcopy(kind["inputs"]["fields"][0]))


def _set(*path: str, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(kind: dict[str, Any]) -> None:
        for step in path[:-1]:
            kind = kind[int(step)] if isinstance(kind, list) else kind[step]
        kind[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_set("kind", to="ssh"), "'ssh' is not one of"),
        (_set("inputs", "fields", "0", "id", to="a-b"), "does not match"),
        (_set("inputs", "fields", "0", "id", to="tower"), "should not be valid"),
        (_set("inputs", "fields", "0", "id", to="namespace"), "namespace is Jinja's"),
        (_set("inputs", "fields", "0", "ask_at_runtime", to=True), "'ask_at_runtime' was unexpected"),
        (_set("inputs", "fields", "0", "default", to=5), "is of another type"),
        (_set("inputs", "fields", "0", "type", to="boolean"), "of a boolean|uses an undefined"),
        (_set("inputs", "required", to=["other"]), "required and no field"),
        (_second_field, "is there twice"),
        (_set("injectors", "env", "ANSIBLE_VAULT", to="x"), "ANSIBLE_VAULT is reserved"),
        (_set("injectors", "env", "JOB_ID", to="x"), "JOB_ID is reserved"),
        (_set("injectors", "env", "A-B", to="x"), "does not match"),
        (_set("injectors", "env", "A", to="{{ nothing }}"), "'nothing' is undefined"),
        (_set("injectors", "env", "A", to="{{ tower.filename.nothing }}"), "no attribute 'nothing'"),
        (_set("injectors", "env", "A", to="{{ key"), "unexpected end"),
        (_set("injectors", "env", "A", to="ä"), "does not match"),
        (_set("injectors", "file", "template", to="x"), "one file and several"),
        (_set("injectors", "file", "key", to="x"), "do not match|does not match"),
    ],
)
def test_what_awx_refuses_is_refused(spoil: Callable[[dict[str, Any]], None], reason: str) -> None:
    kind = _read(ROOT / "playbooks/files/awx/localkey.yml")
    spoil(kind)
    assert re.search(reason, "\n".join(problems("credential_types", kind)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"type": "secret"}, "'secret' is not one of"),
        ({"required": "yes"}, "is not of type 'boolean'"),
        ({"default": 1}, "is of another type"),
        ({"type": "multiplechoice"}, "has no choices"),
        ({"hint": "x"}, "'hint' was unexpected"),
    ],
)
def test_odd_question_is_refused(change: dict[str, Any], reason: str) -> None:
    question = {"type": "text", "question_name": "Name", "variable": "name", "required": True}
    survey = {"name": "", "description": "", "spec": [question]}
    assert problems("survey_spec", survey) == []
    assert "asked for twice" in problems("survey_spec", {**survey, "spec": [question, question]})[0]
    assert re.search(reason, "\n".join(problems("survey_spec", {**survey, "spec": [{**question, **change}]})))


def test_execution_environment_gets_the_packages_that_the_collection_needs() -> None:
    builder = Path(sys.executable).with_name("ansible-builder")
    done = subprocess.run(
        [builder, "introspect", "--sanitize", ROOT / "build/sym"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    found = yaml.safe_load(done.stdout)
    python = {re.split(r"[\[>= ]", line)[0] for line in found["python"]}
    assert python == {"jwcrypto", "SQLAlchemy", "hvac", "PyMySQL", "psycopg"}
    assert not found["system"]
