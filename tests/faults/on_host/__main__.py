# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Runs on the host: `python3 -m on_host FAULT SEED ARGUMENTS`; JSON lines with "progress" and at the end a "result"."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable

from . import agent, churn, containers, disturbances, kills
from .result import Result
from .world import World

FAULTS: dict[str, Callable[..., Result]] = {
    "storm": kills.storm,
    "full-disk": disturbances.full_disk,
    "full-tmpfs": disturbances.full_memory,
    "docker-socket": disturbances.no_docker_socket,
    "docker-restart": disturbances.docker_restarts,
    "clock": disturbances.clock_set_back,
    "stopped": disturbances.stopped,
    "after-power": disturbances.after_power,
    "churn": churn.churn,
}


def _end_with_the_caller() -> None:
    sys.stdin.read()
    os._exit(3)


def main() -> None:
    threading.Thread(target=_end_with_the_caller, daemon=True).start()
    fault, seed, arguments = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
    containers.SEEN.mkdir(parents=True, exist_ok=True)
    containers.SEEN.chmod(0o1777)
    world = World(seed)
    if fault != "after-power":  # which looks at what is there
        containers.remove_all()
        containers.bad()
        for mount in agent.status()["mounts"]:  # of a fault that was broken off
            agent.control("DELETE", f"/v1/mounts/{mount['volume']}")
        world.enrol()
    try:
        if fault == "power-storm":
            disturbances.power_storm(world)
            return
        if fault in kills.OPERATIONS:
            result = kills.kill(world, fault, **arguments)
        else:
            result = FAULTS[fault](world, **arguments)
    except Exception as error:
        traceback.print_exc()
        result = Result(fault, violations=[f"it could not go on: {type(error).__name__}: {error}"])
    finally:
        containers.remove_all()
        agent.restart()
    print(json.dumps({"result": dataclasses.asdict(result)}), flush=True)


main()
