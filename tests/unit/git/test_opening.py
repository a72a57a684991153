# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where a store in a folder is, how it is made, and who may write to it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _schema, _tree
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store

from tests.unit.builders import in_processes, version
from tests.unit.folder.places import FolderPlace
from tests.unit.git.repositories import add_versions, file_names, new_receipt, version_numbers


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
    assert file_names(place.folder) == ["hostseal.json", "site.yml"]


def test_creation_that_is_killed_is_made_again(place: FolderPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(_number: int) -> None:
        monkeypatch.setattr(os, "rename", lambda *_arguments, **_options: os.kill(os.getpid(), signal.SIGKILL))
        place.store(create=True)

    assert in_processes(1, work) == [-signal.SIGKILL]
    assert len(file_names(place.folder)) == 1
    assert not place.store().exists
    place.declare_environment("prod")
    assert file_names(place.folder) == ["environments/prod/environment.json", "hostseal.json"]


def test_creations_at_once_make_one(place: FolderPlace) -> None:
    assert in_processes(6, lambda _number: place.store(create=True).close()) == [0] * 6
    assert file_names(place.folder) == ["hostseal.json"]


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
    before = file_names(place.folder)
    with _mounted_read_only(place.folder):
        with place.store() as store, store.transaction() as transaction:
            transaction.put_receipts([new_receipt()])
        assert version_numbers(place) == {"password": [1, 2, 3]}
        with pytest.raises(HostsealError, match="can't be written: Read-only file system; nothing was changed"):
            add_versions(place, version(4))
        with place.store() as store, store.transaction() as transaction:
            assert transaction.receipts("prod") == [new_receipt()]
    assert file_names(place.folder) == before
    assert version_numbers(place) == {"password": [1, 2, 3]}


@pytest.mark.parametrize(
    ("variable", "value"), [("AWX_PRIVATE_DATA_DIR", "{}"), ("AWX_ISOLATED_DATA_DIR", "{}/artifacts/7")]
)
def test_in_the_folder_of_a_job_nothing_is_declared(
    repository: FolderPlace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variable: str, value: str
) -> None:
    place = repository
    monkeypatch.setenv(variable, value.format(tmp_path))
    with place.store() as store, store.transaction() as transaction:
        transaction.put_receipts([new_receipt()])
    with pytest.raises(HostsealError, match="in the folder of an AWX job.* Nothing was changed"):
        add_versions(place, version(4))
    with pytest.raises(HostsealError, match="in the folder of an AWX job"):
        Store(f"file://{tmp_path}/new", True)
    assert not (tmp_path / "new").exists()
    monkeypatch.setenv(variable, value.format(tmp_path / "elsewhere"))
    assert version_numbers(place) == {"password": [1, 2, 3]}
    add_versions(place, version(4))
