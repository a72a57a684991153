# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What of a store in a folder stays on the machine."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _schema, _tree
from ansible_collections.hostseal.secrets.plugins.plugin_utils._records import Publication
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store

from tests.unit.folder.places import FolderPlace
from tests.unit.git.repositories import commit, new_receipt, version_numbers


def test_host_that_was_retired_elsewhere_is_not_waited_for(repository: FolderPlace) -> None:
    place = repository
    for host in ("db1", "db2"):
        place.enrol(host)
    commit(place)
    with place.store() as store, store.transaction() as transaction:
        for host in ("db1", "db2"):
            transaction.put_receipts([new_receipt(host=host)])
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
        transaction.put_receipts([new_receipt()])
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
            transaction.put_receipts([new_receipt(host=host)])
            found = [receipt.host for receipt in transaction.receipts("prod")]
    assert found == ["db1", "db2"]
    assert not (tmp_path / "state" / "hostseal" / "one.db").exists()


def test_who_only_reads_needs_no_state(repository: FolderPlace, tmp_path: Path) -> None:
    place = repository
    shutil.rmtree(tmp_path / "state")
    assert version_numbers(place, read_only=True) == {"password": [1, 2, 3]}
    assert not (tmp_path / "state").exists()


def test_summary(repository: FolderPlace) -> None:
    for read_only in (False, True):
        with repository.store(read_only=read_only) as store, store.transaction() as transaction:
            found = transaction.summary()
        assert (found.engine, found.schema_version) == ("file", _schema.SCHEMA)
        assert found.rows["secret_version"] == 3
        folder = repository.folder / "environments"
        assert found.bytes == sum(path.stat().st_size for path in folder.rglob("*.json"))
