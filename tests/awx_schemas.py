# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What AWX's API accepts of what playbooks/awx_setup.yml sends, as JSON Schemas, with the rules that they can't say.

From the models, fields and serializers of AWX 24.6.1: awx/main/fields.py (CredentialTypeInputField,
CredentialTypeInjectorField), awx/main/constants.py (ENV_BLOCKLIST, SURVEY_TYPE_MAPPING), awx/main/models,
awx/api/serializers.py and JobTemplateSurveySpec in awx/api/views. Only fields that may be written are named.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from jinja2 import StrictUndefined, TemplateError, sandbox
from jinja2.defaults import DEFAULT_NAMESPACE
from jsonschema import Draft202012Validator

_VARIABLE = r"^[a-zA-Z_]+[a-zA-Z0-9_]*$"
_RESERVED = [
    "AD_HOC_COMMAND_ID",
    "AWX_HOST",
    "CACHE",
    "CALLBACK_CONNECTION",
    "CALLBACK_QUEUE",
    "INVENTORY_HOSTVARS",
    "INVENTORY_ID",
    "INVENTORY_SOURCE_ID",
    "INVENTORY_UPDATE_ID",
    "JOB_CALLBACK_DEBUG",
    "JOB_ID",
    "MAX_EVENT_RES",
    "PATH",
    "PROJECT_REVISION",
    "PYTHONPATH",
    "REST_API_TOKEN",
    "REST_API_URL",
    "SUPERVISOR_CONFIG_PATH",
    "VIRTUAL_ENV",
]

_FLAG = {"type": "boolean"}
_ID = {"type": "integer"}
_ID_OR_NONE = {"type": ["integer", "null"]}
_NAME = {"type": "string", "minLength": 1, "maxLength": 512}
_TEXT = {"type": "string"}


def _object(must: str, **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": must.split(),
        "additionalProperties": False,
    }


_INPUTS = _object(
    "fields",
    required={"type": "array", "items": _TEXT},
    fields={
        "type": "array",
        "items": _object(
            "id label",
            id={"type": "string", "pattern": _VARIABLE, "not": {"const": "tower"}},
            type={"enum": ["string", "boolean"]},
            format={"enum": ["ssh_private_key", "url"]},
            choices={"type": "array", "minItems": 1, "items": _TEXT, "uniqueItems": True},
            label=_TEXT,
            help_text=_TEXT,
            multiline=_FLAG,
            secret=_FLAG,
            default={},
        ),
    },
)
_INJECTORS = _object(
    "",
    file={
        "type": "object",
        "patternProperties": {r"^template(\.[a-zA-Z_]+[a-zA-Z0-9_]*)?$": _TEXT},
        "additionalProperties": False,
    },
    env={
        "type": "object",
        "patternProperties": {_VARIABLE: {"type": "string", "pattern": "^[\x00-\x7f]*$"}},
        "additionalProperties": False,
    },
    extra_vars={"type": "object"},
)
_QUESTION = _object(
    "type question_name variable required",
    type={"enum": ["text", "textarea", "password", "multiplechoice", "multiselect", "integer", "float"]},
    question_name=_TEXT,
    question_description=_TEXT,
    variable=_TEXT,
    required=_FLAG,
    default={},
    choices={},
    min={"type": ["integer", "null"]},
    max={"type": ["integer", "null"]},
)
_COMMON = {"name": _NAME, "description": _TEXT, "organization": _ID_OR_NONE}
SCHEMAS: dict[str, dict[str, Any]] = {
    "execution_environments": _object(
        "name image",
        **_COMMON,
        image={"type": "string", "maxLength": 1024, "pattern": r"^[a-zA-Z0-9.:/_-]+(@[a-z0-9]+:[0-9a-f]{32,})?$"},
        credential=_ID_OR_NONE,
        pull={"enum": ["always", "missing", "never", ""]},
    ),
    # `managed` may be sent, and is not looked at.
    "credential_types": _object(
        "name kind",
        name=_NAME,
        description=_TEXT,
        kind={"enum": ["cloud", "net"]},
        inputs=_INPUTS,
        injectors=_INJECTORS,
        managed=_FLAG,
    ),
    "credentials": _object(
        "name credential_type",
        **_COMMON,
        credential_type=_ID,
        inputs={"type": "object"},
        user=_ID_OR_NONE,
        team=_ID_OR_NONE,
    ),
    "projects": _object(
        "name",
        **_COMMON,
        scm_type={"enum": ["", "git", "svn", "insights", "archive"]},
        scm_url={"type": "string", "maxLength": 1024},
        scm_branch={"type": "string", "maxLength": 256},
    ),
    # null is the same as an empty kind.
    "inventories": _object(
        "name organization",
        name=_NAME,
        description=_TEXT,
        organization=_ID,
        kind={"enum": ["", "smart", "constructed", None]},
        host_filter={"type": ["string", "null"]},
    ),
    "job_templates": _object(
        "name project playbook",
        **_COMMON,
        job_type={"enum": ["run", "check"]},
        inventory=_ID_OR_NONE,
        project=_ID,
        playbook={"type": "string", "minLength": 1, "maxLength": 1024},
        execution_environment=_ID_OR_NONE,
        job_tags={"type": "string", "maxLength": 1024},
        skip_tags={"type": "string", "maxLength": 1024},
        extra_vars=_TEXT,
        become_enabled=_FLAG,
        ask_credential_on_launch=_FLAG,
        ask_limit_on_launch=_FLAG,
        ask_diff_mode_on_launch=_FLAG,
        survey_enabled=_FLAG,
    ),
    "survey_spec": _object(
        "name description spec",
        name=_TEXT,
        description=_TEXT,
        spec={"type": "array", "minItems": 1, "items": _QUESTION},
    ),
}


def problems(kind: str, payload: dict[str, Any]) -> list[str]:
    """Why AWX would refuse PAYLOAD as one of KIND, a key of SCHEMAS; empty when it would not."""
    found = [error.message for error in Draft202012Validator(SCHEMAS[kind]).iter_errors(payload)]
    if kind == "credential_types" and not found:
        found = [*_bad_inputs(payload["inputs"]), *_bad_injectors(payload["inputs"], payload["injectors"])]
    if kind == "survey_spec" and not found:
        found = list(_bad_questions(payload["spec"]))
    return found


def _bad_inputs(inputs: dict[str, Any]) -> Iterator[str]:
    names = [field["id"] for field in inputs["fields"]]
    yield from (f"{name} is there twice" for name in names if names.count(name) > 1)
    # One that is left empty is not defined, and then Jinja's own means something else.
    yield from (f"{name} is Jinja's" for name in names if name in DEFAULT_NAMESPACE)
    yield from (f"{name} is required and no field" for name in inputs.get("required", []) if name not in names)
    for field in inputs["fields"]:
        if field.get("type") == "boolean":
            yield from (f"{key} of a boolean" for key in ("choices", "multiline", "format", "secret") if key in field)
        wanted = bool if field.get("type") == "boolean" else str
        if not isinstance(field.get("default", wanted()), wanted):
            yield f"default of {field['id']} is of another type"


def _bad_injectors(inputs: dict[str, Any], injectors: dict[str, Any]) -> Iterator[str]:
    for name in injectors.get("env", {}):
        if name.startswith("ANSIBLE_") or name in _RESERVED:
            yield f"{name} is reserved"
    files = injectors.get("file", {})
    if "template" in files and len(files) > 1:
        yield "one file and several"
    # The name of the one file, or the names of several.
    filename = "path" if "template" in files else {label.partition(".")[2]: "path" for label in files}
    namespace = {**{field["id"]: "value" for field in inputs["fields"]}, "tower": {"filename": filename}}
    environment = sandbox.ImmutableSandboxedEnvironment(undefined=StrictUndefined)
    for template in (*injectors.get("env", {}).values(), *files.values()):
        try:
            environment.from_string(template).render(namespace)
        except TemplateError as error:
            yield f"{template}: {error}"


def _bad_questions(questions: list[dict[str, Any]]) -> Iterator[str]:
    variables = [question["variable"] for question in questions]
    yield from (f"{name} is asked for twice" for name in variables if variables.count(name) > 1)
    for question in questions:
        kind = {"integer": (int,), "float": (float, int)}.get(question["type"], (str,))
        default = question.get("default", "")
        if default != "" and not isinstance(default, kind):
            yield f"default of {question['variable']} is of another type"
        if question["type"] in ("multiplechoice", "multiselect") and "choices" not in question:
            yield f"{question['variable']} has no choices"
