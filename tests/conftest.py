# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No deadline: the machine may be busy. Derandomized: a run says the same as the one before.
settings.register_profile(
    "hostseal", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("hostseal")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a mebibyte."""
    where = tmp_path / "disk"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "hostseal-test", where], check=True, timeout=30)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True, timeout=30)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Long values, some of them random, make no good names of tests; workers in parallel must agree on the names."""
    return argname if isinstance(val, (str, bytes)) and len(val) > 40 else None
