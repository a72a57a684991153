# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings

# No deadline: the machine may be busy. Derandomized: a run says the same as the one before.
settings.register_profile(
    "hostseal", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("hostseal")


@pytest.fixture(autouse=True)
def _no_implicit_places(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test may find, or make, the store and keys of whoever runs it."""
    home = tmp_path_factory.mktemp("home")
    for name in ("HOSTSEAL_STORE", "HOSTSEAL_KEY_PATH", "ENC_KEY_PATH", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
