# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agent.harness import AGENT, Environment, RunningAgent

# The tests import the agent's rooms as hosts do.
sys.path.insert(0, str(AGENT))


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[RunningAgent]:
    """An agent that is not started, on a tmpfs that is mounted."""
    agent = RunningAgent(tmp_path / "r")
    try:
        agent.mount_tmpfs()
        yield agent
    finally:
        agent.close()


@pytest.fixture
def agent(bare: RunningAgent) -> RunningAgent:
    """A running agent that has pinned environment prod."""
    return bare.start()


@pytest.fixture
def prod(agent: RunningAgent) -> Environment:
    """The environment that the agent has pinned."""
    environment = Environment("prod", host_key=agent.host_key)
    status, answer = agent.pin(environment)
    assert status == 200, answer
    return environment
