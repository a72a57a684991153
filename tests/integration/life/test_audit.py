# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
# ruff: noqa: S608 - the SQL here is that of whoever edits the store
"""The audit log after runs by two people, joined with the logs of the hosts."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.agent.conftest import AgentHost, eventually
from tests.markers import Markers

from .conftest import DELIVER, Life, LifeFactory

ENVIRONMENT = "told"
MARKERS = Markers.random("given", "refused")
_FILL = "/run/hostseal/volumes/ballast"


@pytest.fixture(scope="module")
def life(pair: LifeFactory) -> Iterator[Life]:
    """Set up by alice, rotated by bob in AWX."""
    made = pair(ENVIRONMENT)
    given = {"environment": ENVIRONMENT, "name": "given", "value": MARKERS.text("given"), "on_difference": "rotate"}
    made.declare(
        hostseal_secrets=[{"environment": ENVIRONMENT, "name": "made", "generate": {}}, given],
        hostseal_mounts=[
            {"environment": ENVIRONMENT, "name": "db", "secrets": [{"source": "made"}, {"source": "given"}]},
            {"environment": ENVIRONMENT, "name": "web", "secrets": [{"source": "given"}]},
        ],
    )
    made.set_up(who="alice")
    made.hosts[0].start("told-db", volume=f"{ENVIRONMENT}.db")
    made.book(
        "rotate",
        who="root-of-the-job",
        hostseal_rotate=[f"{ENVIRONMENT}/made"],
        awx_job_id=417,
        awx_user_name="bob",
    ).ok()
    yield made
    made.hosts[0].remove("told-db")


def _records(life: Life, **filters: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = life.task("audit_info", **filters)["records"]
    return found


def _lines(host: AgentHost, *events: str) -> list[dict[str, Any]]:
    return [line for line in host.audit() if line["event"] in events and line.get("volume", "").startswith(ENVIRONMENT)]


def _short(record: dict[str, Any]) -> tuple[Any, ...]:
    secrets = [(secret["name"], secret["version"]) for secret in record["secrets"]]
    return record["user"], record["job"], record["action"], record["host"], record["mount"], secrets, record["result"]


def test_each_change_is_there_with_who_what_and_version(life: Life) -> None:
    records = _records(life)
    names = [host.host.name for host in life.hosts]
    first, then = [("made", 1), ("given", 1)], [("made", 2), ("given", 1)]
    alice, bob = ("alice", None), ("bob", "417")
    expected = [
        (*alice, "environment.declared", None, None, [], "ok"),
        *((*alice, "host.enrolled", name, None, [], "ok") for name in names),
        *((*alice, "secret.created", None, None, [(name, 1)], "ok") for name in ("made", "given")),
        *(
            (*alice, f"mount.{what}", name, *mount, "ok")
            for what in ("sealed", "delivered")
            for name in names
            for mount in (("db", first), ("web", [("given", 1)]))
        ),
        (*bob, "secret.rotated", None, None, [("made", 2)], "ok"),
        *((*bob, f"mount.{what}", name, "db", then, "ok") for what in ("sealed", "delivered") for name in names),
    ]
    # Hosts work at the same time, so their order is theirs.
    assert sorted(map(str, map(_short, records))) == sorted(map(str, expected))
    assert [record["number"] for record in records] == list(range(1, len(records) + 1))
    assert all(record["at"].startswith("20") and record["at"].endswith("Z") for record in records)
    assert {record["environment"] for record in records} == {ENVIRONMENT}


def test_both_logs_join_by_the_delivery(life: Life) -> None:
    sealed = {record["delivery"]: record for record in _records(life, action="mount.sealed")}
    delivered = {record["delivery"]: record for record in _records(life, action="mount.delivered")}
    assert set(delivered) == set(sealed)
    for host in life.hosts:
        name = host.host.name
        here = {line["delivery"]: line["secrets"] for line in _lines(host, "deliver")}
        assert here == {key: record["secrets"] for key, record in delivered.items() if record["host"] == name}
        assert len(here) == 3
    [shown] = _lines(life.hosts[0], "mount")
    assert delivered[shown["delivery"]]["secrets"] == [{"name": "made", "version": 1}, {"name": "given", "version": 1}]
    assert delivered[shown["delivery"]]["user"] == "alice"


def test_filters(life: Life) -> None:
    host = life.hosts[0].host.name
    records = _records(life)
    delivery = next(record["delivery"] for record in records if record["action"] == "mount.delivered")
    cases: list[tuple[dict[str, Any], Any]] = [
        ({"user": "bob"}, lambda record: record["user"] == "bob"),
        ({"job": "417"}, lambda record: record["job"] == "417"),
        ({"user": "alice", "job": "417"}, lambda _record: False),
        ({"host": host}, lambda record: record["host"] == host),
        ({"mount": "web"}, lambda record: record["mount"] == "web"),
        ({"secret": "made"}, lambda record: "made" in [secret["name"] for secret in record["secrets"]]),
        ({"action": "secret"}, lambda record: record["action"].startswith("secret.")),
        ({"action": "mount.delivered"}, lambda record: record["action"] == "mount.delivered"),
        ({"delivery": delivery}, lambda record: record["delivery"] == delivery),
        ({"environment": "other"}, lambda _record: False),
        ({"since": "1h"}, lambda _record: True),
        ({"since": "0s"}, lambda _record: False),
        ({"newest": 3}, lambda record: record["number"] > len(records) - 3),
        ({"newest": 0}, lambda _record: False),
    ]
    tasks = [
        {"name": str(number), "hostseal.secrets.audit_info": filters, "run_once": True}
        for number, (filters, _wanted) in enumerate(cases)
    ]
    results = life.tasks(*tasks).results
    for number, (filters, wanted) in enumerate(cases):
        assert results[str(number)]["records"] == [record for record in records if wanted(record)], filters


def test_check_mode_unchanged_and_failed_runs_write_nothing(life: Life) -> None:
    count = "SELECT count(*) FROM audit"
    before = life.sql(count)
    life.task("secret", "--check", name="made", generate={}, state="rotated")
    life.book("rotate", "--check", hostseal_rotate=[f"{ENVIRONMENT}/made"])
    life.task("secret", check=False, secrets=[{"name": "new", "value": "x"}, {"name": "made", "version": 99}])
    life.deliver().ok()
    assert life.sql(count) == before


def test_a_refused_delivery_is_told_on_both_sides(life: Life) -> None:
    first = life.hosts[0]
    life.declare(
        hostseal_secrets=[
            {**secret, "value": MARKERS.text("refused")} if secret["name"] == "given" else secret
            for secret in life.variables["hostseal_secrets"]
        ]
    )
    first.host.sh(f"cat /dev/zero > {_FILL} || true")
    try:
        run = life.deliver()
    finally:
        first.host.run(["rm", _FILL])
    assert "No space left" in run.failed(DELIVER)
    record = _records(life, action="mount.refused")[-1]
    refused = _short(record)
    name = first.host.name
    assert refused[2:6] == ("mount.refused", name, "db", [("made", 2), ("given", 2)])
    lines = eventually(lambda: [line for line in _lines(first, "refusal") if line["what"] == "deliver"])
    assert {line["reason"] for line in lines if line["delivery"] == record["delivery"]} == {refused[-1]}
    # An envelope that somebody edited is replaced: told, too.
    life.sql(f"UPDATE envelope SET text = substr(text, 2) WHERE host = '{name}' AND mount = 'db'")
    actions = life.deliver().ok().mounts(DELIVER)
    assert actions[name] == {f"{ENVIRONMENT}.db": "delivered", f"{ENVIRONMENT}.web": "unchanged"}
    told = [_short(record)[2] for record in _records(life, host=name, mount="db")]
    # What the host answered is recorded when it is known how it ended.
    assert told[-3:] == ["mount.sealed", "mount.refused", "mount.delivered"]


def test_a_delivery_that_the_store_did_not_hear_of_is_told_by_the_next_run(life: Life) -> None:
    """The control node died after the host had taken it."""
    records = _records(life)
    name = life.hosts[1].host.name
    life.sql(f"DELETE FROM receipt WHERE host = '{name}' AND mount = 'web'")
    assert set(life.deliver().ok().changed.values()) == {0}
    [new] = _records(life)[len(records) :]
    assert _short(new)[2:] == ("mount.delivered", name, "web", [("given", 2)], "ok")
    assert new["delivery"] in {line["delivery"] for line in _lines(life.hosts[1], "deliver")}


def test_no_value_is_in_any_log(life: Life) -> None:
    keys = json.loads((life.keys / f"{ENVIRONMENT}.jwks").read_text(encoding="utf-8"))["keys"]
    markers = MARKERS | Markers(
        {f"key {number}": str(key.get("d") or key["k"]).encode() for number, key in enumerate(keys)}
    )
    told = json.dumps([[str(column) for column in row] for row in life.sql("SELECT * FROM audit")])
    assert told.count("mount.delivered") > 3
    assert markers.search_text(told, "the audit log") == []
    for host in life.hosts:
        text = host.host.out("cat", "/var/log/hostseal/audit.jsonl")
        assert markers.search_text(text, "the host's log") == []


@pytest.mark.parametrize(
    ("statement", "broken"),
    [
        ("UPDATE audit SET user = 'mallory' WHERE number = 3", 3),
        ("DELETE FROM audit WHERE number = 4", 4),
        ("UPDATE audit SET result = 'ok' WHERE number = 5", None),
        ("DELETE FROM audit WHERE number = (SELECT max(number) FROM audit)", "cut"),
    ],
    ids=["changed", "removed", "the same", "cut off"],
)
def test_an_edited_log_is_found(life: Life, tmp_path: Path, statement: str, broken: Any) -> None:
    copy = tmp_path / "store.db"
    shutil.copy(life.store, copy)
    head = life.sql("SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1")[0]
    with sqlite3.connect(copy) as connection:
        with pytest.raises(sqlite3.Error, match="append-only"):
            connection.execute(statement)
        connection.execute("DROP TRIGGER audit_no_update")
        connection.execute("DROP TRIGGER audit_no_delete")
        connection.execute(statement)
    connection.close()
    found = life.task("audit_info", store=str(copy), newest=1, expected_head=head[1])
    wanted = head[0] if broken == "cut" else broken
    assert (found["intact"], found["broken_at"]) == (broken is None, wanted)
    if broken == "cut":  # what follows from itself is only found with a hash that was kept elsewhere
        assert life.task("audit_info", store=str(copy))["intact"]
