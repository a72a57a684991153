# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbooks with a store on a server: the modules store and store_info, two runs at once, passwords, backups."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.control.conftest import ENVIRONMENT, Control, rotate_at_once, secret, task
from tests.integration.stores.places import ServerPlace
from tests.rig.databases import PASSWORD, READER, MariaDB
from tests.rig.paths import ROOT
from tests.unit.builders import Place

_RUNBOOK = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


@pytest.fixture
def control(tmp_path: Path) -> Control:
    """A control node; its own store is a file."""
    return Control(tmp_path / "control")


def _variables(place: ServerPlace, user: str = "hostseal") -> dict[str, str | None]:
    return {
        "HOSTSEAL_STORE": place.server.url(place.database, user),
        "HOSTSEAL_STORE_PASSWORD_FILE": str(place.server.password_file),
    }


def test_store_is_made_copied_and_verified(control: Control, place: ServerPlace) -> None:
    control.directory.mkdir()
    target = {"copy_to": place.url, "copy_to_password_file": str(place.server.password_file)}
    predicted = control.tasks(
        task("make", "store"), task("info", "store_info"), task("copy", "store", **target), arguments=("--check",)
    )
    assert predicted.changed("make")
    assert predicted.result("info")["store"] is None
    assert not control.place.path.exists()
    run = control.tasks(
        task("make", "store"),
        task("again", "store"),
        task("nothing", "store", **target),
        *ENVIRONMENT,
        secret("a", value="x"),
        secret("b", generate={"length": 9}),
        {**task("predict", "store", **target, verify="values"), "check_mode": True},
        {**task("copy", "store", **target, verify="values"), "diff": True},
        task("same", "store", **target, verify="values"),
    )
    changed = {name: run.changed(name) for name in ("make", "again", "predict", "copy", "same")}
    assert changed == {"make": 1, "again": 0, "predict": 1, "copy": 1, "same": 0}
    assert run.result("make")["found"] is None
    assert run.result("copy")["problems"] == []
    assert place.label in run.result("copy")["diff"]["after"]
    with control.place.store() as old, place.store() as new, old.transaction() as one, new.transaction() as other:
        assert other.is_copy_of(one)
        assert [record.action for record in other.audit()] == [
            "environment.declared",
            "secret.created",
            "secret.created",
        ]
    # It is in use there, its log goes on, and a user who may only read can ask.
    later = control.tasks(
        secret("a", state="rotated", generate={}), task("log", "audit_info"), variables=_variables(place)
    )
    assert later.result("a")["secrets"][0]["version"] == 2
    assert later.result("log")["intact"]
    asked = control.tasks(
        task("info", "store_info"),
        task("secrets", "secret_info", environment="prod"),
        task("log", "audit_info"),
        variables=_variables(place, READER),
    )
    found = asked.result("info")["store"]
    assert found["engine"] == ("mariadb" if isinstance(place.server, MariaDB) else "postgresql")
    assert found["location"] == place.label.replace("hostseal@", f"{READER}@")
    assert found["schema_version"] == 3
    assert found["bytes"] > 10_000
    assert found["rows"]["secret_version"] == 3
    assert asked.result("log")["head"]["number"] == 4
    # What differs now is not overwritten, and what was edited is found.
    place.edit("UPDATE secret_version SET number = 7 WHERE number = 2")
    run = control.tasks(
        task("refused", "store", **target),
        task("broken", "store", **{"store": place.url, "verify": "values"}),
        fails=True,
        variables={"HOSTSEAL_STORE_PASSWORD": PASSWORD},
    )
    assert "has something else in it" in run.message("refused")
    problems = run.result("broken")["problems"]
    assert any("version 7 is above the last number" in problem for problem in problems)
    assert any("version 7" in problem and "does not open" in problem for problem in problems)


def test_playbooks_at_once_lose_and_double_nothing(prod: ServerPlace, tmp_path: Path) -> None:
    rotate_at_once(tmp_path, {**_variables(prod), "HOSTSEAL_KEY_PATH": str(prod.keys)})
    with prod.store() as store, store.transaction() as transaction:
        assert [found.number for found in transaction.versions("prod")] == list(range(1, 13))
        assert len(transaction.audit()) == 12


def test_password_is_shown_nowhere(prod: ServerPlace, tmp_path: Path) -> None:
    control = Control(tmp_path / "control")
    control.directory.mkdir()
    server = prod.server
    marker = "MARKER-of-a-password"
    in_url = prod.url.replace("hostseal@", f"hostseal:{marker}@")
    run = control.tasks(
        task("given", "secret_info", environment="prod", store=prod.url, store_password=PASSWORD),
        task("file", "secret_info", environment="prod", store=prod.url, store_password_file=str(server.password_file)),
        task("wrong", "secret_info", environment="prod", store=prod.url, store_password=marker),
        task("in the URL", "secret_info", environment="prod", store=in_url),
        task("in a parameter", "secret_info", environment="prod", store=f"{prod.url}&password={marker}"),
        task("copied", "store", store=prod.url, store_password=PASSWORD, copy_to=in_url),
        task("no file", "secret_info", environment="prod", store=prod.url, store_password_file="/no/file"),
        fails=True,
        arguments=("-vvvv",),
        variables={"HOSTSEAL_STORE_PASSWORD": "wrong"},
    )
    assert run.result("given")["secrets"] == run.result("file")["secrets"] == []
    assert "does not accept this user with this password" in run.message("wrong")
    for name in ("in the URL", "in a parameter", "copied"):
        assert "has a password in its URL" in run.message(name)
    assert "store_password_file /no/file can't be read on the control node" in run.message("no file")
    results = (control.directory / "results.jsonl").read_text(encoding="utf-8")
    assert marker not in run.output + results
    assert PASSWORD not in run.output + results


def _command(start: str, **replaced: str) -> list[str]:
    """The runbook's line that begins so, without where it reads or writes."""
    [line] = [line for line in _RUNBOOK.splitlines() if line.startswith(f"$ {start}")]
    for old, new in replaced.items():
        line = line.replace(f"${old}" if old.isupper() else f"/{old}/", new)
    return shlex.split(line.removeprefix("$ ").partition(" > /")[0].partition(" < /")[0])


def _state(place: Place) -> tuple[object, ...]:
    with place.store() as store, store.transaction() as transaction:
        [environment] = transaction.environments()
        return (environment, transaction.versions("prod"), transaction.hosts("prod"), transaction.audit())


def test_runbook_for_backup_and_restore(control: Control, prod: ServerPlace, tmp_path: Path) -> None:
    """What docs/operations.md says, with the server's address and places of the test."""
    prod.declare({"name": "a", "value": "x"}, {"name": "b", "generate": {}})
    prod.enrol("db1")
    before = _state(prod)
    folder = f"{tmp_path}/"
    _ansible(control, prod, _command('ansible localhost -m hostseal.secrets.store -a "copy_to=/backup/', backup=folder))
    copy = Place(tmp_path / "store.db", prod.keys)
    assert _state(copy) == before
    sqlite, statement = _command("sqlite3 ", backup=f"{folder}second/")[0::2]
    (tmp_path / "second").mkdir()
    assert sqlite == "sqlite3"
    copy.sql(statement)
    assert _state(Place(tmp_path / "second" / "store.db", prod.keys)) == before

    empty = replace(prod, database=prod.server.new_database())
    password = f"copy_to_password_file={prod.server.password_file}"
    restore = _command(
        'ansible localhost -m hostseal.secrets.store -a "store=/backup/', backup=folder, HOSTSEAL_STORE=empty.url
    )
    _ansible(control, prod, [*restore[:-1], f"{restore[-1]} {password}"])
    assert _state(empty) == before

    dump, load = ("mariadb-dump", "mariadb") if isinstance(prod.server, MariaDB) else ("pg_dump", "psql")
    *dumping, database = _command(f"{dump} ")
    *loading, same = _command(f"{load} ")
    assert database == same == "hostseal"
    again = replace(prod, database=prod.server.new_database())
    text = prod.server.tool([dumping[0], *prod.server.login(), *dumping[1:], prod.database])
    prod.server.tool([loading[0], *prod.server.login(), *loading[1:], again.database], text)
    assert _state(again) == before
    # It is protected as the first one was, and in use.
    assert again.declare({"name": "a", "value": "y", "on_difference": "rotate"})[0].version == 2
    with pytest.raises(Exception, match="append-only"):
        again.sql("DELETE FROM audit")


def _ansible(control: Control, place: ServerPlace, command: list[str]) -> None:
    control.directory.mkdir(exist_ok=True)
    done = subprocess.run(
        [str(Path(sys.executable).with_name(command[0])), *command[1:]],
        env={
            **control.environment(),
            "HOSTSEAL_STORE": place.url,
            "HOSTSEAL_STORE_PASSWORD_FILE": str(place.server.password_file),
            "HOSTSEAL_KEY_PATH": str(place.keys),
        },
        cwd=control.directory,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
