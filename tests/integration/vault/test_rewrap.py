# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Another version of a key, everything brought under it, and the end of the older one: by real runs, both backends."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends import key_version

from tests.integration.control.conftest import Control, Run, Task, task
from tests.integration.vault.connection import Transit
from tests.integration.vault.stored import Stored, kill_when, running
from tests.rig.fault_proxy import Rule
from tests.rig.openbao import OpenBao

REWRAP = task("rewrap", "rewrap", environment="prod")


@dataclass(frozen=True)
class Kind:
    """Environment prod with one of the backends. Every run is of one policy alone, or root's where keys are made."""

    control: Control
    stored: Stored
    transit: Transit | None

    def variables(self, *policies: str, url: str | None = None) -> dict[str, str | None]:
        if self.transit is None:
            return {}
        bao = self.transit.bao
        token = self.transit.token(*policies) if policies else bao.root_token
        return {"VAULT_ADDR": url or bao.url, "VAULT_CACERT": bao.ca_cert, "VAULT_TOKEN": token}

    def run(self, *tasks: Task, policies: tuple[str, ...] = (), **more: Any) -> Run:
        return self.control.tasks(*tasks, variables=self.variables(*policies), fails=True, **more)

    def rotate(self) -> Task:
        if self.transit is None:
            return task("rotate", "localkey", name="prod", state="rotated")
        return self.transit_task("rotate", state="rotated")

    def end(self, least: int, title: str = "end", **keywords: Any) -> Task:
        """A task that leaves no version older than LEAST."""
        if self.transit is None:
            return {**task(title, "localkey", name="prod", min_decryption_version=least), **keywords}
        return {**self.transit_task(title, min_decryption_version=least), **keywords}

    def transit_task(self, title: str, **options: Any) -> Task:
        assert self.transit
        mount = self.transit.mount
        return task(title, "vault_transit", name="prod", engine_mount_point=mount, policies=False, **options)

    def environment(self) -> list[Task]:
        if self.transit is None:
            return [task("key", "localkey", name="prod"), task("environment", "environment", name="prod")]
        return [self.transit.environment("prod", "prod")]

    def key_versions(self) -> set[int]:
        return {key_version(one.ciphertext) for one in self.stored.versions()}


@pytest.fixture(params=["localkey", "vault"])
def kind(request: pytest.FixtureRequest, bao: OpenBao, mount: str, tmp_path: Path) -> Kind:
    control = Control(tmp_path)
    transit = Transit(bao, mount) if request.param == "vault" else None
    return Kind(control, Stored(control, bao), transit)


def secret(title: str, **values: str) -> Task:
    listed = [{"name": name, "value": value} for name, value in values.items()]
    return task(title, "secret", environment="prod", secrets=listed, on_difference="rotate")


def test_rotate_rewrap_and_end(kind: Kind) -> None:
    begun = kind.run(
        *kind.environment(),
        secret("first", a="one", b="two"),
        secret("second", a="three"),
        {**kind.rotate(), "name": "predicted", "check_mode": True},
        kind.rotate(),
        kind.end(2, "too early"),
    )
    assert [begun.changed(name) for name in ("second", "predicted", "rotate")] == [1, 1, 1]
    refused = begun.message("too early")
    assert "environment 'prod' has secrets" in refused
    assert "hostseal.secrets.rewrap first" in refused
    before, values = kind.stored.versions(), kind.stored.values()
    assert (len(values), kind.key_versions()) == (3, {1})

    # A rotator may do all of this, and opens nothing.
    done = kind.run(
        {**REWRAP, "name": "checked", "check_mode": True, "diff": True},
        REWRAP,
        {**REWRAP, "name": "again"},
        {**REWRAP, "name": "again checked", "check_mode": True},
        policies=("rotator",),
    )
    for name, changed, count in (
        ("checked", True, 3),
        ("rewrap", True, 3),
        ("again", False, 0),
        ("again checked", False, 0),
    ):
        result = done.result(name)
        assert (result["changed"], result["rewrapped"], result["key_version"]) == (changed, count, 2), name
    assert done.result("checked")["diff"] == {
        "before": "environment prod: 3 versions under older key versions\n",
        "after": "environment prod: all under key version 2\n",
    }
    assert done.output.count("rewrap prod: 3 of 3 versions") == 1
    after = kind.stored.versions()
    assert [one.ciphertext for one in after] != [one.ciphertext for one in before]
    assert [replace(one, ciphertext="") for one in after] == [replace(one, ciphertext="") for one in before]
    assert (kind.stored.values(), kind.key_versions()) == (values, {2})

    ended = kind.run(
        kind.end(2, "checked", check_mode=True),
        kind.end(2),
        kind.end(2, "again"),
        kind.end(9, "beyond"),
        secret("same", a="three", b="two"),
        secret("other", a="four"),
    )
    assert [ended.changed(name) for name in ("checked", "end", "again", "same", "other")] == [1, 1, 0, 0, 1]
    assert "9" in ended.message("beyond")
    assert kind.stored.values() == {**values, ("a", 3): b"four"}


def test_killed_in_the_middle_while_others_declare(bao: OpenBao, mount: str, tmp_path: Path) -> None:
    """What was done stays and is not done twice; what was declared, rotated or deleted meanwhile too."""
    control = Control(tmp_path)
    kind = Kind(control, Stored(control, bao), Transit(bao, mount))
    assert kind.transit
    store = control.place.path
    kind.transit.declare_environment(store)
    kind.transit.declare(store, {f"n{number}": f"value {number}" for number in range(1000)})
    values = kind.stored.values()
    kind.run(kind.rotate(), policies=("rotator",))
    with bao.fault_proxy() as proxy:
        # One request asks for the newest version, four are the first part, and the second part's does not come through.
        rule = proxy.add(Rule(path="/rewrap/", skip=1 + 4, delay=30))
        variables = {name: str(value) for name, value in kind.variables("rotator", url=proxy.url).items()}
        with running(control, REWRAP, **variables) as process:
            kill_when(process, lambda: rule.used > 0)
        left = sorted(one.name for one in kind.stored.versions() if key_version(one.ciphertext) == 1)
        assert (len(left), kind.stored.values()) == (4, values)
        rule = proxy.add(Rule(path="/rewrap/", skip=1, delay=3))
        with running(control, REWRAP, **variables) as process:
            while not rule.used:
                assert process.poll() is None
                time.sleep(0.01)
            start = bao.mark()
            kind.transit.declare(store, {left[0]: "rotated", "n1": "rotated too", "new": "new"})
            with control.place.store() as opened, opened.transaction() as transaction:
                transaction.remove_versions("prod", [left[1]])
            assert process.poll() is None, "the test is too weak: the other run was not beside it"
            output, _nothing = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "rewrap prod: 4 of 4 versions" in output
    assert sum("rewrap" in path for path in kind.transit.paths(start)) == 1
    expected = {place: value for place, value in values.items() if place[0] != left[1]}
    expected |= {(left[0], 2): b"rotated", ("n1", 2): b"rotated too", ("new", 1): b"new"}
    assert (kind.stored.values(), kind.key_versions()) == (expected, {2})


def test_localkey_retires_no_version_unseen(bao: OpenBao, tmp_path: Path) -> None:
    control = Control(tmp_path)
    kind = Kind(control, Stored(control, bao), None)
    control.place.declare_environment("prod")
    control.place.declare({"name": "a", "value": "one"})
    key_file = control.place.keys / "prod.jwks"
    old = next(line for line in key_file.read_text().splitlines() if '"k":' in line)
    at_once = task("at once", "localkey", name="prod", state="rotated", min_decryption_version=2)
    elsewhere = task("no store", "localkey", name="prod", min_decryption_version=2, store=str(tmp_path / "nothing.db"))
    run = kind.run(kind.end(2, "two"), kind.end(0, "zero"), kind.end(1), at_once, kind.rotate(), elsewhere)
    assert "has no version 2: the newest is 1. Nothing was changed" in run.message("two")
    assert "has no version 0" in run.message("zero")
    assert not run.result("end")["changed"]
    assert "environment 'prod' has secrets under version 1 of key 'prod'" in run.message("at once")
    assert run.result("rotate")["versions"] == [1, 2]
    assert "nothing.db does not exist" in run.message("no store")
    assert old in key_file.read_text()
    gone = task("gone", "secret", environment="prod", name="a", state="absent")
    at_once = task("at once", "localkey", name="prod", state="rotated", min_decryption_version=3)
    run = kind.run(REWRAP, kind.end(2, diff=True), gone, at_once)
    assert run.result("end")["versions"] == [2]
    assert run.result("end")["diff"] == {"before": "prod version 1\nprod version 2\n", "after": "prod version 2\n"}
    assert old not in key_file.read_text()
    # With nothing stored under it, at once with the rotation.
    assert run.result("at once")["versions"] == [3]


def test_environment_that_is_not_there(tmp_path: Path) -> None:
    run = Control(tmp_path).tasks({**REWRAP, "name": "checked", "check_mode": True}, REWRAP, fails=True)
    assert run.result("checked")["rewrapped"] == 0
    assert "does not exist: declare an environment first" in run.message("rewrap")
