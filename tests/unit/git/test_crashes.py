# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A store in a folder, when a run is cut off, the disk fails, or two write at once."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _folder, _store, _tree
from ansible_collections.hostseal.secrets.plugins.plugin_utils._database_errors import TransientError
from ansible_collections.hostseal.secrets.plugins.plugin_utils._records import HostRecord
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store

from tests.unit.builders import in_processes, version
from tests.unit.folder.places import FolderPlace
from tests.unit.git.repositories import (
    PASSWORD,
    add_versions,
    check_refused,
    commit,
    file_names,
    git,
    new_receipt,
    version_numbers,
)


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
        transaction.put_receipts([new_receipt()])


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
    add_versions(place, version(1, "gone", environment="staging"))
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
        left = file_names(place.folder)
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
            add_versions(place, version(4))

    git(place, "switch", "-q", "-c", "other")
    add_versions(place, version(4))
    commit(place)
    git(place, "switch", "-q", "main")
    assert in_processes(1, work) == [-signal.SIGKILL]
    git(place, "switch", "-q", "other")
    check_refused(place, f"a run was cut off before it had written {PASSWORD}, and the file has")
    git(place, "switch", "-q", "main")
    assert version_numbers(place) == {"password": [1, 2, 3, 4]}
    assert git(place, "status", "--porcelain") == f" M {PASSWORD}\n"


def test_file_that_git_changed_meanwhile_is_not_written_over(
    repository: FolderPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = repository
    add_versions(place, version(4))
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
    assert version_numbers(place) == {"password": [1, 2, 3, 4]}
    tries.clear()
    git(place, "checkout", "-q", "--force", "main")
    monkeypatch.setattr(_store, "_PATIENCE_SECONDS", 0)
    with (
        place.store() as store,
        pytest.raises(TransientError, match=f"{PASSWORD} was changed by something else; noth"),
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
    assert version_numbers(prod) == {"password": list(range(1, 17))}


def test_full_disk_changes_nothing(small_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    place = FolderPlace(tmp_path / "store.db", tmp_path / "keys", small_disk / "folder")
    place.declare_environment("prod")
    add_versions(place, version(1))
    with pytest.raises(HostsealError, match="can't be written: No space left on device; nothing was changed"):
        add_versions(place, version(1, "small"), version(2, ciphertext="x" * 600_000))
    assert file_names(place.folder) == ["environments/prod/environment.json", PASSWORD, "hostseal.json"]
    assert version_numbers(place) == {"password": [1]}
    add_versions(place, version(2))
    assert version_numbers(place) == {"password": [1, 2]}


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
            add_versions(place, version(1, "a"), version(1, "b"))
    assert len([path for path in file_names(place.folder) if path.endswith(("/a.json", "/b.json"))]) == 1
    assert set(version_numbers(place, read_only=True)) == {"a", "b", "password"}
    add_versions(place, version(2, "a"))
    assert version_numbers(place) == {"a": [1, 2], "b": [1], "password": [1, 2, 3]}
    assert {"a.json", "b.json"} <= {Path(path).name for path in file_names(place.folder)}


def test_file_that_would_be_too_large_is_not_written(prod: FolderPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_tree, "_LARGEST", 10_000)
    with pytest.raises(HostsealError, match="would have more than 10000 bytes: keep fewer versions with keep_versions"):
        add_versions(prod, version(1, ciphertext="x" * 10_000))
    assert version_numbers(prod) == {}
