# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Throwaway hosts as fixtures. A session removes what it starts at its end, and at its start what a killed one left."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator

import pytest

from tests.rig import engine as rig_engine
from tests.rig.engine import Engine
from tests.rig.host import ThrowawayHost, clean_leftovers

HostFactory = Callable[..., ThrowawayHost]
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The outer engine: the machine's own, else one that the rig starts (and leaves for the next run)."""
    found = rig_engine.ensure()
    clean_leftovers(found)
    return found


@pytest.fixture(scope="session")
def host(engine: Engine) -> Iterator[ThrowawayHost]:
    """One booted host for the whole session, with busybox, busybox-secrets and mariadb in its engine."""
    shared = ThrowawayHost(engine, f"t{os.getpid()}-shared")
    try:
        yield shared.start(load=("busybox", "busybox-secrets", "mariadb"))
    finally:
        shared.remove()


@pytest.fixture
def fresh_host(engine: Engine) -> Iterator[HostFactory]:
    """A factory of booted hosts that the test has for itself: `fresh_host(release="bookworm", load=("busybox",))`."""
    started: list[ThrowawayHost] = []

    def make(release: str = "bookworm", load: tuple[str, ...] = ("busybox",)) -> ThrowawayHost:
        made = ThrowawayHost(engine, f"t{os.getpid()}-{next(_numbers)}", release)
        started.append(made)
        return made.start(load=load)

    try:
        yield make
    finally:
        for made in started:
            made.remove()
