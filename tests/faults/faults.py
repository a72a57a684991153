# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The faults by name, and how often each is tried: in full, and in the short version."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.faults.station import Station

Say = Callable[[str], None]
# Minutes that the churn lasts -> what a fault gets.
Sizes = Callable[[float], dict[str, Any]]


@dataclass(frozen=True)
class Fault:
    full: Sizes
    short: Sizes


def _same(**arguments: Any) -> Sizes:
    return lambda _minutes: arguments


FAULTS = {
    **{
        name: Fault(_same(most=None), _same(most=most))
        for name, most in {
            "first-mount": 3,
            "second-mount": 2,
            "last-unmount": 2,
            "deliver-live": 4,
            "deliver-idle": 2,
            "remove-live": 2,
            "pin": 2,
        }.items()
    },
    "storm": Fault(_same(rounds=6), _same(rounds=1)),
    "power-cut": Fault(_same(rounds=5), _same(rounds=1)),
    "full-disk": Fault(_same(rounds=12, step=1), _same(rounds=2, step=9)),
    "full-tmpfs": Fault(_same(rounds=8, step=1), _same(rounds=2, step=6)),
    "docker-socket": Fault(_same(rounds=3), _same(rounds=1)),
    "docker-restart": Fault(_same(rounds=5), _same(rounds=1)),
    "clock": Fault(_same(rounds=4), _same(rounds=1)),
    "stopped": Fault(_same(rounds=6), _same(rounds=2)),
    "churn": Fault(
        lambda minutes: {"seconds": minutes * 60, "most": 200},
        _same(seconds=8, most=12),
    ),
}


def run(station: Station, name: str, seed: int, arguments: dict[str, Any], say: Say) -> dict[str, Any]:
    """One fault; its result. The order of what happens in it depends on SEED alone."""
    if name == "power-cut":
        return _power_cuts(station, seed, say, **arguments)
    return station.run(name, seed, say, **arguments)


def _power_cuts(station: Station, seed: int, say: Say, rounds: int) -> dict[str, Any]:
    """Cut the power at random moments of a storm of deliveries and mounts."""
    chance = random.Random(seed)
    total: dict[str, Any] = {}
    for number in range(rounds):
        accepted: dict[str, int] = {}
        sent: dict[str, int] = {}
        with station.begin("power-storm", seed + number) as lines:
            for line in lines:
                accepted.update(line.get("accepted", {}))
                if "ready" in line:
                    break
            cut = time.monotonic() + chance.uniform(0.2, 3)
            for line in lines:
                accepted.update(line.get("accepted", {}))
                sent.update(line.get("sent", {}))
                if time.monotonic() > cut:
                    break
            station.host.power_cut(wait=False)
            for line in lines:  # what was said before the cut
                accepted.update(line.get("accepted", {}))
                sent.update(line.get("sent", {}))
        station.host.power_on()
        result = station.run("after-power", seed + number, say, accepted=accepted, sent=sent)
        say(f"cut {number + 1}: {len(result['violations'])} violations")
        if not total:
            total = result
            continue
        for member in ("runs", "survived", "mended", "violations"):
            total[member] += result[member]
    return total
