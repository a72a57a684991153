# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Publishing: what lies in the directory, when it is written, in which order, and what the store knows of it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils import _envelope as envelope
from ansible_collections.hostseal.secrets.plugins.module_utils import _manifest as manifest
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _publishing, _site
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends import Backend, localkey
from ansible_collections.hostseal.secrets.plugins.plugin_utils._collecting import collect
from ansible_collections.hostseal.secrets.plugins.plugin_utils._publishing import Change

from tests.unit.builders import Place
from tests.unit.test_sealing import CountingBackend, mount, seal

WEEK = 7 * 86400


@pytest.fixture
def web(prod: Place, tmp_path: Path) -> Path:
    """The directory that is served; db1 and db2 have a mount each, sealed."""
    prod.declare({"name": "password", "value": "hunter2"})
    for host in ("db1", "db2"):
        prod.enrol(host)
    seal(prod, ("db1", mount()), ("db2", mount()))
    folder = tmp_path / "web"
    folder.mkdir()
    return folder


def publish(
    place: Place, web: Path, *hosts: str, life: int = WEEK, calls: list[tuple[str, int]] | None = None
) -> list[Change]:
    def open_backend(environment: Any) -> Backend:
        return CountingBackend(localkey.LocalKey(place.keys, environment.key_name), [] if calls is None else calls)

    with place.store() as store:
        return _publishing.publish(store, open_backend, "prod", hosts, _site.Site(str(web), False), life)


def read(place: Place, web: Path, host: str = "db1") -> manifest.Manifest:
    """What the host does with its manifest: verified, and all that it names is there, each under its own digest."""
    signed, key_set = manifest.split_manifest((web / host / "prod/manifest").read_text())
    keys = place.backend().verification_keys()
    assert envelope.read_key_set(key_set, keys).environment == "prod"
    found = manifest.read_manifest(signed, "prod", host, keys)
    for name, listed in found.mounts.items():
        text = (web / host / "prod" / listed.sha256).read_text()
        assert manifest.envelope_name(text) == listed.sha256
        statement = envelope.read_statement(text, keys)
        assert (statement.mount, statement.host, statement.issued_at) == (name, host, listed.issued_at)
    return found


def tree(web: Path) -> dict[str, tuple[int, int]]:
    """Every file with its inode and time of change."""
    return {
        str(path.relative_to(web)): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in web.rglob("*")
        if path.is_file()
    }


def test_what_is_published_is_what_hosts_can_verify(prod: Place, web: Path) -> None:
    calls: list[tuple[str, int]] = []
    assert publish(prod, web, "db1", "db2", calls=calls) == [
        Change("prod", "db1", ["db"], []),
        Change("prod", "db2", ["db"], []),
    ]
    assert calls == [("open", 1), ("sign", 2)]
    found = read(prod, web)
    assert set(found.mounts) == {"db"}
    assert found.expires_at - found.issued_at <= WEEK * 1000
    assert len(tree(web)) == 4
    assert {oct(path.stat().st_mode & 0o777) for path in web.rglob("*")} == {"0o755", "0o644"}


def test_again_touches_nothing_and_asks_no_backend(prod: Place, web: Path) -> None:
    publish(prod, web, "db1", "db2")
    before, calls = tree(web), []
    assert publish(prod, web, "db1", "db2", calls=calls) == []
    # Nor when no host is named: they were published before.
    assert publish(prod, web, calls=calls) == []
    assert (tree(web), calls) == (before, [])


def test_hosts_that_were_never_named_are_not_published(prod: Place, web: Path) -> None:
    assert [change.host for change in publish(prod, web, "db1")] == ["db1"]
    assert [path.name for path in web.iterdir()] == ["db1"]


def test_new_version_and_removal(prod: Place, web: Path) -> None:
    seal(prod, ("db1", mount(name="web")))
    publish(prod, web, "db1", "db2")
    first = read(prod, web)
    prod.declare({"name": "password", "value": "new", "on_difference": "rotate"})
    seal(prod, ("db1", mount()))
    assert publish(prod, web) == [Change("prod", "db1", ["db"], [])]
    second = read(prod, web)
    assert second.issued_at > first.issued_at
    assert second.mounts["db"].issued_at > first.mounts["db"].issued_at
    assert second.mounts["web"] == first.mounts["web"]
    # A host that has the first manifest still finds all that it names.
    assert (web / "db1/prod" / first.mounts["db"].sha256).exists()
    with prod.store() as store, store.transaction() as transaction:
        transaction.withdraw_envelopes("prod", [("db1", "db")])
    assert publish(prod, web) == [Change("prod", "db1", [], ["db"])]
    assert set(read(prod, web).mounts) == {"web"}
    assert not (web / "db1/prod" / first.mounts["db"].sha256).exists()
    with prod.store() as store, store.transaction() as transaction:
        told = [(record.action, record.host, record.mount) for record in transaction.audit()][-2:]
    assert told == [("mount.published", "db1", "db"), ("mount.withdrawn", "db1", "db")]


def test_retired_host_is_told_to_wipe_everything_once(prod: Place, web: Path) -> None:
    publish(prod, web, "db1", "db2")
    with prod.store() as store, store.transaction() as transaction:
        transaction.remove_host("prod", "db1")
    assert publish(prod, web) == [Change("prod", "db1", [], ["db"])]
    empty = read(prod, web)
    assert empty.mounts == {}
    assert publish(prod, web) == []
    # Enrolled again, its manifests go on growing.
    prod.enrol("db1")
    seal(prod, ("db1", mount()))
    assert publish(prod, web) == [Change("prod", "db1", ["db"], [])]
    assert read(prod, web).issued_at > empty.issued_at


def test_manifest_is_renewed_at_half_of_its_life(prod: Place, web: Path) -> None:
    publish(prod, web, "db1", life=WEEK)
    first = read(prod, web)
    assert publish(prod, web, life=WEEK + 3600) == []
    assert publish(prod, web, life=3 * WEEK) == [Change("prod", "db1", [], [])]
    second = read(prod, web)
    assert second.mounts == first.mounts
    assert second.issued_at > first.issued_at


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder, _names: (folder / "manifest").unlink(),
        lambda folder, _names: (folder / "manifest").write_text("old"),
        lambda folder, names: (folder / names[0]).unlink(),
    ],
)
def test_what_is_missing_in_the_directory_is_mended(
    prod: Place, web: Path, spoil: Callable[[Path, list[str]], None]
) -> None:
    publish(prod, web, "db1", "db2")
    spoil(web / "db1/prod", [one.sha256 for one in read(prod, web).mounts.values()])
    assert publish(prod, web) == [Change("prod", "db1", [], [])]
    assert set(read(prod, web).mounts) == {"db"}


def test_manifest_never_comes_before_its_envelopes(prod: Place, web: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each step that changes a file, whoever reads finds a manifest that holds; also when it ends there."""
    seal(prod, ("db1", mount(name="web")))
    publish(prod, web, "db1")
    seen = []
    real = _site._replace

    def replace(path: Path, data: bytes) -> None:
        seen.append(path.name)
        read(prod, web)
        if len(seen) == 2:
            raise KeyboardInterrupt
        real(path, data)
        read(prod, web)

    monkeypatch.setattr(_site, "_replace", replace)
    prod.declare({"name": "password", "value": "new", "on_difference": "rotate"})
    seal(prod, ("db1", mount()), ("db1", mount(name="web")))
    with pytest.raises(KeyboardInterrupt):
        publish(prod, web)
    publish(prod, web)
    assert seen.pop() == "manifest"
    assert set(read(prod, web).mounts) == {"db", "web"}
    assert publish(prod, web) == []


def test_manifest_of_an_edited_store_is_made_anew(prod: Place, web: Path) -> None:
    publish(prod, web, "db1", "db2")
    other = prod.sql("SELECT text FROM publication WHERE host = 'db2'")[0][0]
    prod.edit("UPDATE publication SET text = ? WHERE host = 'db1'", other)
    (web / "db1/prod/manifest").write_text(other)
    assert publish(prod, web) == [Change("prod", "db1", [], [])]
    assert read(prod, web).host == "db1"


def test_other_keys_are_published(prod: Place, web: Path) -> None:
    publish(prod, web, "db1")
    localkey.create(prod.keys, "other")
    with prod.store() as store, store.transaction() as transaction:
        before = transaction.environment("prod")
        from ansible_collections.hostseal.secrets.plugins.plugin_utils import _migrating

        after = _migrating.replace(before, key_name="other")
        _migrating.migrate(transaction, before, prod.backend(), after, prod.backend("other"), lambda _done, _all: None)
    assert publish(prod, web) == [Change("prod", "db1", [], [])]
    signed, key_set = manifest.split_manifest((web / "db1/prod/manifest").read_text())
    keys = envelope.read_key_set(key_set, prod.backend().verification_keys()).keys
    assert len(keys) == 2
    assert manifest.read_manifest(signed, "prod", "db1", keys[:1]).mounts


def test_bad_places_and_hosts(prod: Place, web: Path, tmp_path: Path) -> None:
    with pytest.raises(HostsealError, match="publish_to .*/nowhere is not a directory on the control node: make the"):
        publish(prod, tmp_path / "nowhere", "db1")
    with pytest.raises(HostsealError, match="host 'db9' is not enrolled in environment 'prod'"):
        publish(prod, web, "db9")
    assert list(web.iterdir()) == []
    (web / "db1").write_text("in the way")
    with pytest.raises(HostsealError, match=r"publish_to .*/db1/prod.* can't be written: Not a directory"):
        publish(prod, web, "db1")


def test_prediction_is_what_happens(prod: Place, web: Path) -> None:
    def predict(sealed: dict[str, list[str]], gone: list[tuple[str, str]], *hosts: str) -> list[Change]:
        with prod.store() as store:
            return _publishing.predict(store, "prod", hosts, _site.Site(str(web), True), WEEK, sealed, gone)

    assert predict({}, [], "db1") == [Change("prod", "db1", ["db"], [])]
    assert list(web.iterdir()) == []
    publish(prod, web, "db1")
    assert predict({}, [], "db1") == []
    assert predict({"db1": ["db", "web"]}, []) == [Change("prod", "db1", ["db", "web"], [])]
    assert predict({}, [("db1", "db")]) == [Change("prod", "db1", [], ["db"])]


# What the store knows


def answer(place: Place, **changes: Any) -> dict[str, Any]:
    """What agent_info says of db1 when it has fetched its mount."""
    row = place.sql("SELECT mounts FROM publication WHERE host = 'db1'")[0][0]
    published = json.loads(row)["db"]
    held = {
        "environment": "prod",
        "mount": "db",
        "valid": True,
        "issued_at": published["issued_at"],
        "state_digest": published["state_digest"],
        "expires_at": None,
        "delivered_at": int(time.time() * 1000),
    }
    return {"environments": {"prod": {"issued_at": 4711}}, "mounts": [{**held, **changes}]}


def receipts(place: Place) -> list[tuple[Any, ...]]:
    return place.sql("SELECT host, mount, secrets FROM receipt")


def test_what_a_host_has_fetched_becomes_a_receipt(prod: Place, web: Path) -> None:
    publish(prod, web, "db1")
    with prod.store() as store:
        for other in ({"valid": False}, {"issued_at": 1}, {"state_digest": "0" * 64}, {"mount": "web"}):
            assert collect(store, "db1", answer(prod, **other)) == []
        assert collect(store, "db2", answer(prod)) == []
        assert receipts(prod) == []
        assert collect(store, "db1", answer(prod)) == ["prod.db"]
        assert collect(store, "db1", answer(prod)) == []
    assert [(host, name, json.loads(secrets)) for host, name, secrets in receipts(prod)] == [
        ("db1", "db", [{"name": "password", "version": 1}])
    ]
    kid = prod.backend().verification_keys()[0].thumbprint()
    assert prod.sql("SELECT signing_kid FROM receipt") == [(kid,)]
    assert prod.sql("SELECT pinned_at FROM host WHERE name = 'db1'") == [(4711,)]


def test_what_a_host_has_wiped_is_delivered_no_more(prod: Place, web: Path) -> None:
    publish(prod, web, "db1")
    with prod.store() as store:
        held = answer(prod)
        collect(store, "db1", held)
        # A mount that the host has lost is not one that was taken away.
        assert collect(store, "db1", {**held, "mounts": []}) == []
        with store.transaction() as transaction:
            transaction.withdraw_envelopes("prod", [("db1", "db")])
        publish(prod, web)
        assert collect(store, "db1", held) == []
        assert len(receipts(prod)) == 1
        assert collect(store, "db1", {**held, "mounts": []}) == ["prod.db"]
    assert receipts(prod) == []


def test_store_of_the_second_schema_is_upgraded(prod: Place, web: Path) -> None:
    prod.sql("DROP TABLE publication")
    prod.sql("UPDATE hostseal_store SET schema_version = 2")
    assert publish(prod, web, "db1") == [Change("prod", "db1", ["db"], [])]


def test_others_cannot_read_more_than_ciphertext(prod: Place, web: Path) -> None:
    publish(prod, web, "db1", "db2")
    everything = b"".join(Path(folder, name).read_bytes() for folder, _folders, names in os.walk(web) for name in names)
    assert b"hunter2" not in everything
