# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real OpenBao servers as fixtures."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.rig.openbao import OpenBao, clean_leftovers

BaoFactory = Callable[..., OpenBao]
_mounts = itertools.count(1)


@pytest.fixture(scope="session")
def bao() -> Iterator[OpenBao]:
    """One server for the whole session. Not for tests that seal, pause or kill it: `fresh_bao`."""
    clean_leftovers()
    with OpenBao() as server:
        yield server


@pytest.fixture
def mount() -> str:
    """A mount point that no other test of the session has; nothing is mounted there yet."""
    return f"t-{next(_mounts)}"


@pytest.fixture
def fresh_bao() -> Iterator[BaoFactory]:
    """A factory of servers that the test has for itself; `fresh_bao(standby_of=server)` adds a second node."""
    started: list[OpenBao] = []

    def make(standby_of: OpenBao | None = None) -> OpenBao:
        made = OpenBao.standby_of(standby_of) if standby_of else OpenBao()
        started.append(made)
        return made.start()

    try:
        yield make
    finally:
        # A standby first: without its leader it would take its time.
        for made in reversed(started):
            made.remove()
