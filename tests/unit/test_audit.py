# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The audit log says who did what, and shows when it was touched."""

from __future__ import annotations

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.plugin_utils._audit import Actor, Event, Record, first_broken

from tests.unit.builders import Place, in_processes


def _log(place: Place) -> list[Record]:
    with place.store() as store, store.transaction() as transaction:
        return transaction.audit()


def _append(place: Place, *events: Event, actor: Actor | None = None) -> None:
    with place.store(actor=actor) as store, store.transaction() as transaction:
        transaction.record(events)


def test_declaring_is_told_with_versions_and_without_values(prod: Place) -> None:
    prod.declare({"name": "a", "value": "marker-one"}, {"name": "b", "generate": {"length": 20}})
    prod.declare({"name": "a", "value": "marker-two", "on_difference": "rotate"}, {"name": "b", "generate": {}})
    prod.declare({"name": "a", "version": 1})
    prod.declare({"name": "b", "state": "absent"})
    prod.declare({"name": "b", "state": "absent"})
    told = [(record.action, record.secrets) for record in _log(prod)]
    assert told == [
        ("secret.created", [{"name": "a", "version": 1}]),
        ("secret.created", [{"name": "b", "version": 1}]),
        ("secret.rotated", [{"name": "a", "version": 2}]),
        ("secret.rolled_back", [{"name": "a", "version": 1}]),
        ("secret.deleted", [{"name": "b", "version": 1}]),
    ]
    assert b"marker" not in prod.content()
    assert first_broken(_log(prod)) is None


def test_check_mode_and_failures_are_not_told(prod: Place) -> None:
    prod.declare({"name": "a", "value": "x"}, check=True)
    with pytest.raises(HostsealError):
        prod.declare({"name": "a", "value": "x"}, {"name": "b", "version": 4})
    assert _log(prod) == []


@pytest.mark.parametrize(
    ("statement", "broken"),
    [
        ("UPDATE audit SET \"user\" = 'mallory' WHERE number = 2", 2),
        ("UPDATE audit SET secrets = '[]' WHERE number = 3", 3),
        ("DELETE FROM audit WHERE number = 1", 1),
        ("DELETE FROM audit WHERE number = 3", 3),
        ("UPDATE audit SET number = number + 10 WHERE number = 5", 5),
        ("INSERT INTO audit SELECT 6, at, \"user\", job, action, environment, host, mount, secrets, delivery, result,"
         " previous, hash FROM audit WHERE number = 5", 6),
    ],
)  # fmt: skip
def test_an_edited_log_shows(prod: Place, statement: str, broken: int) -> None:
    for number in range(5):
        _append(prod, Event("secret.rotated", "prod", secrets=[{"name": "a", "version": number}]))
    assert first_broken(_log(prod)) is None
    prod.unprotect_audit()
    prod.sql(statement)
    assert first_broken(_log(prod)) == broken


@pytest.mark.parametrize("statement", ["UPDATE audit SET \"user\" = 'x'", "DELETE FROM audit"])
def test_the_database_refuses_to_edit_it(prod: Place, statement: str) -> None:
    _append(prod, Event("secret.rotated", "prod"))
    with pytest.raises(Exception, match="append-only"):
        prod.sql(statement)


def test_who_acts() -> None:
    assert Actor.of({"awx_job_id": 417, "awx_user_name": "alice"}) == Actor("alice", "417")
    assert Actor.of({"tower_job_id": "9", "tower_user_name": "bob"}) == Actor("bob", "9")
    assert Actor.of({}).user
    assert len(Actor.of({"awx_user_name": "x" * 1000}).user) == 128


def test_writers_at_once_make_one_chain(prod: Place) -> None:
    def append(number: int) -> None:
        for _time in range(10):
            _append(prod, Event("secret.rotated", "prod"), actor=Actor(f"user{number}"))

    assert in_processes(4, append) == [0] * 4
    log = _log(prod)
    assert len(log) == 40
    assert first_broken(log) is None
    assert {record.user for record in log} == {f"user{number}" for number in range(4)}


def test_a_removed_environment_leaves_its_records(prod: Place) -> None:
    prod.declare({"name": "a", "value": "x"})
    with prod.store() as store, store.transaction() as transaction:
        transaction.remove_environment("prod")
    assert [record.action for record in _log(prod)] == ["secret.created"]
