# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A store in a folder, and in a repository of Git."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.builders import version
from tests.unit.folder.places import FolderPlace
from tests.unit.git.repositories import add_versions, commit, git


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FolderPlace:
    """A store in a folder; nothing is declared yet."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return FolderPlace(tmp_path / "store.db", tmp_path / "keys", tmp_path / "folder")


@pytest.fixture
def repository(prod: FolderPlace) -> FolderPlace:
    git(prod, "init", "-q", "-b", "main")
    add_versions(prod, *(version(number) for number in (1, 2, 3)))
    commit(prod)
    return prod
