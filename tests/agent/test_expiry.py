# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Mounts that expire while containers use them, in a real agent process."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.agent.harness import Environment, RunningAgent

SECONDS = 2
WIPE = {"expires_after": SECONDS, "on_expiry": "wipe"}


def until(condition: Callable[[], Any], seconds: float = 5.0) -> float:
    """Wait until CONDITION is true; the seconds that took."""
    begin = time.monotonic()
    while not condition():
        assert time.monotonic() - begin < seconds
        time.sleep(0.01)
    return time.monotonic() - begin


def timers(agent: RunningAgent) -> list[str]:
    """What the kernel says of the agent's timers, see proc_pid_fdinfo(5)."""
    assert agent.process is not None
    process = Path(f"/proc/{agent.process.pid}")
    found = []
    for file in (process / "fd").iterdir():
        with suppress(FileNotFoundError):  # a connection that was closed since
            if "timerfd" in str(file.readlink()):
                found.append((process / "fdinfo" / file.name).read_text())
    return found


def wipes(agent: RunningAgent) -> list[dict[str, Any]]:
    return [line for line in agent.audit() if line.get("why") == "its envelope expired"]


def test_files_of_running_containers_go(agent: RunningAgent, prod: Environment) -> None:
    now = int(time.time() * 1000)
    agent.deliver(prod.envelope(issued_at=now, options=WIPE))
    agent.deliver(prod.envelope("kept", issued_at=now, options={"expires_after": SECONDS}), "prod.kept")
    folder = agent.mount()
    kept = agent.mount("prod.kept")
    inode = folder.stat().st_ino
    assert (folder / "db_password").read_bytes() == b"s3cret"
    until(lambda: not (folder / "db_password").exists())
    late = time.time() - (now / 1000 + SECONDS)
    assert 0 <= late < 1
    assert list(folder.iterdir()) == []
    assert (kept / "db_password").exists()
    assert [(line["volume"], line["expires_at"]) for line in wipes(agent)] == [("prod.db", now + SECONDS * 1000)]
    mounts = {mount["volume"]: mount for mount in agent.status()["mounts"]}
    assert [(mounts[name]["live"], mounts[name]["users"]) for name in ("prod.db", "prod.kept")] == [
        (False, 1),
        (True, 1),
    ]
    assert "it expired at" in mounts["prod.db"]["reason"]
    assert "it expired at" in agent.refused_mount()
    # A renewal reaches the container that still runs, in the same directory.
    prod.issued_at = now + 1
    assert agent.deliver(prod.envelope(files={"db_password": b"new"}, issued_at=now + 5000))["live"]
    assert (folder / "db_password").read_bytes() == b"new"
    assert folder.stat().st_ino == inode
    agent.unmount()
    assert not folder.exists()


def test_a_container_that_lost_its_files_is_told_of_new_ones(agent: RunningAgent, prod: Environment) -> None:
    """Also when they are the same ones: a renewal has the digest of what expired."""
    options = {**WIPE, "change_mode": "signal", "splay": 1000}
    digest = agent.deliver(prod.envelope(options=options, version_id="same"))["state_digest"]
    folder = agent.mount()
    until(lambda: not (folder / "db_password").exists())
    prod.issued_at = int(time.time() * 1000)
    assert agent.deliver(prod.envelope(options=options, version_id="same"))["state_digest"] == digest
    assert [entry["mode"] for entry in agent.status()["mounts"][0]["pending"]] == ["signal"]


def test_a_renewal_in_time_keeps_the_files(agent: RunningAgent, prod: Environment) -> None:
    agent.deliver(prod.envelope(options=WIPE))
    folder = agent.mount()
    agent.deliver(prod.envelope(issued_at=prod.issued_at + 60_000, options=WIPE))
    time.sleep(SECONDS + 0.5)
    assert (folder / "db_password").exists()
    assert wipes(agent) == []


def test_an_agent_that_was_away(agent: RunningAgent, prod: Environment) -> None:
    agent.deliver(prod.envelope(options=WIPE))
    folder = agent.mount()
    agent.kill()
    time.sleep(SECONDS)
    assert (folder / "db_password").exists()
    agent.start()
    # Before it said that it is ready, so before anybody is answered.
    assert not (folder / "db_password").exists()
    assert len(wipes(agent)) == 1


def test_an_agent_that_comes_back_in_time(agent: RunningAgent, prod: Environment) -> None:
    agent.deliver(prod.envelope(options={**WIPE, "expires_after": "1h"}))
    folder = agent.mount()
    agent.kill()
    agent.start()
    assert (folder / "db_password").exists()
    assert len(timers(agent)) == 1


def test_the_timer_goes_by_the_clock_and_only_when_it_is_needed(agent: RunningAgent, prod: Environment) -> None:
    """CLOCK_REALTIME (0) and TFD_TIMER_ABSTIME (1): the kernel ends the wait when somebody sets the clock forward."""
    agent.deliver(prod.envelope(options={"expires_after": "1h"}))
    agent.mount()
    agent.deliver(prod.envelope("idle", options={"expires_after": "1h", "on_expiry": "wipe"}), "prod.idle")
    assert timers(agent) == []
    agent.mount("prod.idle")
    (timer,) = timers(agent)
    assert "clockid: 0\n" in timer
    assert "settime flags: 01\n" in timer
    # Armed for the earliest, whatever comes after it.
    agent.deliver(prod.envelope("soon", options={"expires_after": "10m", "on_expiry": "wipe"}), "prod.soon")
    agent.mount("prod.soon")
    agent.deliver(prod.envelope("late", options={"expires_after": "2h", "on_expiry": "wipe"}), "prod.late")
    agent.mount("prod.late")
    (timer,) = timers(agent)
    seconds = int(timer.split("it_value: (")[1].split(",")[0])
    assert 590 < seconds <= 601
