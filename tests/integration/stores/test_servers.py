# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What only a server does: it crashes, ends connections, has rights and limits, and is known by its certificate."""

from __future__ import annotations

import multiprocessing
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _database, _store
from ansible_collections.hostseal.secrets.plugins.plugin_utils._audit import Event, first_broken
from ansible_collections.hostseal.secrets.plugins.plugin_utils._database_errors import TransientError
from ansible_collections.hostseal.secrets.plugins.plugin_utils._records import StoredEnvelope
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store
from ansible_collections.hostseal.secrets.plugins.plugin_utils._transaction import Transaction

from tests.integration.stores.cutting import Wire
from tests.integration.stores.places import ServerPlace
from tests.rig import certificates
from tests.rig.databases import PASSWORD, READER, MariaDB, PostgreSQL
from tests.unit.builders import version

Server = MariaDB | PostgreSQL
_END_OTHERS = {
    MariaDB: "SELECT group_concat('KILL ', id SEPARATOR ';') FROM information_schema.processlist WHERE user = 'hostseal'",
    PostgreSQL: "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'hostseal'",
}


def _end_connections(server: Server) -> None:
    [[found]] = server.execute(_END_OTHERS[type(server)])
    if isinstance(server, MariaDB):
        for statement in found.split(";"):
            server.execute(statement)


def _refused(location: str, password: str | None = PASSWORD, **options: Any) -> str:
    with pytest.raises(HostsealError) as caught:
        Store(location, True, None, password, **options).close()
    assert PASSWORD not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


# Crashes


def test_server_that_crashes_among_writers_leaves_old_or_new(prod: ServerPlace) -> None:
    """Four writers; the server is killed and started again under them. What they were told is there, once, and a chain."""
    process = multiprocessing.get_context("fork")
    told = process.Queue()
    ended = process.Event()

    def write(number: int) -> None:
        turn = 0
        while not ended.is_set():
            turn += 1
            try:
                with prod.store() as store:
                    [outcome] = store.run(lambda transaction: _rotate(transaction, prod))
                    [issued_at] = store.run(lambda transaction: transaction.issue_times("prod", [("db1", "db")], [0]))
            except HostsealError as error:
                told.put(("failed", number, str(error)))
            else:
                told.put(("done", outcome.version, issued_at))
        told.put(("ended", number, None))

    writers = [process.Process(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for end in (prod.server.kill, prod.server.stop, prod.server.kill):
        time.sleep(1)
        end()
        prod.server.start()
    time.sleep(1)
    ended.set()
    answers: list[Any] = []
    while sum(answer[0] == "ended" for answer in answers) < 4:
        answers.append(told.get(timeout=60))
    for writer in writers:
        writer.join(60)
    done = [answer for answer in answers if answer[0] == "done"]
    numbers = [number for _done, number, _time in done]
    assert len(set(numbers)) == len(numbers) > 0
    assert len({issued_at for _done, _number, issued_at in done}) == len(done)
    # A server that is killed is waited for; only what it was just writing for good may be in doubt.
    assert [text for kind, _number, text in answers if kind == "failed" and "at the very end" not in text] == []
    with prod.store() as store, store.transaction() as transaction:
        log = transaction.audit()
        stored = [found.number for found in transaction.versions("prod")]
    assert first_broken(log) is None
    assert stored == list(range(1, len(stored) + 1))
    assert set(numbers) <= set(stored)
    assert [secret["version"] for record in log for secret in record.secrets] == stored


def _rotate(transaction: Transaction, place: ServerPlace) -> Any:
    from ansible_collections.hostseal.secrets.plugins.plugin_utils._declaring import Declaration, declare

    options = {"name": "a", "value": "x", "state": "rotated", "on_difference": "fail"}
    return declare(transaction, "prod", place.backend, [Declaration.from_options(options)], False)


def test_connection_that_is_ended_is_made_again(prod: ServerPlace) -> None:
    tries: list[int] = []

    def work(transaction: Transaction) -> None:
        tries.append(1)
        transaction.add_versions([version(1)])
        if len(tries) == 1:
            _end_connections(prod.server)
        transaction.record([Event("secret.created", "prod")])

    with prod.store() as store:
        store.run(work)
        assert len(tries) == 2
        # Outside of a transaction it does not show at all.
        _end_connections(prod.server)
        with store.transaction() as transaction:
            assert [found.number for found in transaction.versions("prod")] == [1]
            assert len(transaction.audit()) == 1


def test_answer_that_is_lost_at_the_end_is_told_and_the_work_not_done_twice(prod: ServerPlace) -> None:
    tries: list[int] = []

    def work(transaction: Transaction) -> None:
        tries.append(1)
        [last] = [*transaction.last_numbers("prod", ["password"]).values()] or [0]
        transaction.add_versions([version(last + 1)])

    with Wire(prod.server.port) as wire:
        location = prod.url.replace(f":{prod.server.port}/", f":{wire.port}/")
        with Store(location, False, None, PASSWORD) as store:
            _store.sa.event.listen(store._engine, "commit", lambda _connection: wire.swallow.set())
            with pytest.raises(
                HostsealError, match="at the very end .*whether the changes are in the store is not known"
            ):
                store.run(work)
    assert len(tries) == 1
    with prod.store() as store, store.transaction() as transaction:
        assert [found.number for found in transaction.versions("prod")] == [1]


def test_server_that_is_away_is_waited_for_a_while(prod: ServerPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []

    def look(store: Store) -> None:
        with store.transaction() as transaction:
            found.append(transaction.environment("prod"))

    prod.server.kill()
    try:
        with (
            monkeypatch.context() as patched,
            pytest.raises(TransientError, match=re.escape(f"{prod.label}: no server answers")),
        ):
            patched.setattr(_store, "_PATIENCE_SECONDS", 0.5)
            prod.store()
    finally:
        prod.server.start()
    with prod.store() as store:
        prod.server.kill()
        looking = threading.Thread(target=look, args=(store,))
        looking.start()
        time.sleep(1)
        assert not found
        prod.server.start()
        looking.join(60)
    assert len(found) == 1


# Rights, limits, sizes


def test_who_may_only_read_can_read(prod: ServerPlace) -> None:
    prod.declare({"name": "a", "value": "x"})
    location = prod.server.url(prod.database, READER)
    with Store(location, False, None, PASSWORD, read_only=True) as store, store.transaction() as transaction:
        assert list(transaction.current_versions("prod")) == ["a"]
        assert transaction.summary().rows["secret"] == 1
    with (
        pytest.raises(HostsealError, match="this user may not do that there"),
        Store(location, False, None, PASSWORD) as store,
        store.transaction() as transaction,
    ):
        transaction.add_versions([version(2, "a")])


def test_empty_database_is_a_store_that_is_not_there_yet(place: ServerPlace) -> None:
    before = place.content()
    for read_only in (False, True):
        with place.store(read_only=read_only) as store, store.transaction() as transaction:
            assert not store.exists
            assert transaction.environments() == []
    assert place.content() == before


def test_largest_secret_and_envelope(prod: ServerPlace) -> None:
    prod.declare({"name": "large", "value": "x" * (1 << 20)})
    text = "A" * (16 << 20)
    with prod.store() as store, store.transaction() as transaction:
        [issued_at] = transaction.issue_times("prod", [("db1", "db")], [0])
        transaction.put_envelopes([StoredEnvelope("prod", "db1", "db", issued_at, None, "digest", text)])
    with prod.store() as store, store.transaction() as transaction:
        assert transaction.envelopes("prod", ["db1"])["db1", "db"].text == text
    assert prod.values() == {"large": b"x" * (1 << 20)}


@pytest.fixture
def mariadb(server: Server) -> MariaDB:
    """The one server of the two that has these settings."""
    if not isinstance(server, MariaDB):
        pytest.skip("a setting of MariaDB and MySQL")
    return server


def test_server_that_takes_little_at_a_time(mariadb: MariaDB, prod: ServerPlace) -> None:
    mariadb.execute("SET GLOBAL max_allowed_packet = 1048576")
    try:
        with (
            pytest.raises(HostsealError, match=r"at most 1048576 bytes .*max_allowed_packet.*Nothing was changed"),
            prod.store() as store,
            store.transaction() as transaction,
        ):
            transaction.add_versions([version(1, "small"), version(1, "large", ciphertext="x" * (1 << 20))])
    finally:
        mariadb.execute("SET GLOBAL max_allowed_packet = 67108864")
    with prod.store() as store, store.transaction() as transaction:
        assert transaction.versions("prod") == []


def test_server_that_lets_only_administrators_make_triggers(mariadb: MariaDB, place: ServerPlace) -> None:
    mariadb.execute("SET GLOBAL log_bin_trust_function_creators = 0")
    try:
        assert "log_bin_trust_function_creators" in _refused(place.url)
    finally:
        mariadb.execute("SET GLOBAL log_bin_trust_function_creators = 1")
    place.declare_environment("prod")
    with place.store() as store, store.transaction() as transaction:
        transaction.record([Event("secret.created", "prod")])
    with pytest.raises(Exception, match="append-only"):
        place.sql("DELETE FROM audit")


# Logins and TLS


@pytest.mark.parametrize("password", ["wrong", None, f"{PASSWORD} "])
def test_wrong_password(place: ServerPlace, password: str | None) -> None:
    assert "does not accept this user with this password" in _refused(place.url, password)


def test_wrong_database(place: ServerPlace) -> None:
    reason = _refused(place.server.url("no_such_database"))
    assert "no database of this name" in reason or "may not do that there" in reason


def test_server_with_another_certificate_is_not_trusted(place: ServerPlace, tmp_path: Path) -> None:
    other = certificates.authority(tmp_path, "other")
    assert "certificate is not trusted" in _refused(place.url.replace(str(place.server.ca_cert), str(other.cert)))


def test_connection_is_encrypted(place: ServerPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server wants TLS of this user; that it is also checked says the test before."""
    off = "?ssl_disabled=true" if isinstance(place.server, MariaDB) else "?sslmode=disable"
    monkeypatch.setattr(_store, "_PATIENCE_SECONDS", 0.2)
    assert "does not accept this user" in _refused(place.url.partition("?")[0] + off)
    place.store(create=True).close()


def test_old_pymysql_would_not_insist_on_tls(
    mariadb: MariaDB, place: ServerPlace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pymysql

    assert place.server is mariadb
    monkeypatch.setattr(pymysql, "VERSION", (1, 1, 2, "final"))
    assert "PyMySQL before 1.2 goes on without TLS" in _refused(place.url)


def test_missing_driver_is_named(place: ServerPlace, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., Any] = _database.importlib.import_module

    def absent(name: str, *arguments: Any) -> Any:
        if name in ("pymysql", "psycopg"):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(_database.importlib, "import_module", absent)
    assert re.search(r"lacks (PyMySQL|psycopg\[binary\]), which .* needs: .* -m pip install", _refused(place.url))
