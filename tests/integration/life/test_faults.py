# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The fault harness in short; `make faults` is the whole of it. And it finds agents that are broken on purpose."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.faults.__main__ import one, table
from tests.faults.faults import FAULTS
from tests.faults.mutants import MUTANTS
from tests.faults.station import Station
from tests.rig.engine import Engine
from tests.rig.host import ThrowawayHost

SEED = 4
SHORT = [name for name in FAULTS if name in ("first-mount", "deliver-live", "remove-live", "full-tmpfs")]


@pytest.fixture(scope="module")
def station(engine: Engine) -> Iterator[Station]:
    host = ThrowawayHost(engine, f"t{os.getpid()}-faults")
    try:
        yield Station(host.start()).install()
    finally:
        host.remove()


def test_no_promise_is_broken(station: Station) -> None:
    results = [one(station, name, SEED, short=True) for name in SHORT]
    print(table(results))
    assert [text for result in results for text in result["violations"]] == []
    assert all(result["runs"] for result in results)


# Each of these many kills would have to miss for it to pass: the places that are broken are most of the operation.
@pytest.mark.parametrize(
    ("mutant", "fault", "most"), [("publish-early", "deliver-live", 2), ("no-mending", "first-mount", 4)]
)
def test_a_broken_agent_is_found(station: Station, mutant: str, fault: str, most: int) -> None:
    station.replace_agent(MUTANTS[mutant])
    violations = station.run(fault, SEED, print, most=most)["violations"]
    print("\n".join(violations))
    assert violations
    assert not [text for text in violations if "could not go on" in text]
