# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bad input to the modules of the control node: each a clear error that names the thing, and nothing is changed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.integration.control.conftest import Control, Task, secret, task


def _messages(control: Control, cases: list[tuple[Task, str]]) -> None:
    """Run all cases in one playbook; each has to fail with its reason."""
    tasks = [{**one, "name": f"case {number}"} for number, (one, _reason) in enumerate(cases)]
    run = control.tasks(*tasks, fails=True)
    wrong = [
        f"{reason!r} is not in {message!r}"
        for number, (_one, reason) in enumerate(cases)
        if reason not in (message := run.message(f"case {number}"))
    ]
    assert wrong == []
    assert "Traceback" not in run.output


def test_secret(prod: Control) -> None:
    prod.place.declare({"name": "taken", "value": "x"})
    before = prod.place.path.read_bytes()
    _messages(
        prod,
        [
            (secret("a"), "secret 'a': give exactly one of value, value_base64, value_file, generate"),
            (secret("a", value="geheim", vlaue="x"), "unsupported option: vlaue. Is value meant?"),
            (task("", "secret", environment="prod", nmae="a", value="x"), "unsupported option: nmae. Is name meant?"),
            (secret("a", value=5), "option value of 'a' is of type int, not a string: quote it"),
            (secret("a", value=True), "option value of 'a' is of type bool, not a string"),
            (secret("a", value=1.5), "option value of 'a' is of type float, not a string"),
            (secret("a", value=[]), "option value of 'a' is of type list, not a string"),
            (secret("a", value={}), "option value of 'a' is of type dict, not a string"),
            (secret("a", value_base64=5), "option value_base64 of 'a' is of type int, not a string"),
            (secret("a", value=None), "give exactly one of"),
            (secret("a", value=""), "value is empty: perhaps what it was looked up from is not set"),
            (secret("a", value="x", generate={}), "not value and generate"),
            (secret("a", value="x", rotate_after="1d"), "rotate_after needs generate"),
            (secret("a", generate={"length": 0}), "length 0 is outside 1 to 1048576"),
            (secret("a", generate={"size": 5}), "unsupported option: generate.size"),
            (secret("a", value="x", state="there"), "value of state must be one of"),
            (secret("taken", value="geheim"), "secret 'taken' has another value than its version 1"),
            (secret("../x", value="x"), "secret name '../x' is not allowed"),
            (secret("", value="x"), "secret name is empty"),
            (secret("x" * 300, value="x"), "has 300 characters, at most 255 are allowed"),
            (secret("a\nb", value="x"), "secret name 'a\\nb' is not allowed"),
            (secret("..data", value="x"), "secret name '..data' is not allowed"),
            (secret("a", value_file="/nowhere"), "value_file /nowhere can't be read on the control node"),
            (task("", "secret", environment="prod"), "one of the following is required: name, secrets"),
            (task("", "secret", environment="prod", name="a", secrets=[]), "mutually exclusive: name|secrets"),
            (task("", "secret", name="a", value="x"), "missing required arguments: environment"),
            (task("", "secret", environment="prd", name="a", value="x"), "environment 'prd' is not in store"),
            (task("", "secret", environment="pr.od", name="a", value="x"), "environment name 'pr.od' is not allowed"),
            (
                task("", "secret", environment="prod", value="x", secrets=[{"name": "a"}]),
                "value beside the list secrets would give all of them one value",
            ),
            (
                task("", "secret", environment="prod", secrets=[{"name": "a", "value": 5}]),
                "option value of 'a' is of type int",
            ),
            (
                task(
                    "",
                    "secret",
                    environment="prod",
                    secrets=[{"name": "n", "value": "1"}, {"name": "taken", "value": "2"}],
                ),
                "secret 'taken' has another value",
            ),
            (
                task("", "secret", environment="prod", secrets=[{"name": "a", "generate": {}}] * 2),
                "secret 'a' is declared twice in one task",
            ),
            (
                task("", "secret_info", environment="prod", names=["a"]),
                "secret 'a' is not in environment 'prod': check its name, or declare it",
            ),
            (task("", "secret_info", environment="prd"), "environment 'prd' is not in store"),
            ({**secret("a", value="x"), "async": 10, "poll": 0}, "does not support async"),
        ],
    )
    assert prod.place.path.read_bytes() == before


def test_value_that_yaml_makes_a_date_of(prod: Control) -> None:
    run = prod.play(
        """
- hosts: localhost
  gather_facts: false
  tasks:
    - {name: date, hostseal.secrets.secret: {environment: prod, name: a, value: 2024-01-01}, ignore_errors: true}
    - {name: time, hostseal.secrets.secret: {environment: prod, name: a, value: 2001-12-14t21:59:43.1-05:00}, ignore_errors: true}
    - {name: binary, hostseal.secrets.secret: {environment: prod, name: a, value: !!binary aGVsbG8=}, ignore_errors: true}
    - {name: octal, hostseal.secrets.secret: {environment: prod, name: a, value: 0444}, ignore_errors: true}
"""
    )
    assert run.rc == 0, run.output
    for name, kind in (("date", "date"), ("time", "date"), ("binary", "bytes"), ("octal", "int")):
        assert f"option value of 'a' is of type {kind}, not a string: quote it" in run.message(name)
    assert prod.place.values() == {}


def test_environment_and_key(prod: Control, tmp_path: Path) -> None:
    keys = prod.place.keys
    prod.place.declare({"name": "a", "value": "x"})
    prod.place.enrol("db1")
    for name in ("loose", "truncated", "linked", "other"):
        prod.tasks(task(name, "localkey", name=name))
    (keys / "loose.jwks").chmod(0o644)
    os.truncate(keys / "truncated.jwks", 100)
    (keys / "linked.jwks").rename(tmp_path / "elsewhere")
    (keys / "linked.jwks").symlink_to(tmp_path / "elsewhere")
    before = prod.place.path.read_bytes()
    _messages(
        prod,
        [
            (task("", "environment", name="pr.od"), "environment name 'pr.od' is not allowed"),
            (task("", "environment", name="new", backend="vautl"), "value of backend must be one of"),
            (
                task("", "environment", name="new"),
                "new.jwks does not exist: make the key with hostseal.secrets.localkey",
            ),
            (task("", "environment", name="new", key="loose"), "loose.jwks has mode 0644, others may use it"),
            (task("", "environment", name="new", key="truncated"), "truncated.jwks is truncated or malformed"),
            (task("", "environment", name="new", key="linked"), "linked.jwks is a symbolic link"),
            (task("", "environment", name="new", key="../prod"), "key name '../prod' is not allowed"),
            (task("", "environment", name="prod", key="other"), "has its secrets under localkey key 'prod'"),
            (
                task("", "environment", name="prod", state="absent"),
                "has 1 secrets and 1 hosts: delete and retire them first",
            ),
            (task("", "localkey", name="truncated"), "truncated.jwks is truncated or malformed"),
            (task("", "localkey", name="linked", state="rotated"), "linked.jwks is a symbolic link"),
            (task("", "localkey", name="x", key_path="keys"), "key_path 'keys' is not an absolute path"),
            (task("", "host", environments=["prd"], name="db1", state="absent"), "environment 'prd' is not in store"),
            (task("", "host", environments=["prod"], name="a b", state="absent"), "host name 'a b' is not allowed"),
            (task("", "host", environments=["prod"], name="db2"), "host 'db2': public_key is missing"),
            (task("", "host", environments=["prod"], name="db2", public_key={"kty": "OKP"}), "public_key is not what"),
        ],
    )
    assert prod.place.path.read_bytes() == before
    keys.chmod(0o755)
    _messages(prod, [(secret("a", value="x"), "has mode 0755: chmod it to 0700")])


def _mount(**changes: Any) -> Task:
    options = {"environment": "prod", "hosts": ["db1"], "mounts": [{"name": "db", "secrets": [{"source": "a"}]}]}
    return task("", "seal", **{**options, **changes})


def _file(**changes: Any) -> Task:
    return _mount(mounts=[{"name": "db", "secrets": [{"source": "a", **changes}]}])


def test_seal(prod: Control) -> None:
    prod.place.declare({"name": "a", "value": "x"})
    prod.place.enrol("db1")
    before = prod.place.path.read_bytes()
    _messages(
        prod,
        [
            (_mount(environment="prd"), "environment 'prd' is not in store"),
            (_mount(environment=None), "environment name is missing"),
            (_mount(hosts=["db9"]), "host 'db9' is not enrolled in environment 'prod'"),
            (_mount(hosts=["db1", "db1"]), "mount 'prod.db' is listed twice for host 'db1'"),
            (_mount(mounts=[{"name": "db"}]), "mount 'prod.db': it has no secrets"),
            (_mount(mounts=[{"name": "../db", "secrets": [{"source": "a"}]}]), "mount name '../db' is not allowed"),
            (
                _mount(mounts=[{"name": "db", "secrets": [{"source": "a"}], "splay": "soon"}]),
                "splay 'soon' is not a duration",
            ),
            (
                _mount(mounts=[{"name": "db", "secrets": [{"source": "a"}], "expires_after": "999999999w"}]),
                "more than a hundred years",
            ),
            (
                _mount(mounts_by_host={"db1": [{"name": "x", "secrets": ["a"], "chnage_mode": "noop"}]}),
                "unknown option 'chnage_mode'",
            ),
            (_mount(mounts_by_host={"db1": {"name": "x"}}), "the mounts of host 'db1' are not a list"),
            (_file(source="b"), "secret 'b' is not in environment 'prod': declare it"),
            (_file(version=2), "version 2 of secret 'a' is not in environment 'prod'"),
            (_file(mode=444), "mode 444 is a number, which would be 0674 in octal: quote it"),
            (
                _file(mode=0o444),
                'mode 292 is a number, which would be 0444 in octal: quote it, for example mode: "0444"',
            ),
            (_file(mode="0999"), "mode '0999' is not three octal digits"),
            (_file(mode="rw"), "mode 'rw' is not three octal digits"),
            (_file(mode="4755"), "mode '4755' is not three octal digits"),
            (_file(uid="abc"), "uid 'abc' is not a number"),
            (_file(uid=-1), "uid -1 is outside 0 to 4294967294"),
            (_file(gid=2**32), "gid 4294967296 is outside 0 to 4294967294"),
            (_file(gid=True), "gid True is not a number"),
            (_file(target="/etc/passwd"), "target '/etc/passwd' is absolute"),
            (_file(target="../x"), "target '../x' is not allowed"),
            (_file(target="..data"), "target '..data' is not allowed"),
            (_file(traget="x"), "unsupported option: mounts.secrets.traget. Is target meant?"),
            (
                _mount(mounts=[{"name": "db", "secrets": [{"source": "a"}, {"source": "a", "target": "a/b"}]}]),
                "target 'a' would be a file and, for 'a/b', a directory",
            ),
            (
                _mount(mounts=[{"name": "db", "secrets": [{"source": "a"}, {"source": "a"}]}]),
                "target 'a' is used twice",
            ),
        ],
    )
    assert prod.place.path.read_bytes() == before


@pytest.mark.parametrize("variable", ["AWX_HOST", "AWX_PRIVATE_DATA_DIR", "AWX_ISOLATED_DATA_DIR"])
def test_awx_job_needs_explicit_paths(control: Control, variable: str) -> None:
    keys, store = str(control.place.keys), str(control.place.path)
    run = control.tasks(
        task("no key path", "localkey", name="prod"),
        task("key path", "localkey", name="prod", key_path=keys),
        task("no store", "environment", name="prod", key_path=keys),
        task("both", "environment", name="prod", key_path=keys, store=store),
        fails=True,
        variables={variable: "x", "HOSTSEAL_STORE": None, "HOSTSEAL_KEY_PATH": None},
    )
    assert "set the option key_path or HOSTSEAL_KEY_PATH" in run.message("no key path")
    assert "set the option store or HOSTSEAL_STORE" in run.message("no store")
    assert run.changed("key path") == run.changed("both") == 1
    # The variables alone are enough too, as an AWX credential would set them.
    run = control.tasks(secret("a", generate={}), variables={variable: "x"})
    assert run.changed("a")


def test_store_that_does_not_exist(control: Control) -> None:
    _messages(
        control,
        [
            (secret("a", generate={}), "does not exist: declare an environment first"),
            (task("", "secret_info", environment="prod"), "does not exist"),
            (_mount(), "does not exist"),
            (task("", "secret_info", environment="prod", store=None), "does not exist"),
            (task("", "secret_info", environment="prod", store=5), "store '5' is not an absolute path"),
            (task("", "store", copy_to={"a": "b"}), "is not an absolute path"),
        ],
    )
    assert not control.place.path.exists()
