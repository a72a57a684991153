# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.folder.places import FolderPlace

# About what a store in a folder has not: tables that somebody else may have made, and older versions of them.
_OF_DATABASES = (
    "test_database_that_is_no_store",
    "test_store_of_the_first_schema",
    "test_upgrade",
    "test_what_changes_the_digest[_rebuild_store",
    "test_versions_with_one_id",
)
# What goes through the store's own functions.
_THOROUGH = {"test_declaring.py", "test_migrating.py", "test_revoking.py", "test_sealing.py"}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderPlace:
    """A store in a folder, keys in another; nothing is declared yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return FolderPlace(tmp_path / "store" / "store.db", tmp_path / "keys", tmp_path / "folder")


def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    """Of the unit tests that are repeated here, those without a store say nothing new."""
    here = Path(__file__).parent
    for item in items:
        if item.path.parent == here and item.path.name in _THOROUGH:
            item.add_marker(pytest.mark.thorough)
    others = [
        item
        for item in items
        if item.path.parent == here
        and ("place" not in getattr(item, "fixturenames", ()) or item.name.startswith(_OF_DATABASES))
    ]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]
