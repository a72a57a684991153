# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.builders import Place


@pytest.fixture(scope="session")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home that has to be as empty at the end as it was at the beginning."""
    home = tmp_path_factory.mktemp("home")
    yield home
    assert list(home.iterdir()) == []


@pytest.fixture(autouse=True)
def _no_implicit_places(monkeypatch: pytest.MonkeyPatch, empty_home: Path) -> None:
    """No test may find, or make, the store and keys of whoever runs it."""
    for name in (
        "HOSTSEAL_STORE",
        "HOSTSEAL_KEY_PATH",
        "ENC_KEY_PATH",
        "XDG_DATA_HOME",
        "XDG_CONFIG_HOME",
        "XDG_STATE_HOME",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(empty_home))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A store and keys in directories of the test's own; nothing is declared yet."""
    return Place(tmp_path / "store" / "store.db", tmp_path / "keys")


@pytest.fixture
def prod(place: Place) -> Place:
    """The same, with the environment prod declared."""
    place.declare_environment("prod")
    return place
