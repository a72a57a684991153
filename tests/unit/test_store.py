# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The store: what is refused as one, what concurrent runs and crashes leave, and that numbers and times only grow."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _paths, _store
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Receipt, Store, StoredEnvelope

from tests.unit.builders import Place, collect, in_processes, sql, version


def stored(mount: str = "db", issued_at: int = 1, text: str = "envelope", host: str = "db1") -> StoredEnvelope:
    return StoredEnvelope("prod", host, mount, issued_at, None, "digest", text)


# Opening


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


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("store.db", "store 'store.db' is not an absolute path"),
        ("./store.db", "is not an absolute path"),
        ("sqlite:///store.db", "is not an absolute path"),
        ("sqlite://", "is not an absolute path"),
        ("sqlite:///:memory:", "is not an absolute path"),
        ("mysql://user:geheim@db/x", "a store of kind 'mysql' is not supported"),
        ("postgresql+psycopg://user:geheim@db/x", "is not supported"),
        ("://", "is not a path and not a database URL"),
        ("http://[geheim/", "is not"),
        ("~nobody-of-this-name/store.db", "is not an absolute path"),
        ("/tmp/a\0b", "is not an absolute path"),
    ],
)
def test_bad_location(location: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HostsealError) as caught:
        Store(location, True)
    assert reason in str(caught.value)
    assert "geheim" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def _text(path: Path) -> None:
    path.write_text("- hosts: all\n" * 9, encoding="ascii")


def _one_byte(path: Path) -> None:
    path.write_bytes(b"S")


def _other_database(path: Path) -> None:
    sql(path, "CREATE TABLE recipe (name)")


def _garbage_after_the_magic(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\0" + os.urandom(5000))


def _directory(path: Path) -> None:
    path.mkdir()


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _newer(path: Path) -> None:
    Store(str(path), True).close()
    sql(path, "UPDATE hostseal_store SET schema_version = 3")


def _older(path: Path) -> None:
    Store(str(path), True).close()
    sql(path, "UPDATE hostseal_store SET schema_version = 0")


def _without_version(path: Path) -> None:
    Store(str(path), True).close()
    sql(path, "DELETE FROM hostseal_store")


def _without_table(path: Path) -> None:
    Store(str(path), True).close()
    sql(path, "DROP TABLE hostseal_store")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_text, "is a file of something else, not a hostseal store"),
        (_one_byte, "is a file of something else"),
        (_other_database, "is a database of something else, not a hostseal store"),
        (_garbage_after_the_magic, "the file is not a store|the file is damaged"),
        (_directory, "is not a regular file"),
        (_fifo, "is not a regular file"),
        (_newer, "has schema version 3, this collection knows 2: upgrade this collection"),
        (_older, "has schema version 0, this collection knows 2: it is damaged"),
        (_without_version, "it is damaged: restore a backup"),
        (_without_table, "is a database of something else"),
    ],
)
@pytest.mark.parametrize("create", [True, False])
def test_what_is_no_store_is_refused_and_left_alone(
    place: Place, spoil: Callable[[Path], None], reason: str, create: bool
) -> None:
    place.path.parent.mkdir()
    spoil(place.path)
    before = place.path.read_bytes() if place.path.is_file() else b""
    with pytest.raises(HostsealError, match=reason) as caught:
        place.store(create)
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


def test_full_disk_changes_nothing(small_disk: Path) -> None:
    path = small_disk / "store.db"
    with Store(str(path), True) as store:
        with store.transaction() as transaction:
            transaction.add_environment(_environment("prod"))
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


def test_errors_never_quote_what_was_to_be_stored(prod: Place) -> None:
    with prod.store() as store:
        with pytest.raises(HostsealError, match="SQLITE_CONSTRAINT") as caught, store.transaction() as transaction:
            transaction.add_versions([version(1, ciphertext="geheim")])
            transaction.add_versions([version(1, ciphertext="geheim")])
        assert "geheim" not in str(caught.value)
        assert caught.value.__suppress_context__


# Where it lies when nobody says


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


# Secrets


def _environment(name: str) -> _store.Environment:
    return _store.Environment(name, "localkey", name, None, "{}", "kid", "keys")


def test_unknown_environment_is_named_with_those_there_are(prod: Place) -> None:
    with prod.store() as store, store.transaction() as transaction:
        assert transaction.find_environment("prd") is None
        with pytest.raises(HostsealError, match=r"environment 'prd' is not in store .*store\.db \(there: prod\)"):
            transaction.environment("prd")


def test_versions(prod: Place) -> None:
    prod.declare_environment("staging")
    one, two, other, elsewhere = version(1), version(2), version(1, "key"), version(7, environment="staging")
    with prod.store() as store:
        with store.transaction() as transaction:
            transaction.add_versions([one, other])
            transaction.add_versions([two])
            transaction.add_versions([elsewhere])
            transaction.add_versions([])
        with store.transaction() as transaction:
            assert transaction.current_versions("prod") == {"key": other, "password": two}
            assert transaction.current_versions("prod", ["password", "none"]) == {"password": two}
            assert transaction.current_versions("prod", []) == {}
            assert transaction.versions("prod") == [other, one, two]
            assert transaction.versions("prod", ["password"]) == [one, two]
            assert transaction.last_numbers("prod", ["password", "none"]) == {"password": 2}
            assert transaction.current_versions("staging") == {"password": elsewhere}


def test_names_differ_by_case(prod: Place) -> None:
    with prod.store() as store, store.transaction() as transaction:
        transaction.add_versions([version(1, "Key"), version(1, "key")])
        assert set(transaction.current_versions("prod", ["key"])) == {"key"}


def test_thousands_of_names_in_one_call(prod: Place) -> None:
    names = [f"s{number:05}" for number in range(2500)]
    with prod.store() as store, store.transaction() as transaction:
        transaction.add_versions([version(1, name) for name in names])
        transaction.add_versions([version(2, name) for name in names])
        assert {found.number for found in transaction.current_versions("prod", names).values()} == {2}
        assert len(transaction.versions("prod", names)) == 5000
        transaction.remove_versions("prod", names)
        assert transaction.versions("prod") == []
        assert set(transaction.last_numbers("prod", names).values()) == {2}


def test_number_is_never_used_again(prod: Place) -> None:
    with prod.store() as store, store.transaction() as transaction:
        transaction.add_versions([version(1)])
        transaction.add_versions([version(2)])
        transaction.remove_versions("prod", ["password"])
        assert transaction.current_versions("prod") == {}
        assert transaction.last_numbers("prod", ["password"]) == {"password": 2}


def test_failed_transaction_leaves_nothing(prod: Place) -> None:
    with prod.store() as store:
        with pytest.raises(ZeroDivisionError), store.transaction() as transaction:
            transaction.add_versions([version(1)])
            raise ZeroDivisionError
        with store.transaction() as transaction:
            assert transaction.versions("prod") == []
            assert transaction.last_numbers("prod", ["password"]) == {}


def test_removed_environment_takes_all_with_it_and_nothing_else(prod: Place) -> None:
    prod.declare_environment("staging")
    for name in ("prod", "staging"):
        with prod.store() as store, store.transaction() as transaction:
            transaction.add_versions([version(1, environment=name)])
            transaction.put_host(_store.HostRecord(name, "db1", "kid", "record"))
            transaction.issue_times(name, [("db1", "db")], [0])
            transaction.put_receipts([_receipt(environment=name)])
    with prod.store() as store, store.transaction() as transaction:
        transaction.remove_environment("prod")
    left = {
        table: sql(prod.path, f"SELECT * FROM {table}")  # noqa: S608
        for table in ("environment", "secret", "secret_version", "host", "envelope", "receipt")
    }
    assert all(len(rows) == 1 and "staging" in rows[0] for rows in left.values())


def test_deleted_ciphertext_is_gone_from_the_file(prod: Place) -> None:
    ciphertext = "localkey:v1:" + "geheim" * 500
    with prod.store() as store:
        with store.transaction() as transaction:
            transaction.add_versions([version(1, ciphertext=ciphertext)])
        assert b"geheim" * 50 in prod.path.read_bytes()
        with store.transaction() as transaction:
            transaction.remove_versions("prod", ["password"])
        assert b"geheim" not in prod.path.read_bytes()


def _make_first_schema(path: Path) -> None:
    for table, column in (
        ("environment", "engine_mount_point"),
        ("secret", "current_number"),
        ("host", "pinned_at"),
        ("receipt", "signing_kid"),
    ):
        sql(path, f"ALTER TABLE {table} DROP COLUMN {column}")
    sql(path, "DROP TABLE audit")
    sql(path, "UPDATE hostseal_store SET schema_version = 1")


def test_store_of_the_first_schema_is_upgraded(prod: Place) -> None:
    prod.declare({"name": "password", "value": "x"})
    prod.enrol("db1")
    with prod.store() as store, store.transaction() as transaction:
        transaction.put_receipts([_receipt()])
        before = transaction.environment("prod")
    _make_first_schema(prod.path)
    for _time in range(2):
        with prod.store() as store, store.transaction() as transaction:
            assert transaction.environment("prod") == before
            assert transaction.hosts("prod")["db1"].pinned_at is None
            # No key was ever changed before, so what hosts have is under the one that there is.
            assert [receipt.signing_kid for receipt in transaction.receipts("prod")] == [before.signing_kid]
            assert transaction.audit() == []
    assert prod.values() == {"password": b"x"}


def test_upgrades_at_once_do_one(prod: Place) -> None:
    _make_first_schema(prod.path)
    assert in_processes(6, lambda _number: prod.store().close()) == [0] * 6
    assert sql(prod.path, "SELECT schema_version FROM hostseal_store") == [(_store.SCHEMA,)]


def test_upgrade_that_is_killed_begins_anew(prod: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    _make_first_schema(prod.path)

    def work(_number: int) -> None:
        real = _store.sa.text

        def die(statement: str) -> Any:
            if "receipt ADD" in statement:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(statement)

        monkeypatch.setattr(_store.sa, "text", die)
        prod.store()

    assert in_processes(1, work) == [-signal.SIGKILL]
    with prod.store() as store, store.transaction() as transaction:
        assert transaction.environment("prod").engine_mount_point is None
        assert transaction.receipts("prod") == []


def test_ciphertexts_are_replaced_where_they_are_still_the_old_ones(prod: Place) -> None:
    first, second, gone = version(1, "a"), version(1, "b"), version(1, "c")
    with prod.store() as store, store.transaction() as transaction:
        transaction.add_versions([first, second, gone])
        transaction.remove_versions("prod", ["c"])
        changed = replace(second, ciphertext="localkey:v2:BBBB")
        assert transaction.replace_ciphertexts([(second, changed)]) == 1
        new = [replace(one, ciphertext="localkey:v3:CCCC", fingerprint="g", id="x") for one in (first, second, gone)]
        assert transaction.replace_ciphertexts(list(zip((first, second, gone), new, strict=True))) == 1
        # The id of a version is what envelopes are compared by.
        assert transaction.versions("prod") == [replace(new[0], id=first.id), changed]


# Hosts, envelopes, receipts


def _receipt(**changes: Any) -> Receipt:
    fields = {
        "environment": "prod",
        "host": "db1",
        "mount": "db",
        "issued_at": 5,
        "expires_at": None,
        "state_digest": "d",
        "secrets": [{"name": "password", "version": 1}],
        "delivered_at": 6,
        "signing_kid": "kid",
    }
    return Receipt(**{**fields, **changes})


def test_hosts(prod: Place) -> None:
    prod.declare_environment("staging")
    old = _store.HostRecord("prod", "db1", "old", "record")
    new = _store.HostRecord("prod", "db1", "new", "record")
    other = _store.HostRecord("staging", "db1", "old", "record")
    with prod.store() as store, store.transaction() as transaction:
        for record in (old, new, other):
            transaction.put_host(record)
        assert transaction.hosts("prod") == {"db1": new}
        assert transaction.hosts("prod", ["db2"]) == {}
        assert transaction.enrolments("db1") == [new, other]
        transaction.remove_host("prod", "db1")
        assert transaction.enrolments("db1") == [other]


def test_envelopes_and_receipts(prod: Place) -> None:
    with prod.store() as store, store.transaction() as transaction:
        [issued_at] = transaction.issue_times("prod", [("db1", "db")], [0])
        assert transaction.envelopes("prod", ["db1"]) == {}
        transaction.put_envelopes([stored(issued_at=issued_at)])
        transaction.put_receipts([_receipt(issued_at=1), _receipt(host="db2")])
        transaction.put_receipts([_receipt()])
        assert transaction.envelopes("prod", ["db1", "db2"]) == {("db1", "db"): stored(issued_at=issued_at)}
        assert transaction.receipts("prod") == [_receipt(), _receipt(host="db2")]
        assert transaction.receipts("prod", ["db2"]) == [_receipt(host="db2")]
        transaction.remove_envelope("prod", "db1", "db")
        assert transaction.envelopes("prod", ["db1"]) == {}
        assert transaction.receipts("prod", ["db1"]) == []


def test_envelope_that_was_overtaken_is_left_out(prod: Place) -> None:
    with prod.store() as store, store.transaction() as transaction:
        transaction.issue_times("prod", [("db1", "db")], [0])
        transaction.put_envelopes([stored(issued_at=9, text="newer")])
        transaction.put_envelopes([stored(issued_at=8, text="older")])
        assert transaction.envelopes("prod", ["db1"])["db1", "db"].text == "newer"


def test_issue_times_grow_when_the_clock_goes_back(prod: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = [("db1", "db"), ("db1", "web")]
    with prod.store() as store, store.transaction() as transaction:
        monkeypatch.setattr(_store, "now_ms", lambda: 1000)
        assert transaction.issue_times("prod", mounts, [0, 5000]) == [1000, 5001]
        monkeypatch.setattr(_store, "now_ms", lambda: 10)
        assert transaction.issue_times("prod", mounts, [0, 0]) == [1001, 5002]
        assert transaction.issue_times("prod", [("db2", "db")], [0]) == [10]
        monkeypatch.setattr(_store, "now_ms", lambda: 9000)
        assert transaction.issue_times("prod", mounts, [0, 0]) == [9000, 9000]


def test_issue_times_outlive_removal_and_retirement(prod: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_store, "now_ms", lambda: 1000)
    with prod.store() as store, store.transaction() as transaction:
        transaction.issue_times("prod", [("db1", "db")], [0])
        transaction.remove_envelope("prod", "db1", "db")
        assert transaction.issue_times("prod", [("db1", "db")], [0]) == [1001]
        transaction.remove_host("prod", "db1")
        assert transaction.issue_times("prod", [("db1", "db")], [0]) == [1002]


# Many at once, and crashes


def test_first_runs_at_once_make_one_store(place: Place) -> None:
    assert in_processes(20, lambda _number: place.store(create=True).close()) == [0] * 20
    assert sql(place.path, "SELECT count(*) FROM hostseal_store") == [(1,)]


def test_declarations_at_once_lose_and_double_nothing(prod: Place) -> None:
    def work(number: int) -> list[int]:
        numbers = []
        for turn in range(12):
            shared, own = prod.declare(
                {"name": "shared", "value": f"{number}", "state": "rotated"},
                {"name": f"own-{number}-{turn}", "value": "x"},
            )
            assert own.version == 1
            assert shared.version
            numbers.append(shared.version)
        return numbers

    assert sorted(collect(4, work)) == list(range(1, 49))
    with prod.store() as store, store.transaction() as transaction:
        assert [found.number for found in transaction.versions("prod", ["shared"])] == list(range(1, 49))
        assert len(transaction.current_versions("prod")) == 49


def test_one_of_many_equal_declarations_creates(prod: Place) -> None:
    actions = collect(20, lambda _number: [prod.declare({"name": "a", "generate": {}})[0].action])
    assert sorted(actions) == ["created"] + ["unchanged"] * 19


def test_issue_times_at_once_are_all_different(prod: Place) -> None:
    def work(_number: int) -> list[int]:
        times = []
        for _number in range(10):
            with prod.store() as store, store.transaction() as transaction:
                times += transaction.issue_times("prod", [("db1", "db")], [0])
        assert times == sorted(times)
        return times

    assert len(set(collect(4, work))) == 40


def test_reader_waits_for_a_writer(prod: Place) -> None:
    """Not even a plain list is read in the middle of another run's transaction."""

    def work(number: int) -> None:
        with prod.store() as store, store.transaction() as transaction:
            if number == 0:
                transaction.add_versions([version(1)])
                transaction.remove_versions("prod", ["password"])
            else:
                assert transaction.versions("prod") == []

    assert in_processes(8, work) == [0] * 8


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
    assert sql(prod.path, "PRAGMA integrity_check") == [("ok",)]


def test_kill_in_the_middle_of_creation_is_mended_by_the_next_run(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(_number: int) -> None:
        monkeypatch.setattr(_store._metadata, "create_all", lambda _connection: os.kill(os.getpid(), signal.SIGKILL))
        place.store(create=True)

    assert in_processes(1, work) == [-signal.SIGKILL]
    place.declare_environment("prod")


def test_confirmed_key_sets_are_of_one_host_in_one_environment(prod: Place) -> None:
    prod.declare_environment("staging")
    for host in ("db1", "db2"):
        prod.enrol(host)
    prod.enrol("db1", environment="staging")
    with prod.store() as store, store.transaction() as transaction:
        transaction.confirm_key_set("prod", "db1", 7)
        transaction.confirm_key_set("prod", "nobody", 7)
        found = [transaction.hosts(environment) for environment in ("prod", "staging")]
    assert [{name: host.pinned_at for name, host in hosts.items()} for hosts in found] == [
        {"db1": 7, "db2": None},
        {"db1": None},
    ]
    # Enrolled anew it may be another machine, which has confirmed nothing.
    prod.enrol("db1")
    with prod.store() as store, store.transaction() as transaction:
        assert transaction.hosts("prod")["db1"].pinned_at is None
