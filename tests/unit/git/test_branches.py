# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Branches of a store in a folder, and what Git makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _verifying

from tests.unit.builders import version
from tests.unit.folder.places import FolderPlace
from tests.unit.git.repositories import PASSWORD, add_versions, check_refused, commit, git, new_receipt, version_numbers


def _on_branches(place: FolderPlace, *works: Callable[[], object]) -> None:
    """Each work on a branch of its own, b0, b1, …; the last one stays checked out."""
    for number, work in enumerate(works):
        git(place, "switch", "-q", "-c", f"b{number}", "main")
        work()
        commit(place)


def test_branches_with_different_secrets_merge(repository: FolderPlace) -> None:
    place = repository
    _on_branches(
        place,
        lambda: (add_versions(place, version(1, "a")), place.enrol("db1")),
        lambda: (add_versions(place, version(1, "b")), place.enrol("db2"), place.declare_environment("staging")),
        lambda: add_versions(place, version(4)),
    )
    for branch in ("b0", "b1"):
        git(place, "merge", "-q", "--no-edit", branch)
    assert git(place, "status", "--porcelain") == ""
    assert version_numbers(place) == {"a": [1], "b": [1], "password": [1, 2, 3, 4]}
    with place.store() as store, store.transaction() as transaction:
        assert set(transaction.hosts("prod")) == {"db1", "db2"}
        assert [environment.name for environment in transaction.environments()] == ["prod", "staging"]
        assert list(_verifying.problems(transaction)) == []
    assert git(place, "status", "--porcelain") == ""


def _prune(place: FolderPlace) -> None:
    with place.store() as store, store.transaction() as transaction:
        transaction.prune_versions(transaction.versions("prod", ["password"])[:1])


def _roll_back(place: FolderPlace) -> None:
    with place.store() as store, store.transaction() as transaction:
        transaction.make_current("prod", "password", 2)


def _delete(place: FolderPlace) -> None:
    with place.store() as store, store.transaction() as transaction:
        transaction.remove_versions("prod", ["password"])


@pytest.mark.parametrize("other", [lambda place: add_versions(place, version(4)), _prune, _roll_back, _delete])
def test_branches_with_the_same_secret_conflict(repository: FolderPlace, other: Callable[[FolderPlace], None]) -> None:
    place = repository
    _on_branches(place, lambda: other(place), lambda: add_versions(place, version(4)))
    git(place, "merge", "-q", "b0", fails=True)
    assert git(place, "status", "--porcelain") == f"UU {PASSWORD}\n"
    check_refused(place, rf"{PASSWORD} has the marks of a conflict in Git: take the file of one")
    git(place, "checkout", "--ours", PASSWORD)
    commit(place)
    assert version_numbers(place) == {"password": [1, 2, 3, 4]}


def test_what_git_is_told_to_join_all_the_same_is_refused(repository: FolderPlace) -> None:
    place = repository

    def prune() -> None:
        with place.store() as store, store.transaction() as transaction:
            transaction.prune_versions(transaction.versions("prod", ["password"])[1:2])

    _on_branches(place, prune, lambda: add_versions(place, version(4)))
    git(place, "merge", "-q", "--no-edit", "-X", "ours", "b0")
    with (
        pytest.raises(HostsealError, match="was edited by hand, or put together from two"),
        place.store() as store,
        store.transaction(),
    ):
        pass


def test_environments_that_both_branches_change_conflict(repository: FolderPlace) -> None:
    place = repository

    def change(kid: str) -> None:
        with place.store() as store, store.transaction() as transaction:
            transaction.put_environment(replace(transaction.environment("prod"), signing_kid=kid))

    _on_branches(place, lambda: change("one"), lambda: change("two"))
    git(place, "merge", "-q", "b0", fails=True)
    with (
        pytest.raises(HostsealError, match=r"environments/prod/environment\.json has the marks of a conflict"),
        place.store() as store,
        store.transaction(),
    ):
        pass


def test_nothing_of_this_machine_is_in_the_folder(repository: FolderPlace) -> None:
    place = repository
    place.enrol("db1")
    commit(place)
    with place.store() as store, store.transaction() as transaction:
        transaction.confirm_key_set("prod", "db1", 7)
        transaction.put_receipts([new_receipt()])
        transaction.issue_times("prod", [("db1", "db")], [0])
    assert git(place, "status", "--porcelain", "--ignored") == ""
    git(place, "clean", "-qxdf")
    with place.store() as store, store.transaction() as transaction:
        assert transaction.receipts("prod") == [new_receipt()]
        assert transaction.hosts("prod")["db1"].pinned_at == 7
