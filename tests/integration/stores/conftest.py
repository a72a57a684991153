# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real database servers as fixtures, and the unit tests' fixtures with a store in them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.stores.places import ServerPlace
from tests.rig.databases import ENGINES, MariaDB, PostgreSQL, running
from tests.unit.conftest import _no_implicit_places, empty_home, prod  # noqa: F401  # pylint: disable=unused-import

_MORE = {"test_declaring.py", "test_migrating.py", "test_revoking.py"}


@pytest.fixture(scope="session", params=list(ENGINES))
def server(request: pytest.FixtureRequest) -> Iterator[MariaDB | PostgreSQL]:
    """A server for the whole session. Who ends it starts it again."""
    with running(request.param) as started:
        yield started


@pytest.fixture
def place(server: MariaDB | PostgreSQL, tmp_path: Path) -> ServerPlace:
    """An empty database; nothing is declared yet."""
    return ServerPlace(tmp_path / "store" / "store.db", tmp_path / "keys", server, server.new_database())


def pytest_collection_modifyitems(items: list[pytest.Item], config: pytest.Config) -> None:
    """Of the unit tests that are repeated here, those without a store say nothing new.

    Those that go through the store's own functions are repeated with STORES=all; else the store's own are.
    """
    here = Path(__file__).parent
    more = set() if os.environ.get("STORES") == "all" else _MORE
    others = [
        item
        for item in items
        if item.path.parent == here and (item.path.name in more or "server" not in getattr(item, "fixturenames", ()))
    ]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item not in others]
