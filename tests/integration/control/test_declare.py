# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Declaring by real runs: idempotence, check and diff mode, what arrives, and that nothing of a value is told."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

from tests.integration.control.conftest import ENVIRONMENT, Control, secret, task
from tests.markers import Markers


def test_second_run_changes_nothing(control: Control) -> None:
    tasks = (
        *ENVIRONMENT,
        secret("given", value="hunter2"),
        task(
            "list",
            "secret",
            environment="prod",
            generate={"length": 20},
            secrets=[{"name": "a"}, {"name": "b", "value": "x"}, {"name": "c", "generate": {"length": 5}}],
        ),
        secret("none", state="absent"),
        task("info", "secret_info", environment="prod"),
    )
    first = control.tasks(*tasks)
    assert [first.changed(name) for name in ("key", "environment", "given", "list", "none")] == [1, 1, 1, 1, 0]
    assert first.result("list")["secrets"] == [
        {"name": name, "action": "created", "before": None, "version": 1, "pruned": []} for name in "abc"
    ]
    values = control.place.values()
    assert (values["given"], values["b"], len(values["a"]), len(values["c"])) == (b"hunter2", b"x", 20, 5)
    before = control.place.path.read_bytes()
    second = control.tasks(*tasks)
    assert not any(second.changed(name) for name in ("key", "environment", "given", "list", "none", "info"))
    assert control.place.path.read_bytes() == before
    [entry] = [entry for entry in second.result("info")["secrets"] if entry["name"] == "a"]
    assert (entry["version"], entry["delivered"], len(entry["versions"])) == (1, [], 1)


def test_rotation_and_deletion(prod: Control) -> None:
    run = prod.tasks(
        {**secret("a", generate={}), "name": "made"},
        {**secret("a", generate={}, state="rotated"), "name": "rotated"},
        {**secret("a", value="x", on_difference="keep"), "name": "kept"},
        {**secret("a", value="x", on_difference="rotate"), "name": "given"},
        {**secret("a", state="absent"), "name": "deleted"},
        {**secret("a", generate={}), "name": "remade"},
        task("key", "localkey", name="prod", state="rotated"),
        {**secret("a", generate={}, state="rotated"), "name": "under the new key"},
    )
    names = ("made", "rotated", "kept", "given", "deleted", "remade", "under the new key")
    assert [run.result(name)["secrets"][0]["version"] for name in names] == [1, 2, 2, 3, None, 4, 5]
    assert (run.changed("kept"), run.result("key")["version"]) == (0, 2)


def test_check_mode_on_an_empty_store_predicts_and_leaves_no_trace(control: Control, tmp_path: Path) -> None:
    mount = {"name": "db", "secrets": [{"source": "a"}]}
    run = control.tasks(
        *ENVIRONMENT,
        secret("a", value="hunter2"),
        task("list", "secret", environment="prod", secrets=[{"name": "b", "generate": {}}]),
        secret("none", state="absent"),
        task("info", "secret_info", environment="prod"),
        task("host", "host", environments=["prod"], name="db1"),
        task("seal", "seal", environment="prod", hosts=["db1"], mounts=[mount]),
        task("mount", "mount", environment="prod", host="db1", **mount),
        arguments=("--check", "--diff"),
    )
    for name in ("key", "environment", "a", "list", "host", "seal", "mount"):
        assert run.changed(name), name
    for name in ("none", "info"):
        assert not run.changed(name), name
    assert "+prod/a version 1" in run.output
    assert not control.place.path.exists()
    assert not control.place.keys.exists()
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert left <= {"hosts.ini", "play.yml", "results.jsonl", "galaxy_cache"}, left


def test_check_mode_on_a_full_store_predicts_and_changes_nothing(prod: Control) -> None:
    prod.place.declare({"name": "a", "value": "x"}, {"name": "b", "value": "x"})
    before = prod.place.path.read_bytes()
    run = prod.tasks(
        secret("a", value="x"),
        secret("b", value="y", on_difference="rotate"),
        secret("c", value="z"),
        {**secret("a", state="absent"), "name": "deleted"},
        task("key", "localkey", name="prod", state="rotated"),
        arguments=("--check", "--diff"),
    )
    assert [run.changed(name) for name in ("a", "b", "c", "deleted", "key")] == [0, 1, 1, 1, 1]
    assert "-prod/b version 1\n+prod/b version 2" in run.output
    assert prod.place.path.read_bytes() == before
    assert run.result("key")["version"] == 2
    assert prod.tasks(task("key", "localkey", name="prod")).result("key")["version"] == 1


def test_values_arrive_byte_for_byte(prod: Control, tmp_path: Path) -> None:
    binary = bytes(range(256))
    (tmp_path / "file").write_bytes(b"\xff{{ x }}\r\n")
    run = prod.play(
        f"""
- hosts: localhost
  gather_facts: false
  vars:
    template: !unsafe "{{{{ lookup('pipe', 'touch pwned') }}}} {{% raw %}}"
  tasks:
    - hostseal.secrets.secret:
        environment: prod
        secrets:
          - {{name: looks_like_base64, value: aGVsbG8=}}
          - {{name: looks_like_octal, value: "0123"}}
          - {{name: looks_like_bool, value: "yes"}}
          - {{name: looks_like_json, value: '{{"a": 1}}'}}
          - {{name: looks_like_null, value: "null"}}
          - {{name: lines, value: "a\\n b\\n\\n"}}
          - {{name: spaces, value: "  x  "}}
          - {{name: unicode, value: "schön \\u2028"}}
          - {{name: nul, value: "a\\0b"}}
          - {{name: template, value: "{{{{ template }}}}"}}
          - {{name: binary, value_base64: "{base64.b64encode(binary).decode()}"}}
          - {{name: file, value_file: "{tmp_path}/file"}}
"""
    )
    assert run.rc == 0, run.output
    assert prod.place.values() == {
        "looks_like_base64": b"aGVsbG8=",
        "looks_like_octal": b"0123",
        "looks_like_bool": b"yes",
        "looks_like_json": b'{"a": 1}',
        "looks_like_null": b"null",
        "lines": b"a\n b\n\n",
        "spaces": b"  x  ",
        "unicode": "schön \u2028".encode(),
        "nul": b"a\0b",
        "template": b"{{ lookup('pipe', 'touch pwned') }} {% raw %}",
        "binary": binary,
        "file": b"\xff{{ x }}\r\n",
    }
    assert not (tmp_path / "pwned").exists()


def test_vaulted_value(prod: Control, tmp_path: Path) -> None:
    markers = Markers.random("value")
    (tmp_path / "password").write_text("vault password\n", encoding="utf-8")
    encrypted = subprocess.run(
        [
            Path(sys.executable).with_name("ansible-vault"),
            "encrypt_string",
            "--vault-password-file",
            "password",
            "--stdin-name",
            "vaulted",
        ],
        input=markers.text("value"),
        env=prod.environment(),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    play = f"""
- hosts: localhost
  gather_facts: false
  vars:
{chr(10).join("    " + line for line in encrypted.splitlines())}
  tasks:
    - hostseal.secrets.secret: {{environment: prod, name: a, value: "{{{{ vaulted }}}}"}}
    - hostseal.secrets.secret: {{environment: prod, secrets: [{{name: b, value: "{{{{ vaulted }}}}"}}]}}
    - hostseal.secrets.secret: {{environment: prod, name: c, value: "{{{{ vaulted }}}}"}}
      vars: {{unused: "{{{{ vaulted }}}}"}}
"""
    run = prod.play(play, "--vault-password-file", "password", "-vvvv", "--diff")
    assert run.rc == 0, run.output
    assert prod.place.values() == dict.fromkeys("abc", markers.value("value"))
    assert markers.search_text(run.output, "output") == []


def test_nothing_of_a_value_is_told_or_left(control: Control, tmp_path: Path) -> None:
    """All ways to give a value, in tasks that succeed, fail and loop, at the highest verbosity."""
    markers = Markers.random("value", "base64", "file", "differs", "looped", "misspelt")
    values = tmp_path / "values"
    values.mkdir()
    (values / "file").write_bytes(markers.value("file"))
    variables = {name: markers.text(name) for name in ("value", "differs", "looped", "misspelt")}
    variables["base64"] = base64.b64encode(markers.value("base64")).decode()
    # From a file of variables, as a vault would give them: what stands in a playbook is quoted by Ansible's own errors.
    named = {f"m_{name}": value for name, value in variables.items()}
    (values / "vars.json").write_text(json.dumps(named), encoding="utf-8")
    arguments = ("-vvvv", "--diff", "-e", f"@{values}/vars.json")
    value = "{{ m_value }}"
    run = control.tasks(
        *ENVIRONMENT,
        secret("a", value=value),
        secret("b", value_base64="{{ m_base64 }}"),
        secret("c", value_file=str(values / "file")),
        {**secret("a", value="{{ m_differs }}"), "name": "differs"},
        {**secret("a", value="{{ m_differs }}", on_difference="rotate"), "name": "rotates"},
        {**secret("d", vaule="{{ m_misspelt }}"), "name": "misspelt"},
        {**secret("d", value=["{{ m_misspelt }}"]), "name": "list"},
        {**secret("d", value={"x": "{{ m_misspelt }}"}), "name": "dict"},
        {**secret("d", value_base64="{{ m_misspelt }}!"), "name": "bad base64"},
        {**secret("d", value="{{ m_misspelt }}", generate={}), "name": "two"},
        {**secret("d", secrets=[{"name": "d", "value": "{{ m_misspelt }}"}]), "name": "both"},
        {**secret("d", value="{{ m_misspelt * 50000 }}"), "name": "long"},
        task(
            "in a list", "secret", environment="prod", secrets=[{"name": "d", "value": "{{ m_misspelt }}", "vlaue": 1}]
        ),
        task("unknown environment", "secret", environment="prd", name="d", value="{{ m_misspelt }}"),
        task("bad name", "secret", environment="prod", name="../d", value="{{ m_misspelt }}"),
        task("bad store", "secret", environment="prod", name="d", value="{{ m_misspelt }}", store="/dev/null"),
        {
            **secret("{{ item.name }}", value="{{ item.value }}", on_difference="rotate"),
            "name": "loop",
            "loop": [{"name": "e", "value": "{{ m_looped }}"}, {"name": "f", "value": "{{ m_looped }}"}],
        },
        {
            **secret("{{ item.name }}", value="{{ item.value }}"),
            "name": "failing loop",
            "loop": [{"name": "e", "value": "{{ m_value }}"}, {"name": "g/h", "value": "{{ m_looped }}"}],
        },
        {
            **secret("i", value="{{ m_value }}"),
            "name": "retried",
            "register": "retried",
            "until": "retried is failed",
            "retries": 1,
            "delay": 0,
        },
        {"name": "show", "ansible.builtin.debug": {"var": "retried"}},
        task("info", "secret_info", environment="prod"),
        task("key again", "localkey", name="prod", state="rotated"),
        arguments=arguments,
        fails=True,
    )
    keys = control.place.keys / "prod.jwks"
    key_markers = _key_markers(keys)
    found = (markers | key_markers).search_text(run.output, "output")
    assert found == []
    # The variables and the file that the values came from, and the key file, are where the values are.
    search = (markers | key_markers).search_tree(tmp_path, frozenset({str(values), str(keys)}))
    assert search.findings == []
    assert search.unreadable == []
    assert search.files >= 4
    # The same search finds what is there, so it could have found the rest.
    assert len(markers.search_tree(values).findings) >= 5
    assert len(key_markers.search_tree(control.place.keys).findings) >= 4
    for name in (
        "differs",
        "misspelt",
        "list",
        "dict",
        "bad base64",
        "two",
        "both",
        "long",
        "in a list",
        "unknown environment",
        "bad name",
        "bad store",
    ):
        assert len(run.message(name)) < 700, name
    assert control.place.values()["e"] == markers.value("looped")


def _key_markers(path: Path) -> Markers:
    content = json.loads(path.read_text(encoding="ascii"))
    parts = [
        (f"{number} {part}", jwk[part])
        for number, jwk in enumerate(content["keys"])
        for part in ("k", "d")
        if part in jwk
    ]
    return Markers({name: text.encode() for name, text in parts})


def test_loop_over_values_tells_why_it_failed_and_no_item(prod: Control, tmp_path: Path) -> None:
    items = [{"name": "good", "value": "geheim-1"}, {"name": "../bad", "value": "geheim-2"}]
    (tmp_path / "items.json").write_text(json.dumps({"items": items}), encoding="utf-8")
    run = prod.tasks(
        {
            **secret("{{ item.name }}", value="{{ item.value }}"),
            "name": "loop",
            "loop": "{{ items }}",
            "loop_control": {"label": "{{ item.name }}"},
        },
        {**secret("{{ item }}", generate={}), "name": "loop without values", "loop": ["x", "y"]},
        fails=True,
        arguments=("-vvv", "-e", "@items.json"),
    )
    assert "secret name '../bad' is not allowed" in run.output
    assert "geheim" not in run.output
    told = [line["result"] for line in run.lines if line["task"] == "loop"]
    assert told
    assert "geheim" not in str(told)
    # A loop that holds no value need not be hidden.
    assert [entry["secrets"][0]["name"] for entry in run.result("loop without values")["results"]] == ["x", "y"]
    assert set(prod.place.values()) == {"good", "x", "y"}
