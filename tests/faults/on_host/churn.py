# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Many containers that start and stop at random while new versions of their mounts keep arriving."""

from __future__ import annotations

import random
import threading
import time

from . import agent, containers, invariants
from .result import Result, tried
from .world import ENVIRONMENT, World, progress

STARTERS = 3


class Churn:
    """At most MOST containers at a time, of some MOUNTS."""

    def __init__(self, world: World, mounts: list[str], most: int) -> None:
        self.world = world
        self.mounts = mounts
        self.most = most
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.running: dict[str, containers.Watcher] = {}
        self.begun = 0
        self.ended = 0
        self.peak = 0
        self.delivered = 0
        self.newest: dict[str, int] = {}
        self.errors: list[str] = []

    def start_and_stop(self, chance: random.Random) -> None:
        while not self.stop.is_set():
            with self.lock:
                full = len(self.running) / self.most
                name = f"c{self.begun}"
                start = full < 1 and chance.random() < (0.9 if full < 0.8 else 0.5)
                victim = None if start or not self.running else self.running.pop(chance.choice(sorted(self.running)))
                self.begun += start
                self.ended += victim is not None
            try:
                if victim:
                    victim.remove()
                elif start:
                    watcher = containers.start(
                        chance.choice(self.mounts), name, "--restart", "no", pause=f"{chance.uniform(1, 4):.2f}"
                    )
                    with self.lock:
                        self.running[name] = watcher
                        self.peak = max(self.peak, len(self.running))
            except Exception as error:
                self.errors.append(f"{name}: {error}")

    def deliver(self, chance: random.Random) -> None:
        while not self.stop.wait(chance.uniform(0.05, 0.5)):
            mount = chance.choice(self.mounts)
            try:
                self.newest[mount] = self.world.deliver(mount)
                self.delivered += 1
            except Exception as error:
                self.errors.append(f"delivery of {mount}: {error}")


def churn(world: World, seconds: float, most: int, mounts: int = 8) -> Result:
    """For SECONDS, with at most MOST containers of so many MOUNTS."""
    result = Result("containers start and stop while envelopes arrive", runs=1)
    agent.restart()
    state = Churn(world, [f"churn{number}" for number in range(mounts)], most)
    for mount in state.mounts:
        state.newest[mount] = world.deliver(mount)
    seeds = [world.random.random() for _thread in range(STARTERS + 1)]
    threads = [threading.Thread(target=state.start_and_stop, args=(random.Random(seed),)) for seed in seeds[1:]]
    threads.append(threading.Thread(target=state.deliver, args=(random.Random(seeds[0]),)))
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    found: list[str] = []
    while time.monotonic() < end:
        time.sleep(min(15.0, max(0.0, end - time.monotonic())))
        found += containers.bad()
        progress(
            f"{len(state.running)} run, {state.begun} started, {state.ended} stopped, "
            f"{state.delivered} deliveries, {len(found) + len(state.errors)} violations"
        )
    state.stop.set()
    for thread in threads:
        thread.join()
    for watcher in state.running.values():
        watcher.forget()
    for watcher in state.running.values():
        found += tried(lambda watcher=watcher: watcher.saw(state.newest[watcher.mount], 60))
    found += containers.blinked()
    users = {f"{ENVIRONMENT}.{mount}": 0 for mount in state.mounts}
    for watcher in state.running.values():
        users[f"{ENVIRONMENT}.{watcher.mount}"] += 1
    found += invariants.counts(users)
    allowed: dict[str, set[int | None]] = {
        f"{ENVIRONMENT}.{mount}": {issued_at} for mount, issued_at in state.newest.items()
    }
    found += tried(lambda: invariants.check(world, allowed)) + state.errors
    progress("they end")
    containers.remove_all()
    # No reconciliation: every use was told by Docker.
    found += invariants.nobody_left(world)
    later: list[str] = []
    for mount in state.mounts:
        newest = world.deliver(mount)
        later += tried(
            lambda mount=mount, newest=newest: [] if containers.once(mount) == newest else [f"{mount} is old"]
        )
        agent.control("DELETE", f"/v1/mounts/{ENVIRONMENT}.{mount}")
    result.runs = 0
    result.note(f"{most} containers", found, later + containers.bad())
    result.remark = f"{state.begun} starts, {state.ended} stops, {state.peak} at a time, {state.delivered} deliveries"
    return result
