# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of a store in a folder: names, text, and what else a file may be."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _schema, _tree, _verifying

from tests.unit.builders import version
from tests.unit.folder.places import FolderPlace
from tests.unit.git.repositories import PASSWORD, add_versions, file_names, version_numbers


def test_files_of_a_store(prod: FolderPlace) -> None:
    prod.enrol("db1.example")
    add_versions(prod, version(1))
    assert file_names(prod.folder) == [
        "environments/prod/environment.json",
        "environments/prod/hosts/db1.example.json",
        PASSWORD,
        "hostseal.json",
    ]
    for path in [prod.folder, *prod.folder.rglob("*")]:
        assert path.stat().st_mode & 0o7777 == (0o755 if path.is_dir() else 0o644)
    assert prod.state.stat().st_mode & 0o7777 == 0o600
    assert prod.state.parent.stat().st_mode & 0o7777 == 0o700


def test_text_of_a_file_is_stable(prod: FolderPlace) -> None:
    add_versions(prod, replace(version(1, created_at=17), id="a" * 32), replace(version(2, created_at=18), id="b" * 32))
    assert (prod.folder / PASSWORD).read_text(encoding="ascii") == (
        """{
  "current_number": null,
  "environment": "prod",
  "last_number": 2,
  "name": "password",
  "sha256": "e0dfe7b90dabbc4b62d6e262b650a60ae6db50bb49a59749a87b0dd3f8c85680",
  "versions": [
    {
      "ciphertext": "localkey:v1:AAAA",
      "created_at": 17,
      "fingerprint": "f",
      "id": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
      "number": 1
    },
    {
      "ciphertext": "localkey:v1:AAAA",
      "created_at": 18,
      "fingerprint": "f",
      "id": "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb",
      "number": 2
    }
  ]
}
"""
    )


def test_every_column_is_in_a_file_or_of_this_machine() -> None:
    columns = {table.name: set(table.columns.keys()) for table in _schema.metadata.sorted_tables}
    assert set(_tree._SHAPES["environment"]) == columns["environment"]
    assert set(_tree._SHAPES["host"]) == columns["host"] - {"pinned_at"}
    assert set(_tree._SHAPES["secret"]) == columns["secret"] | {"versions"}
    assert set(_tree._SHAPES["version"]) == columns["secret_version"] - {"environment", "name"}
    assert len(_tree._SHAPES) == 5


def test_names_that_no_file_system_mixes_up(prod: FolderPlace) -> None:
    names = ["db_password", "DB_PASSWORD", "Db_Password", "x" * 255, "x" * 254 + "y", "a.b-c", "con"]
    add_versions(prod, *(version(1, name) for name in names))
    for host in ("Db1", "db1:22", "user@db1"):
        prod.enrol(host)
    found = [path for path in file_names(prod.folder) if "/environment" not in path]
    assert len({path.casefold() for path in found}) == len(found) == len(names) + 3 + 1
    assert all(len(Path(path).name) <= 255 and re.fullmatch(r"[\w./@~-]+", path) for path in found)
    assert "environments/prod/secrets/db_password.json" in found
    assert set(version_numbers(prod)) == set(names)


def test_names_of_one_file_are_refused(prod: FolderPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if two names had the same digest."""
    real = _tree._file_name
    monkeypatch.setattr(_tree, "_file_name", lambda name: "key" if name == "Key" else real(name))
    with pytest.raises(HostsealError, match="would have the same file as .*: choose another name. Nothing was changed"):
        add_versions(prod, version(1, "Key"), version(1, "key"))
    assert version_numbers(prod) == {}


def test_deleted_secret_keeps_its_file_and_a_removed_environment_none(prod: FolderPlace) -> None:
    prod.declare_environment("staging")
    add_versions(prod, version(1), version(2))
    with prod.store() as store, store.transaction() as transaction:
        transaction.remove_versions("prod", ["password"])
    kept = json.loads((prod.folder / PASSWORD).read_text(encoding="ascii"))
    assert (kept["last_number"], kept["versions"]) == (2, [])
    with prod.store() as store, store.transaction() as transaction:
        transaction.remove_environment("prod")
    assert file_names(prod.folder) == ["environments/staging/environment.json", "hostseal.json"]
    assert not (prod.folder / "environments" / "prod").exists()


def test_what_is_unchanged_is_not_written(prod: FolderPlace) -> None:
    add_versions(prod, version(1), version(1, "other"))

    def written() -> dict[str, tuple[int, int]]:
        # Not the time of the last reading.
        found = {path: (prod.folder / path).stat() for path in file_names(prod.folder)}
        return {path: (one.st_ino, one.st_mtime_ns) for path, one in found.items()}

    before = written()
    add_versions(prod, version(2, "other"))
    assert [path for path, one in written().items() if one != before[path]] == ["environments/prod/secrets/other.json"]


# What else a file may be


def _edit(**changes: Any) -> Callable[[Path], None]:
    """A file with a digest that is right."""

    def spoil(path: Path) -> None:
        content = json.loads(path.read_text(encoding="ascii"))
        del content["sha256"]
        content.update(changes)
        path.write_text(_tree.render({name: value for name, value in content.items() if value is not ...}))

    return spoil


def _edit_version(**changes: Any) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        [one] = json.loads(path.read_text(encoding="ascii"))["versions"]
        _edit(versions=[{**one, **changes}])(path)

    return spoil


def _link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def _link_of_a_folder(path: Path) -> None:
    path.parent.rename(path.parents[2] / "elsewhere")
    path.parent.symlink_to("../elsewhere")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _folder_in_its_place(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _copy(path: Path) -> None:
    shutil.copy(path, path.with_name("other.json"))


def _large(path: Path) -> None:
    os.truncate(path, (64 << 20) + 1)


def _hand(path: Path) -> None:
    path.write_text(path.read_text(encoding="ascii").replace("AAAA", "BBBB"), encoding="ascii")


def _twice(path: Path) -> None:
    [one] = json.loads(path.read_text(encoding="ascii"))["versions"]
    _edit(versions=[one, one])(path)


def _same_id(path: Path) -> None:
    content = json.loads(path.read_text(encoding="ascii"))
    del content["sha256"]
    path.with_name("other.json").write_text(_tree.render({**content, "name": "other"}), encoding="ascii")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_link, "password.json can't be read: it is a symbolic link"),
        (_link_of_a_folder, "environments/prod/secrets is a symbolic link"),
        (_fifo, "password.json is not a regular file"),
        (_folder_in_its_place, "password.json can't be read: Is a directory"),
        (_copy, "other.json has what belongs into environments/prod/secrets/password.json: it was moved or copied"),
        (_large, "password.json has more than 67108864 bytes"),
        (_hand, "password.json has a sha256 that is not of what it says: it was edited by hand"),
        (_twice, "password.json has version 1 twice or out of order"),
        (_same_id, "SQLITE_CONSTRAINT"),
        (lambda path: path.write_bytes(b"\xff"), "password.json is not JSON"),
        (lambda path: path.write_bytes(b""), "password.json is not JSON"),
        (lambda path: path.write_bytes(b"[" * 100_000), "password.json is not JSON"),
        (lambda path: path.write_bytes(b"[]"), "password.json is not a JSON object"),
        (_edit(more=1), "password.json has the unknown member 'more'"),
        (_edit(last_number=...), "password.json has no member 'last_number'"),
        (_edit(last_number=True), "something else in last_number than belongs there"),
        (_edit(last_number=2**31), "something else in last_number than belongs there"),
        (_edit(last_number=-1), "something else in last_number than belongs there"),
        (_edit(last_number=None), "something else in last_number than belongs there"),
        (_edit(name="../../x"), "secret name '../../x' is not allowed"),
        (_edit(environment=".."), "environment name '..' is not allowed"),
        (_edit(environment="staging"), "belongs into environments/staging/secrets/password.json"),
        (_edit(versions=["x"]), "has a version that is not an object"),
        (_edit(versions={}), "something else in versions than belongs there"),
        (_edit_version(number=0), "has version 0 twice or out of order"),
        (_edit_version(number=1.0), "something else in number than belongs there"),
        (_edit_version(created_at=2**63), "something else in created_at than belongs there"),
        (_edit_version(ciphertext="\ud800"), "something else in ciphertext than belongs there"),
        (_edit_version(ciphertext="a\0b"), "something else in ciphertext than belongs there"),
        (_edit_version(ciphertext={}), "something else in ciphertext than belongs there"),
    ],
)
def test_odd_file_is_refused_and_left_alone(
    prod: FolderPlace, spoil: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    add_versions(prod, version(1))
    path = prod.folder / PASSWORD
    spoil(path)
    before = {str(found): found.lstat().st_mtime_ns for found in prod.folder.rglob("*")}
    for read_only in (False, True):
        with (
            prod.store(read_only=read_only) as store,
            pytest.raises(HostsealError, match=re.escape(reason)) as caught,
            store.transaction() as transaction,
        ):
            transaction.versions("prod")
        assert prod.label in str(caught.value)
        assert "AAAA" not in str(caught.value)
    assert {str(found): found.lstat().st_mtime_ns for found in prod.folder.rglob("*")} == before
    assert sorted(found.name for found in tmp_path.iterdir()) == ["folder", "keys", "state"]


def test_what_is_no_file_of_ours_is_nobodys_business(prod: FolderPlace) -> None:
    add_versions(prod, version(1))
    secrets = prod.folder / "environments" / "prod" / "secrets"
    for name in ("password.json.orig", ".password.json.swp", "README.md", ".gitkeep"):
        (secrets / name).write_text("<<<<<<< x", encoding="ascii")
    (secrets.parent / "notes").mkdir()
    (prod.folder / "environments" / "README").touch()
    assert version_numbers(prod) == {"password": [1]}


def test_files_without_their_environment_are_refused(prod: FolderPlace) -> None:
    add_versions(prod, version(1))
    (prod.folder / "environments" / "prod" / "environment.json").unlink()
    with (
        pytest.raises(
            HostsealError, match=r"environments/prod/environment\.json is missing, and there is a secret in it"
        ),
        prod.store() as store,
        store.transaction(),
    ):
        pass


def test_what_attackers_can_write_is_told_by_verifying(prod: FolderPlace) -> None:
    prod.declare({"name": "a", "value": "x"}, {"name": "b", "value": "y"})
    paths = {name: prod.folder / f"environments/prod/secrets/{name}.json" for name in "ab"}
    texts = {name: json.loads(path.read_text(encoding="ascii")) for name, path in paths.items()}
    for name, other in ("ab", "ba"):
        content = {**texts[name], "versions": texts[other]["versions"]}
        del content["sha256"]
        paths[name].write_text(_tree.render({**content, "last_number": 0}), encoding="ascii")
    with prod.store(read_only=True) as store, store.transaction() as transaction:
        problems = list(_verifying.problems(transaction, lambda _environment: prod.backend()))
    assert sum("version 1 is above the last number" in problem for problem in problems) == 2
    assert sum("does not open" in problem for problem in problems) == 2
