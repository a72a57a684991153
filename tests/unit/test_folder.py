# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What only a store in a folder has: files that Git merges, what else a file may be, crashes between two files."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _folder, _schema, _store, _tree, _verifying
from ansible_collections.hostseal.secrets.plugins.plugin_utils._database import TransientError
from ansible_collections.hostseal.secrets.plugins.plugin_utils._records import HostRecord, Publication, Receipt, Version
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store

from tests.unit.builders import in_processes, version
from tests.unit.folder.places import FolderPlace

_PASSWORD = "environments/prod/secrets/password.json"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderPlace:
    """A store in a folder; nothing is declared yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return FolderPlace(tmp_path / "store.db", tmp_path / "keys", tmp_path / "folder")


def files(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts
    )


def add(place: FolderPlace, *versions: Version) -> None:
    with place.store() as store, store.transaction() as transaction:
        for one in versions:
            transaction.add_versions([one])


def numbers(place: FolderPlace, read_only: bool = False) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    with place.store(read_only=read_only) as store, store.transaction() as transaction:
        for one in transaction.versions("prod"):
            found.setdefault(one.name, []).append(one.number)
    return found


# Names and text


def test_files_of_a_store(prod: FolderPlace) -> None:
    prod.enrol("db1.example")
    add(prod, version(1))
    assert files(prod.folder) == [
        "environments/prod/environment.json",
        "environments/prod/hosts/db1.example.json",
        _PASSWORD,
        "hostseal.json",
    ]
    for path in [prod.folder, *prod.folder.rglob("*")]:
        assert path.stat().st_mode & 0o7777 == (0o755 if path.is_dir() else 0o644)
    assert prod.state.stat().st_mode & 0o7777 == 0o600
    assert prod.state.parent.stat().st_mode & 0o7777 == 0o700


def test_text_of_a_file_is_stable(prod: FolderPlace) -> None:
    add(prod, replace(version(1, created_at=17), id="a" * 32), replace(version(2, created_at=18), id="b" * 32))
    assert (prod.folder / _PASSWORD).read_text(encoding="ascii") == (
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
    add(prod, *(version(1, name) for name in names))
    for host in ("Db1", "db1:22", "user@db1"):
        prod.enrol(host)
    found = [path for path in files(prod.folder) if "/environment" not in path]
    assert len({path.casefold() for path in found}) == len(found) == len(names) + 3 + 1
    assert all(len(Path(path).name) <= 255 and re.fullmatch(r"[\w./@~-]+", path) for path in found)
    assert "environments/prod/secrets/db_password.json" in found
    assert set(numbers(prod)) == set(names)


def test_names_of_one_file_are_refused(prod: FolderPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if two names had the same digest."""
    real = _tree._file_name
    monkeypatch.setattr(_tree, "_file_name", lambda name: "key" if name == "Key" else real(name))
    with pytest.raises(HostsealError, match="would have the same file as .*: choose another name. Nothing was changed"):
        add(prod, version(1, "Key"), version(1, "key"))
    assert numbers(prod) == {}


def test_deleted_secret_keeps_its_file_and_a_removed_environment_none(prod: FolderPlace) -> None:
    prod.declare_environment("staging")
    add(prod, version(1), version(2))
    with prod.store() as store, store.transaction() as transaction:
        transaction.remove_versions("prod", ["password"])
    kept = json.loads((prod.folder / _PASSWORD).read_text(encoding="ascii"))
    assert (kept["last_number"], kept["versions"]) == (2, [])
    with prod.store() as store, store.transaction() as transaction:
        transaction.remove_environment("prod")
    assert files(prod.folder) == ["environments/staging/environment.json", "hostseal.json"]
    assert not (prod.folder / "environments" / "prod").exists()


def test_what_is_unchanged_is_not_written(prod: FolderPlace) -> None:
    add(prod, version(1), version(1, "other"))
    before = {path: (prod.folder / path).stat() for path in files(prod.folder)}
    add(prod, version(2, "other"))
    written = [path for path, found in before.items() if (prod.folder / path).stat() != found]
    assert written == ["environments/prod/secrets/other.json"]


# Opening


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("file://", "without an absolute path"),
        ("file:///", "without an absolute path"),
        ("file://folder", "without an absolute path"),
        ("file://host/folder", "without an absolute path"),
        ("file:///folder?mode=rw", "something else after its folder"),
        ("file:///folder?state=/a&state=/b", "something else after its folder"),
        ("file:///folder#part", "something else after its folder"),
        ("file:///folder?state=state.db", "a path that is not absolute"),
        ("file:///folder?state=", "a path that is not absolute"),
        ("file:///folder%00", "a path that is not absolute"),
    ],
)
def test_bad_location(location: str, reason: str) -> None:
    with pytest.raises(HostsealError, match=re.escape(reason)):
        Store(location, True)


@pytest.mark.parametrize("spell", ["file://{}", "file://localhost{}", "file://{}/", "file://{}/x/.."])
def test_spellings(prod: FolderPlace, spell: str) -> None:
    with Store(spell.format(prod.folder), False) as store:
        assert store.exists
        assert store.label == prod.label


def test_quoted_characters(tmp_path: Path, place: FolderPlace) -> None:  # noqa: ARG001
    Store(f"file://{tmp_path}/my%20secrets", True).close()
    assert (tmp_path / "my secrets" / "hostseal.json").is_file()


def test_missing_store_is_an_empty_one_that_leaves_no_trace(place: FolderPlace, tmp_path: Path) -> None:
    for read_only in (False, True):
        with place.store(read_only=read_only) as store, store.transaction() as transaction:
            assert not store.exists
            assert transaction.environments() == []
    assert not list(tmp_path.iterdir())


def test_folder_with_other_things_becomes_a_store_only_on_creation(place: FolderPlace) -> None:
    (place.folder / "roles").mkdir(parents=True)
    (place.folder / "site.yml").write_text("- hosts: all\n", encoding="ascii")
    assert not place.store().exists
    with place.store(create=True) as store:
        assert store.exists
        assert store.found is None
    assert place.store().found == _schema.SCHEMA
    assert files(place.folder) == ["hostseal.json", "site.yml"]


def test_creation_that_is_killed_is_made_again(place: FolderPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(_number: int) -> None:
        monkeypatch.setattr(os, "rename", lambda *_arguments, **_options: os.kill(os.getpid(), signal.SIGKILL))
        place.store(create=True)

    assert in_processes(1, work) == [-signal.SIGKILL]
    assert len(files(place.folder)) == 1
    assert not place.store().exists
    place.declare_environment("prod")
    assert files(place.folder) == ["environments/prod/environment.json", "hostseal.json"]


def test_creations_at_once_make_one(place: FolderPlace) -> None:
    assert in_processes(6, lambda _number: place.store(create=True).close()) == [0] * 6
    assert files(place.folder) == ["hostseal.json"]


def test_store_of_a_newer_collection_or_without_its_marker_is_refused(prod: FolderPlace) -> None:
    marker = prod.folder / "hostseal.json"
    marker.write_text(_tree.render({"format": 2, "new": "x"}), encoding="ascii")
    with pytest.raises(
        HostsealError, match=r"hostseal\.json says that the files are of another format than 1: upgrade"
    ):
        prod.store()
    marker.unlink()
    with pytest.raises(HostsealError, match=re.escape("hostseal.json is missing: have Git bring it back")):
        prod.store(create=True)


def test_a_link_to_a_folder_is_refused(prod: FolderPlace, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(prod.folder)
    (tmp_path / "new").symlink_to(tmp_path / "elsewhere")
    for name in ("link", "new"):
        with pytest.raises(HostsealError, match="is a symbolic link: name the folder itself"):
            Store(f"file://{tmp_path}/{name}", True)
    assert not (tmp_path / "elsewhere").exists()


def test_a_file_is_no_folder(place: FolderPlace) -> None:
    place.folder.write_text("", encoding="ascii")
    with pytest.raises(HostsealError, match="can't be read: Not a directory"):
        place.store(create=True)


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
    add(prod, version(1))
    path = prod.folder / _PASSWORD
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
    add(prod, version(1))
    secrets = prod.folder / "environments" / "prod" / "secrets"
    for name in ("password.json.orig", ".password.json.swp", "README.md", ".gitkeep"):
        (secrets / name).write_text("<<<<<<< x", encoding="ascii")
    (secrets.parent / "notes").mkdir()
    (prod.folder / "environments" / "README").touch()
    assert numbers(prod) == {"password": [1]}


def test_files_without_their_environment_are_refused(prod: FolderPlace) -> None:
    add(prod, version(1))
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


# Git


def git(place: FolderPlace, *arguments: str, fails: bool = False) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "core.hooksPath=/dev/null", *arguments],
        cwd=place.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"},
    )
    assert bool(done.returncode) is fails, done.stdout + done.stderr
    return done.stdout


def commit(place: FolderPlace) -> None:
    git(place, "add", "-A")
    git(place, "commit", "-qm", "x")


@pytest.fixture
def repository(prod: FolderPlace) -> FolderPlace:
    git(prod, "init", "-q", "-b", "main")
    add(prod, *(version(number) for number in (1, 2, 3)))
    commit(prod)
    return prod


def _on_branches(place: FolderPlace, *works: Callable[[], object]) -> None:
    """Each work on a branch of its own, b0, b1, …; the last one stays checked out."""
    for number, work in enumerate(works):
        git(place, "switch", "-q", "-c", f"b{number}", "main")
        work()
        commit(place)


def test_branches_with_different_secrets_merge(repository: FolderPlace) -> None:
    place = repository
    _on_branches(
        place,
        lambda: (add(place, version(1, "a")), place.enrol("db1")),
        lambda: (add(place, version(1, "b")), place.enrol("db2"), place.declare_environment("staging")),
        lambda: add(place, version(4)),
    )
    for branch in ("b0", "b1"):
        git(place, "merge", "-q", "--no-edit", branch)
    assert git(place, "status", "--porcelain") == ""
    assert numbers(place) == {"a": [1], "b": [1], "password": [1, 2, 3, 4]}
    with place.store() as store, store.transaction() as transaction:
        assert set(transaction.hosts("prod")) == {"db1", "db2"}
        assert [environment.name for environment in transaction.environments()] == ["prod", "staging"]
        assert list(_verifying.problems(transaction)) == []
    assert git(place, "status", "--porcelain") == ""


def _prune(place: FolderPlace) -> None:
    with place.store() as store, store.transaction() as transaction:
        transaction.prune_versions(transaction.versions("prod", ["password"])[:1])


def _roll_back(place: FolderPlace) -> None:
    with place.store() as store, store.transaction() as transaction:
        transaction.make_current("prod", "password", 2)


def _delete(place: FolderPlace) -> None:
    with place.store() as store, store.transaction() as transaction:
        transaction.remove_versions("prod", ["password"])


@pytest.mark.parametrize("other", [lambda place: add(place, version(4)), _prune, _roll_back, _delete])
def test_branches_with_the_same_secret_conflict(repository: FolderPlace, other: Callable[[FolderPlace], None]) -> None:
    place = repository
    _on_branches(place, lambda: other(place), lambda: add(place, version(4)))
    git(place, "merge", "-q", "b0", fails=True)
    assert git(place, "status", "--porcelain") == f"UU {_PASSWORD}\n"
    before = place.content()
    for read_only in (False, True):
        with (
            pytest.raises(
                HostsealError, match=rf"{_PASSWORD} has the marks of a conflict in Git: take the file of one"
            ),
            place.store(read_only=read_only) as store,
            store.transaction(),
        ):
            pass
    assert place.content() == before
    git(place, "checkout", "--ours", _PASSWORD)
    commit(place)
    assert numbers(place) == {"password": [1, 2, 3, 4]}


def test_what_git_is_told_to_join_all_the_same_is_refused(repository: FolderPlace) -> None:
    place = repository

    def prune() -> None:
        with place.store() as store, store.transaction() as transaction:
            transaction.prune_versions(transaction.versions("prod", ["password"])[1:2])

    _on_branches(place, prune, lambda: add(place, version(4)))
    git(place, "merge", "-q", "--no-edit", "-X", "ours", "b0")
    with (
        pytest.raises(HostsealError, match="was edited by hand, or put together from two"),
        place.store() as store,
        store.transaction(),
    ):
        pass


def test_environments_that_both_branches_change_conflict(repository: FolderPlace) -> None:
    place = repository

    def change(kid: str) -> None:
        with place.store() as store, store.transaction() as transaction:
            transaction.put_environment(replace(transaction.environment("prod"), signing_kid=kid))

    _on_branches(place, lambda: change("one"), lambda: change("two"))
    git(place, "merge", "-q", "b0", fails=True)
    with (
        pytest.raises(HostsealError, match=r"environments/prod/environment\.json has the marks of a conflict"),
        place.store() as store,
        store.transaction(),
    ):
        pass


def test_nothing_of_this_machine_is_in_the_folder(repository: FolderPlace) -> None:
    place = repository
    place.enrol("db1")
    commit(place)
    with place.store() as store, store.transaction() as transaction:
        transaction.confirm_key_set("prod", "db1", 7)
        transaction.put_receipts([_receipt()])
        transaction.issue_times("prod", [("db1", "db")], [0])
    assert git(place, "status", "--porcelain", "--ignored") == ""
    git(place, "clean", "-qxdf")
    with place.store() as store, store.transaction() as transaction:
        assert transaction.receipts("prod") == [_receipt()]
        assert transaction.hosts("prod")["db1"].pinned_at == 7


# The state


def _receipt(**changes: Any) -> Receipt:
    fields: dict[str, Any] = {
        "environment": "prod",
        "host": "db1",
        "mount": "db",
        "issued_at": 5,
        "expires_at": None,
        "state_digest": "d",
        "secrets": [],
        "delivered_at": 6,
        "signing_kid": "kid",
    }
    return Receipt(**{**fields, **changes})


def test_host_that_was_retired_elsewhere_is_not_waited_for(repository: FolderPlace) -> None:
    place = repository
    for host in ("db1", "db2"):
        place.enrol(host)
    commit(place)
    with place.store() as store, store.transaction() as transaction:
        for host in ("db1", "db2"):
            transaction.put_receipts([_receipt(host=host)])
            transaction.confirm_key_set("prod", host, 7)
            transaction.issue_times("prod", [(host, "db")], [0])
    # What another clone has committed.
    (place.folder / "environments/prod/hosts/db1.json").unlink()
    path = place.folder / "environments/prod/hosts/db2.json"
    content = json.loads(path.read_text(encoding="ascii"))
    del content["sha256"]
    path.write_text(_tree.render({**content, "record": "another machine's"}), encoding="ascii")
    commit(place)
    with place.store() as store, store.transaction() as transaction:
        assert [receipt.host for receipt in transaction.receipts("prod")] == ["db2"]
        # Enrolled anew it may be another machine.
        assert transaction.hosts("prod")["db2"].pinned_at is None
        assert transaction.issue_times("prod", [("db1", "db")], [0])[0] > 0


def test_state_of_an_environment_that_is_gone_goes_too(prod: FolderPlace) -> None:
    with prod.store() as store, store.transaction() as transaction:
        transaction.put_receipts([_receipt()])
        transaction.put_publications([Publication("prod", "db1", 1, 2, {}, "text")])
        transaction.issue_times("prod", [("db1", "db")], [0])
    shutil.rmtree(prod.folder / "environments")
    with prod.store() as store, store.transaction() as transaction:
        rows = transaction.summary().rows
    assert rows == dict.fromkeys(rows, 0)


def test_state_of_another_store_is_refused(prod: FolderPlace, tmp_path: Path) -> None:
    Store(f"file://{tmp_path}/other?state={tmp_path}/one.db", True).close()
    with pytest.raises(HostsealError, match=re.escape(f"{tmp_path}/one.db is the state of another store")):
        Store(f"{prod.label}?state={tmp_path}/one.db", True)
    Store(str(tmp_path / "sqlite.db"), True).close()
    with pytest.raises(HostsealError, match=re.escape(f"{tmp_path}/sqlite.db is the state of another store")):
        Store(f"{prod.label}?state={tmp_path}/sqlite.db", True)


def test_clones_may_share_a_state(repository: FolderPlace, tmp_path: Path) -> None:
    shutil.copytree(repository.folder, tmp_path / "clone")
    for folder, host in ((repository.folder, "db1"), (tmp_path / "clone", "db2")):
        with Store(f"file://{folder}?state={tmp_path}/one.db", False) as store, store.transaction() as transaction:
            transaction.put_receipts([_receipt(host=host)])
            found = [receipt.host for receipt in transaction.receipts("prod")]
    assert found == ["db1", "db2"]
    assert not (tmp_path / "state" / "hostseal" / "one.db").exists()


def test_who_only_reads_needs_no_state(repository: FolderPlace, tmp_path: Path) -> None:
    place = repository
    shutil.rmtree(tmp_path / "state")
    assert numbers(place, read_only=True) == {"password": [1, 2, 3]}
    assert not (tmp_path / "state").exists()


def test_summary(repository: FolderPlace) -> None:
    for read_only in (False, True):
        with repository.store(read_only=read_only) as store, store.transaction() as transaction:
            found = transaction.summary()
        assert (found.engine, found.schema_version) == ("file", _schema.SCHEMA)
        assert found.rows["secret_version"] == 3
        folder = repository.folder / "environments"
        assert found.bytes == sum(path.stat().st_size for path in folder.rglob("*.json"))


# A checkout that is not written to


@contextlib.contextmanager
def _mounted_read_only(folder: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", folder, folder], check=True, timeout=30)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True, timeout=30)
        yield
    finally:
        subprocess.run(["umount", folder], check=True, timeout=30)


def test_read_only_checkout(repository: FolderPlace) -> None:
    place = repository
    before = files(place.folder)
    with _mounted_read_only(place.folder):
        with place.store() as store, store.transaction() as transaction:
            transaction.put_receipts([_receipt()])
        assert numbers(place) == {"password": [1, 2, 3]}
        with pytest.raises(HostsealError, match="can't be written: Read-only file system; nothing was changed"):
            add(place, version(4))
        with place.store() as store, store.transaction() as transaction:
            assert transaction.receipts("prod") == [_receipt()]
    assert files(place.folder) == before
    assert numbers(place) == {"password": [1, 2, 3]}


@pytest.mark.parametrize(
    ("variable", "value"), [("AWX_PRIVATE_DATA_DIR", "{}"), ("AWX_ISOLATED_DATA_DIR", "{}/artifacts/7")]
)
def test_in_the_folder_of_a_job_nothing_is_declared(
    repository: FolderPlace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str
) -> None:
    place = repository
    monkeypatch.setenv(variable, value.format(tmp_path))
    with place.store() as store, store.transaction() as transaction:
        transaction.put_receipts([_receipt()])
    with pytest.raises(HostsealError, match="in the folder of an AWX job.* Nothing was changed"):
        add(place, version(4))
    with pytest.raises(HostsealError, match="in the folder of an AWX job"):
        Store(f"file://{tmp_path}/new", True)
    assert not (tmp_path / "new").exists()
    monkeypatch.setenv(variable, value.format(tmp_path / "elsewhere"))
    assert numbers(place) == {"password": [1, 2, 3]}
    add(place, version(4))


# Crashes and concurrent changes


class _Steps:
    """Counts what a transaction does to disks, and dies at one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, dies_at: int) -> None:
        self.count = 0
        self._dies_at = dies_at
        for name in ("open", "rename", "unlink", "rmdir", "mkdir", "fsync"):
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))
        for name in ("stage", "publish"):
            monkeypatch.setattr(_folder.Folder, name, self._counted(getattr(_folder.Folder, name), after=True))

    def _counted(self, real: Callable[..., Any], after: bool = False) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if after:
                real(*arguments, **options)
            self.count += 1
            if self.count == self._dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return None if after else real(*arguments, **options)

        return call


def _whole_change(place: FolderPlace) -> None:
    """Files of each kind are made, changed and removed."""
    with place.store() as store, store.transaction() as transaction:
        transaction.add_versions([version(4), version(1, "new")])
        transaction.put_host(HostRecord("prod", "db1", "kid", "record"))
        transaction.remove_environment("staging")
        transaction.add_environment(replace(transaction.environment("prod"), name="next"))
        transaction.put_receipts([_receipt()])


def _whole_state(place: FolderPlace, read_only: bool) -> tuple[Any, ...]:
    with place.store(read_only=read_only) as store, store.transaction() as transaction:
        return (
            [environment.name for environment in transaction.environments()],
            [(one.name, one.number) for one in transaction.versions("prod")],
            [one.name for one in transaction.versions("staging")],
            list(transaction.hosts("prod")),
            transaction.receipts("prod"),
        )


@pytest.mark.parametrize("stride", [9, pytest.param(1, marks=pytest.mark.thorough)])
def test_kill_at_each_step_leaves_old_or_new(repository: FolderPlace, tmp_path: Path, stride: int) -> None:
    place = repository
    place.declare_environment("staging")
    add(place, version(1, "gone", environment="staging"))
    for name in ("folder", "state"):
        shutil.copytree(tmp_path / name, tmp_path / f"{name}.before")
    old = _whole_state(place, read_only=True)
    _whole_change(place)
    new = _whole_state(place, read_only=True)
    assert old != new
    outcomes = []
    step = 1 - stride
    while not outcomes or outcomes[-1] is not None:
        step += stride
        for name in ("folder", "state"):
            shutil.rmtree(tmp_path / name)
            shutil.copytree(tmp_path / f"{name}.before", tmp_path / name, symlinks=True)

        def work(_number: int, step: int = step) -> None:
            with pytest.MonkeyPatch.context() as monkeypatch:
                _Steps(monkeypatch, step)
                _whole_change(place)

        [code] = in_processes(1, work)
        if code == 0:
            outcomes.append(None)
            continue
        assert code == -signal.SIGKILL
        # A reader before anybody has mended it, the writer that does, and what is there then without its help.
        seen = _whole_state(place, read_only=True)
        assert seen in (old, new), step
        assert _whole_state(place, read_only=False) == seen, step
        left = files(place.folder)
        assert not [path for path in left if ".tmp" in path], (step, left)
        assert ("environments/next/environment.json" in left) is (seen == new)
        assert ("environments/staging/environment.json" in left) is (seen == old)
        outcomes.append(seen == new)
    done = [outcome for outcome in outcomes if outcome is not None]
    # Once it is new it stays so, and the test has died on both sides.
    assert done == sorted(done)
    assert done.count(False) * stride > 10
    assert done.count(True) * stride > 10


def test_a_branch_that_was_changed_after_a_crash_is_not_written_over(repository: FolderPlace) -> None:
    place = repository

    def work(_number: int) -> None:
        with pytest.MonkeyPatch.context() as monkeypatch:
            monkeypatch.setattr(_tree.Tree, "publish", lambda *_arguments: os.kill(os.getpid(), signal.SIGKILL))
            add(place, version(4))

    git(place, "switch", "-q", "-c", "other")
    add(place, version(4))
    commit(place)
    git(place, "switch", "-q", "main")
    assert in_processes(1, work) == [-signal.SIGKILL]
    git(place, "switch", "-q", "other")
    before = place.content()
    for read_only in (False, True):
        with (
            pytest.raises(
                HostsealError, match=f"a run was cut off before it had written {_PASSWORD}, and the file has"
            ),
            place.store(read_only=read_only) as store,
            store.transaction(),
        ):
            pass
    assert place.content() == before
    git(place, "switch", "-q", "main")
    assert numbers(place) == {"password": [1, 2, 3, 4]}
    assert git(place, "status", "--porcelain") == f" M {_PASSWORD}\n"


def test_file_that_git_changed_meanwhile_is_not_written_over(
    repository: FolderPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = repository
    add(place, version(4))
    commit(place)
    tries: list[int] = []

    def work(transaction: Any) -> None:
        tries.append(transaction.last_numbers("prod", ["password"])["password"])
        if len(tries) == 1:
            git(place, "checkout", "-q", "HEAD~")
        transaction.add_versions([version(tries[-1] + 1)])

    with place.store() as store:
        store.run(work)
    assert tries == [4, 3]
    assert numbers(place) == {"password": [1, 2, 3, 4]}
    tries.clear()
    git(place, "checkout", "-q", "--force", "main")
    monkeypatch.setattr(_store, "_PATIENCE_SECONDS", 0)
    with (
        place.store() as store,
        pytest.raises(TransientError, match=f"{_PASSWORD} was changed by something else; noth"),
    ):
        store.run(work)


def test_runs_at_once_with_states_of_their_own_double_no_number(prod: FolderPlace, tmp_path: Path) -> None:
    """Two users, or one with another home: it is the folder that keeps them apart."""

    def work(number: int) -> None:
        for _turn in range(4):
            with (
                Store(f"{prod.label}?state={tmp_path}/{number}.db", False) as store,
                store.transaction() as transaction,
            ):
                last = transaction.last_numbers("prod", ["password"]).get("password", 0)
                transaction.add_versions([version(last + 1)])

    assert in_processes(4, work, timeout=300) == [0] * 4
    assert numbers(prod) == {"password": list(range(1, 17))}


def test_full_disk_changes_nothing(small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    place = FolderPlace(tmp_path / "store.db", tmp_path / "keys", small_disk / "folder")
    place.declare_environment("prod")
    add(place, version(1))
    with pytest.raises(HostsealError, match="can't be written: No space left on device; nothing was changed"):
        add(place, version(1, "small"), version(2, ciphertext="x" * 600_000))
    assert files(place.folder) == ["environments/prod/environment.json", _PASSWORD, "hostseal.json"]
    assert numbers(place) == {"password": [1]}
    add(place, version(2))
    assert numbers(place) == {"password": [1, 2]}


def test_what_can_not_be_published_is_kept(repository: FolderPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk fails between two files."""
    place = repository
    real = os.rename
    calls: list[int] = []

    def fail(*arguments: Any, **options: Any) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        real(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(os, "rename", fail)
        with pytest.raises(
            HostsealError, match="can't be written: Input/output error. The change is kept, the next run"
        ):
            add(place, version(1, "a"), version(1, "b"))
    assert len([path for path in files(place.folder) if path.endswith(("/a.json", "/b.json"))]) == 1
    assert set(numbers(place, read_only=True)) == {"a", "b", "password"}
    add(place, version(2, "a"))
    assert numbers(place) == {"a": [1, 2], "b": [1], "password": [1, 2, 3]}
    assert {"a.json", "b.json"} <= {Path(path).name for path in files(place.folder)}


def test_file_that_would_be_too_large_is_not_written(prod: FolderPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tree, "_LARGEST", 10_000)
    with pytest.raises(HostsealError, match="would have more than 10000 bytes: keep fewer versions with keep_versions"):
        add(prod, version(1, ciphertext="x" * 10_000))
    assert numbers(prod) == {}
