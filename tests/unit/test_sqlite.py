# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What only a store in a file has: its place, its mode, what else a file may be, full and read-only disks."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _paths, _records
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store

from tests.unit.builders import Place, in_processes, version


def test_new_store(place: Place) -> None:
    with place.store(create=True) as store:
        assert store.exists
        assert store.label == str(place.path)
        with store.transaction() as transaction:
            assert transaction.environments() == []
    assert place.path.stat().st_mode & 0o7777 == 0o600
    assert place.path.parent.stat().st_mode & 0o7777 == 0o700
    assert [path.name for path in place.path.parent.iterdir()] == ["store.db"]


def test_mode_of_a_new_store_does_not_depend_on_the_umask(place: Place) -> None:
    old = os.umask(0)
    try:
        place.store(create=True).close()
    finally:
        os.umask(old)
    assert place.path.stat().st_mode & 0o7777 == 0o600


def test_missing_store_is_an_empty_one_that_leaves_no_trace(place: Place) -> None:
    with place.store() as store, store.transaction() as transaction:
        assert not store.exists
        assert transaction.environments() == []
    assert not place.path.parent.exists()


@pytest.mark.parametrize("spell", [str, "sqlite:///{}".format, lambda path: "~/" + os.path.relpath(path, Path.home())])
def test_spellings_of_a_path(place: Place, spell: Callable[[Path], str]) -> None:
    Store(spell(place.path), True).close()
    assert place.path.stat().st_size


def _text(path: Path) -> None:
    path.write_text("- hosts: all\n" * 9, encoding="ascii")


def _one_byte(path: Path) -> None:
    path.write_bytes(b"S")


def _garbage_after_the_magic(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + os.urandom(5000))


def _directory(path: Path) -> None:
    path.mkdir()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _without_version(path: Path) -> None:
    Store(str(path), True).close()
    Place(path, path).sql("DELETE FROM hostseal_store")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_text, "is a file of something else, not a hostseal store"),
        (_one_byte, "is a file of something else"),
        (_garbage_after_the_magic, "the file is not a store|the file is damaged"),
        (_directory, "is not a regular file"),
        (_fifo, "is not a regular file"),
        (_without_version, "it is damaged: restore a backup"),
    ],
)
@pytest.mark.parametrize("create", [True, False])
def test_file_that_is_no_store_is_refused_and_left_alone(
    place: Place, spoil: Callable[[Path], None], reason: str, create: bool
) -> None:
    place.path.parent.mkdir()
    spoil(place.path)
    before = place.path.read_bytes() if place.path.is_file() else b""
    for read_only in (False, True):
        with pytest.raises(HostsealError, match=reason) as caught:
            place.store(create, read_only=read_only)
        assert str(place.path) in str(caught.value)
    assert before == (place.path.read_bytes() if place.path.is_file() else b"")


def test_empty_file_becomes_a_store_only_on_creation(place: Place) -> None:
    place.path.parent.mkdir()
    place.path.touch()
    with pytest.raises(HostsealError, match="is empty, not a hostseal store"):
        place.store()
    place.store(create=True).close()
    assert place.path.stat().st_size


def test_truncated_store_is_refused(prod: Place) -> None:
    content = prod.path.read_bytes()
    for length in (100, 1024, len(content) // 2):
        prod.path.write_bytes(content[:length])
        with (
            pytest.raises(HostsealError, match=r"store\.db: the file is (damaged|not a store)"),
            prod.store() as store,
            store.transaction() as transaction,
        ):
            transaction.environment("prod")


def test_place_where_no_store_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HostsealError, match="can't be (made|opened): Not a directory"):
        Store(str(tmp_path / "file" / "store.db"), True)


def test_read_only_store(small_disk: Path) -> None:
    path = small_disk / "store.db"
    Store(str(path), True).close()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True, timeout=30)
    with pytest.raises(HostsealError, match="can't be read and written by this user|is read-only"):
        Store(str(path), True)
    with pytest.raises(HostsealError, match="can't be made: Read-only file system"):
        Store(str(small_disk / "other.db"), True)


def test_who_may_only_read_a_file_can_read_it(prod: Place) -> None:
    prod.declare({"name": "a", "value": "x"})
    prod.path.chmod(0o644)
    prod.path.parent.chmod(0o755)
    for folder in prod.path.parents[1:-1]:
        folder.chmod(folder.stat().st_mode | 0o111)
    shown = prod.content()

    def work(_number: int) -> None:
        os.setuid(65534)
        with pytest.raises(HostsealError, match="can't be read and written by this user"):
            prod.store()
        with prod.store(read_only=True) as store, store.transaction() as transaction:
            assert list(transaction.current_versions("prod")) == ["a"]
            with pytest.raises(sa.exc.OperationalError, match="readonly"):
                transaction.add_versions([version(2, "a")])

    assert in_processes(1, work) == [0]
    assert prod.content() == shown


def test_reader_mends_what_a_crash_left(prod: Place) -> None:
    def work(_number: int) -> None:
        with prod.store() as store, store.transaction() as transaction:
            transaction.add_versions([version(1, f"s{number}", ciphertext="x" * 100_000) for number in range(60)])
            os.kill(os.getpid(), signal.SIGKILL)

    assert in_processes(1, work) == [-signal.SIGKILL]
    assert prod.path.with_name("store.db-journal").stat().st_size
    with prod.store(read_only=True) as store, store.transaction() as transaction:
        assert transaction.versions("prod") == []


def test_full_disk_changes_nothing(small_disk: Path) -> None:
    path = small_disk / "store.db"
    with Store(str(path), True) as store:
        with store.transaction() as transaction:
            transaction.add_environment(_records.Environment("prod", "localkey", "prod", None, "{}", "kid", "keys"))
            transaction.add_versions([version()])
        (small_disk / "filler").write_bytes(b"x" * (512 * 1024 - path.stat().st_size - 64 * 1024))
        with (
            pytest.raises(HostsealError, match=r"store\.db: the disk (is full|reports an error)"),
            store.transaction() as transaction,
        ):
            transaction.add_versions([version(2, ciphertext="x" * 200_000)])
        (small_disk / "filler").unlink()
        with store.transaction() as transaction:
            assert [found.number for found in transaction.versions("prod")] == [1]
            transaction.add_versions([version(2)])


def test_disk_too_full_for_a_new_store(small_disk: Path) -> None:
    with contextlib.suppress(OSError):
        (small_disk / "filler").write_bytes(b"x" * (1 << 20))
    with pytest.raises(HostsealError, match="the disk is full|reports an error|No space left"):
        Store(str(small_disk / "store.db"), True)


def test_implicit_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with Store(None, False) as store:
        assert store.label == f"{tmp_path}/.local/share/hostseal/store.db"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    with Store("", False) as store:
        assert store.label == f"{tmp_path}/data/hostseal/store.db"


@pytest.mark.parametrize("variable", ["AWX_HOST", "AWX_PRIVATE_DATA_DIR", "AWX_ISOLATED_DATA_DIR"])
def test_no_implicit_path_in_an_awx_job(monkeypatch: pytest.MonkeyPatch, variable: str, tmp_path: Path) -> None:
    monkeypatch.setenv(variable, "x")
    with pytest.raises(
        HostsealError, match="AWX job or an execution environment.* set the option store or HOSTSEAL_STORE"
    ):
        Store(None, True)
    with pytest.raises(HostsealError, match="set the option key_path or HOSTSEAL_KEY_PATH"):
        _paths.implicit_path("XDG_CONFIG_HOME", ".config", "keys", "key_path", "HOSTSEAL_KEY_PATH")
    Store(str(tmp_path / "store.db"), True).close()


def test_deleted_ciphertext_is_gone_from_the_file(prod: Place) -> None:
    ciphertext = "localkey:v1:" + "geheim" * 500
    with prod.store() as store:
        with store.transaction() as transaction:
            transaction.add_versions([version(1, ciphertext=ciphertext)])
        assert b"geheim" * 50 in prod.path.read_bytes()
        with store.transaction() as transaction:
            transaction.remove_versions("prod", ["password"])
        assert b"geheim" not in prod.path.read_bytes()


def test_kill_in_the_middle_of_a_transaction_leaves_the_old_store(prod: Place) -> None:
    def work(_number: int) -> None:
        with prod.store() as store, store.transaction() as transaction:
            # More than the page cache holds: part of it is in the database file already.
            transaction.add_versions([version(1, f"s{number}", ciphertext="x" * 100_000) for number in range(60)])
            os.kill(os.getpid(), signal.SIGKILL)

    size = prod.path.stat().st_size
    assert in_processes(1, work) == [-signal.SIGKILL]
    assert prod.path.stat().st_size > size, "the test is too weak: nothing had been written yet"
    assert prod.path.with_name("store.db-journal").stat().st_mode & 0o777 == 0o600
    with prod.store() as store, store.transaction() as transaction:
        assert transaction.versions("prod") == []
        assert transaction.environment("prod")
        transaction.add_versions([version(1)])
    assert prod.sql("PRAGMA integrity_check") == [("ok",)]
