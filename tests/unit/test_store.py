# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The store: what is refused as one, what concurrent runs and crashes leave, and that numbers and times only grow."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _records, _schema, _store, _transaction
from ansible_collections.hostseal.secrets.plugins.plugin_utils._audit import Event
from ansible_collections.hostseal.secrets.plugins.plugin_utils._database_errors import TransientError
from ansible_collections.hostseal.secrets.plugins.plugin_utils._records import Receipt, StoredEnvelope
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store

from tests.unit.builders import Place, collect, in_processes, version


def stored(mount: str = "db", issued_at: int = 1, text: str = "envelope", host: str = "db1") -> StoredEnvelope:
    return StoredEnvelope("prod", host, mount, issued_at, None, "digest", text)


# Opening


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("store.db", "store 'store.db' is not an absolute path"),
        ("./store.db", "is not an absolute path"),
        ("sqlite:///store.db", "is not an absolute path"),
        ("sqlite://", "is not an absolute path"),
        ("sqlite:///:memory:", "is not an absolute path"),
        ("mysql://user:geheim@db/x", "a store of kind 'mysql' is not supported"),
        ("postgresql+psycopg://user:geheim@db/x", "has a password in its URL"),
        ("postgresql+psycopg://db/x?password=geheim", "has a password in its URL"),
        ("postgresql+psycopg://db/x?sslmode=require&sslpassword=geheim", "has a password in its URL"),
        ("mysql+pymysql://user:geheim@localhost/x", "has a password in its URL"),
        ("mysql+pymysql://localhost/x?passwd=geheim", "has a password in its URL"),
        ("mysql+pymysql://localhost/x?init_command=geheim", "has the parameter 'init_command' in its URL, known are"),
        ("postgresql+psycopg://localhost/x?sslmode=disable&sslmode=require", "has the parameter 'sslmode' twice"),
        ("mysql+pymysql://localhost", "names no database"),
        ("mysql+pymysql://localhost/x?connect_timeout=geheim", "connect_timeout in its URL that is not a number"),
        ("mysql+pymysql://localhost/x?ssl_disabled=no", "ssl_disabled in its URL that is not true or false"),
        ("mysql+pymysql://localhost/x?ssl_ca=/no/file", "names files by ssl_ca"),
        ("mysql+pymysql://db.example/x", "is on another machine"),
        ("mysql+pymysql://db.example/x?ssl_check_hostname=true", "Add ?ssl_ca=/PATH/ca.pem, or ssl_disabled=true"),
        ("postgresql+psycopg://db.example:5432/x", "Add ?sslmode=verify-full&sslrootcert=/PATH/ca.pem"),
        ("postgresql+psycopg:///x?host=localhost&host=192.0.2.1:5432", "is on another machine"),
        ("mysql+pymysql://localhost:port/x", "is not a path and not a database URL"),
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


def _other_database(place: Place) -> None:
    place.sql("CREATE TABLE recipe (name INTEGER)")


def _newer(place: Place) -> None:
    place.store(create=True).close()
    place.sql("UPDATE hostseal_store SET schema_version = 4")


def _older(place: Place) -> None:
    place.store(create=True).close()
    place.sql("UPDATE hostseal_store SET schema_version = 0")


def _without_table(place: Place) -> None:
    place.store(create=True).close()
    place.sql("DROP TABLE hostseal_store")


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (_other_database, "is a database of something else, not a hostseal store"),
        (_newer, "has schema version 4, this collection knows 3: upgrade this collection"),
        (_older, "has schema version 0, this collection knows 3: it is damaged"),
        (_without_table, "is a database of something else"),
    ],
)
@pytest.mark.parametrize("create", [True, False])
def test_database_that_is_no_store_is_refused_and_left_alone(
    place: Place, spoil: Callable[[Place], None], reason: str, create: bool
) -> None:
    place.path.parent.mkdir()
    spoil(place)
    before = place.content()
    for read_only in (False, True):
        with pytest.raises(HostsealError, match=reason) as caught:
            place.store(create, read_only=read_only)
        assert place.label in str(caught.value)
    assert place.content() == before


def test_errors_never_quote_what_was_to_be_stored(prod: Place) -> None:
    with prod.store() as store:
        with (
            pytest.raises(HostsealError, match="SQLITE_CONSTRAINT|IntegrityError 1062|UniqueViolation 23505") as caught,
            store.transaction() as transaction,
        ):
            transaction.add_versions([version(1, ciphertext="geheim")])
            transaction.add_versions([version(1, ciphertext="geheim")])
        assert "geheim" not in str(caught.value)
        assert caught.value.__suppress_context__


# Secrets


def _environment(name: str) -> _records.Environment:
    return _records.Environment(name, "localkey", name, None, "{}", "kid", "keys")


def test_unknown_environment_is_named_with_those_there_are(prod: Place) -> None:
    with prod.store() as store, store.transaction() as transaction:
        assert transaction.find_environment("prd") is None
        with pytest.raises(HostsealError, match=re.escape(f"'prd' is not in store {prod.label} (there: prod)")):
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
            transaction.put_host(_records.HostRecord(name, "db1", "kid", "record"))
            transaction.issue_times(name, [("db1", "db")], [0])
            transaction.put_receipts([_receipt(environment=name)])
    with prod.store() as store, store.transaction() as transaction:
        transaction.remove_environment("prod")
    left = {
        table: prod.sql(f"SELECT * FROM {table}")  # noqa: S608
        for table in ("environment", "secret", "secret_version", "host", "envelope", "receipt")
    }
    assert all(len(rows) == 1 and "staging" in rows[0] for rows in left.values())


def _make_first_schema(place: Place) -> None:
    for table, column in (
        ("environment", "engine_mount_point"),
        ("secret", "current_number"),
        ("host", "pinned_at"),
        ("receipt", "signing_kid"),
    ):
        place.sql(f"ALTER TABLE {table} DROP COLUMN {column}")
    place.sql("DROP TABLE audit")
    place.sql("UPDATE hostseal_store SET schema_version = 1")


def test_store_of_the_first_schema_is_upgraded(prod: Place) -> None:
    prod.declare({"name": "password", "value": "x"})
    prod.enrol("db1")
    with prod.store() as store, store.transaction() as transaction:
        transaction.put_receipts([_receipt()])
        before = transaction.environment("prod")
    _make_first_schema(prod)
    for _time in range(2):
        with prod.store() as store, store.transaction() as transaction:
            assert transaction.environment("prod") == before
            assert transaction.hosts("prod")["db1"].pinned_at is None
            # No key was ever changed before, so what hosts have is under the one that there is.
            assert [receipt.signing_kid for receipt in transaction.receipts("prod")] == [before.signing_kid]
            assert transaction.audit() == []
    assert prod.values() == {"password": b"x"}


def test_upgrades_at_once_do_one(prod: Place) -> None:
    _make_first_schema(prod)
    assert in_processes(6, lambda _number: prod.store().close()) == [0] * 6
    assert prod.sql("SELECT schema_version FROM hostseal_store") == [(_schema.SCHEMA,)]


def _kill_at(monkeypatch: pytest.MonkeyPatch, statement: str) -> None:
    """Before the database is sent STATEMENT."""
    real = sa.Connection.exec_driver_sql, sa.text

    def send(connection: sa.Connection, text: str, *arguments: Any, **options: Any) -> Any:
        if text.startswith(statement):
            os.kill(os.getpid(), signal.SIGKILL)
        return real[0](connection, text, *arguments, **options)

    def make(text: str) -> Any:
        if text.startswith(statement):
            os.kill(os.getpid(), signal.SIGKILL)
        return real[1](text)

    monkeypatch.setattr(sa.Connection, "exec_driver_sql", send)
    monkeypatch.setattr(_schema.sa, "text", make)


@pytest.mark.parametrize("statement", ["ALTER TABLE receipt ADD", "UPDATE receipt", "CREATE"])
def test_upgrade_that_is_killed_begins_anew(prod: Place, monkeypatch: pytest.MonkeyPatch, statement: str) -> None:
    prod.enrol("db1")
    with prod.store() as store, store.transaction() as transaction:
        transaction.put_receipts([_receipt()])
        environment = transaction.environment("prod")
    _make_first_schema(prod)

    def work(_number: int) -> None:
        _kill_at(monkeypatch, statement)
        prod.store()

    assert in_processes(1, work) == [-signal.SIGKILL]
    with pytest.raises(HostsealError, match="has schema version 1.*: a task that changes something upgrades it"):
        prod.store(read_only=True)
    with prod.store() as store, store.transaction() as transaction:
        assert transaction.environment("prod") == environment
        assert [receipt.signing_kid for receipt in transaction.receipts("prod")] == [environment.signing_kid]
        transaction.record([Event("secret.created", "prod")])
    with pytest.raises(Exception, match="append-only"):
        prod.sql("DELETE FROM audit")


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
    old = _records.HostRecord("prod", "db1", "old", "record")
    new = _records.HostRecord("prod", "db1", "new", "record")
    other = _records.HostRecord("staging", "db1", "old", "record")
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
        monkeypatch.setattr(_transaction, "now_ms", lambda: 1000)
        assert transaction.issue_times("prod", mounts, [0, 5000]) == [1000, 5001]
        monkeypatch.setattr(_transaction, "now_ms", lambda: 10)
        assert transaction.issue_times("prod", mounts, [0, 0]) == [1001, 5002]
        assert transaction.issue_times("prod", [("db2", "db")], [0]) == [10]
        monkeypatch.setattr(_transaction, "now_ms", lambda: 9000)
        assert transaction.issue_times("prod", mounts, [0, 0]) == [9000, 9000]


def test_issue_times_outlive_removal_and_retirement(prod: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_transaction, "now_ms", lambda: 1000)
    with prod.store() as store, store.transaction() as transaction:
        transaction.issue_times("prod", [("db1", "db")], [0])
        transaction.remove_envelope("prod", "db1", "db")
        assert transaction.issue_times("prod", [("db1", "db")], [0]) == [1001]
        transaction.remove_host("prod", "db1")
        assert transaction.issue_times("prod", [("db1", "db")], [0]) == [1002]


# Many at once, and crashes


def test_first_runs_at_once_make_one_store(place: Place) -> None:
    assert in_processes(20, lambda _number: place.store(create=True).close()) == [0] * 20
    assert place.sql("SELECT count(*) FROM hostseal_store") == [(1,)]


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


def test_kill_in_the_middle_of_creation_is_mended_by_the_next_run(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(_number: int) -> None:
        _kill_at(monkeypatch, "CREATE")
        place.store(create=True)

    assert in_processes(1, work) == [-signal.SIGKILL]
    place.declare_environment("prod")
    with place.store() as store, store.transaction() as transaction:
        transaction.record([Event("secret.created", "prod")])
    with pytest.raises(Exception, match="append-only"):
        place.sql("DELETE FROM audit")


def test_work_is_done_again_when_trouble_passes(prod: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing of a first try stays."""
    tries: list[int] = []

    def work(transaction: _transaction.Transaction) -> int:
        tries.append(len(tries))
        transaction.add_versions([version(1)])
        if len(tries) < 3:
            raise TransientError("for a moment")
        return len(tries)

    with prod.store() as store:
        assert store.run(work) == 3
        with store.transaction() as transaction:
            assert [found.number for found in transaction.versions("prod")] == [1]
        monkeypatch.setattr(_store, "_PATIENCE_SECONDS", 0)
        tries.clear()
        with store.transaction() as transaction:
            transaction.remove_versions("prod", ["password"])
        with pytest.raises(TransientError, match="for a moment"):
            store.run(work)
        assert tries == [0]
        with store.transaction() as transaction:
            assert transaction.versions("prod") == []


def test_reader_changes_nothing_and_waits_for_nobody(prod: Place) -> None:
    with prod.store() as store, store.transaction() as transaction:
        transaction.add_versions([version(1)])
        with prod.store(read_only=True) as reader, reader.transaction() as reading:
            assert reading.versions("prod") == []
    with prod.store(read_only=True) as reader, reader.transaction() as reading:
        assert [found.number for found in reading.versions("prod")] == [1]


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
