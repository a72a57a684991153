# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Playbooks on a store in a folder without a host: modules store and store_info, checks, keys, runs at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.control.conftest import ENVIRONMENT, Control, rotate_at_once, secret, task
from tests.unit.folder.places import FolderPlace


@pytest.fixture
def control(tmp_path: Path) -> Control:
    """A control node; its own store is a file of SQLite."""
    control = Control(tmp_path / "control")
    control.directory.mkdir()
    return control


@pytest.fixture
def folder(control: Control, monkeypatch: pytest.MonkeyPatch) -> FolderPlace:
    """Where a store in a folder may be made; its state is in the control node's home."""
    monkeypatch.setenv("XDG_STATE_HOME", str(control.directory / "home" / ".local" / "state"))
    return FolderPlace(control.directory / "none", control.place.keys, control.directory / "folder")


def test_store_is_copied_to_a_folder_and_back(control: Control, folder: FolderPlace) -> None:
    target = {"copy_to": folder.label, "verify": "values"}
    back = {"store": folder.label, "copy_to": str(control.directory / "back.db"), "verify": "values"}
    run = control.tasks(
        *ENVIRONMENT,
        secret("a", value="x"),
        secret("DB_PASSWORD", generate={"length": 9}),
        {**task("predict", "store", **target), "check_mode": True},
        {**task("copy", "store", **target), "diff": True},
        task("same", "store", **target),
        task("info", "store_info", store=folder.label),
        task("secrets", "secret_info", environment="prod", store=folder.label),
        task("log", "audit_info", store=folder.label),
        task("back", "store", **back),
        task("same back", "store", **back),
    )
    changed = {name: run.changed(name) for name in ("predict", "copy", "same", "back", "same back")}
    assert changed == {"predict": 1, "copy": 1, "same": 0, "back": 1, "same back": 0}
    assert folder.label in run.result("copy")["diff"]["after"]
    found = run.result("info")["store"]
    assert (found["engine"], found["location"], found["rows"]["secret_version"]) == ("file", folder.label, 2)
    assert [one["name"] for one in run.result("secrets")["secrets"]] == ["DB_PASSWORD", "a"]
    assert run.result("log")["intact"]
    with control.place.store() as old, folder.store() as new, old.transaction() as one, new.transaction() as other:
        assert other.is_copy_of(one)


def test_keys_change_and_what_is_edited_is_found(control: Control, folder: FolderPlace) -> None:
    there = {"HOSTSEAL_STORE": folder.label}
    run = control.tasks(
        *ENVIRONMENT,
        secret("a", value="x"),
        task("rotate key", "localkey", name="prod", state="rotated"),
        task("rewrap", "rewrap", environment="prod"),
        task("other key", "localkey", name="other"),
        task("migrate", "environment", name="prod", key="other", migrate=True),
        task("same", "secret", environment="prod", name="a", value="x"),
        {**task("predict", "secret", environment="prod", name="b", value="y"), "check_mode": True, "diff": True},
        variables=there,
    )
    changed = {name: run.changed(name) for name in ("rewrap", "migrate", "same", "predict")}
    assert changed == {"rewrap": 1, "migrate": 1, "same": 0, "predict": 1}
    assert not control.place.path.exists()
    path = folder.folder / "environments" / "prod" / "secrets" / "a.json"
    text = path.read_text(encoding="ascii")
    path.write_text(f"<<<<<<< HEAD\n{text}=======\n{text}>>>>>>> other\n", encoding="ascii")
    before = folder.content()
    run = control.tasks(task("conflict", "secret_info", environment="prod"), variables=there, fails=True)
    assert "environments/prod/secrets/a.json has the marks of a conflict in Git" in run.message("conflict")
    assert folder.content() == before


@pytest.mark.thorough
def test_playbooks_at_once_lose_and_double_nothing(folder: FolderPlace, tmp_path: Path) -> None:
    folder.declare_environment("prod")
    # Each with a state of its own: it is the folder that keeps them apart.
    rotate_at_once(tmp_path, {"HOSTSEAL_STORE": folder.label, "HOSTSEAL_KEY_PATH": str(folder.keys)})
    with folder.store() as store, store.transaction() as transaction:
        assert [found.number for found in transaction.versions("prod")] == list(range(1, 13))
