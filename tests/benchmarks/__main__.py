# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Measure, print a table, and write it to build/bench/: python -m tests.benchmarks [--only NAME ...] [--quick]"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import sys
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "build/sym"), str(ROOT / "build/collections")]

from tests.benchmarks import control_node, on_hosts, playbooks, scale, with_vault
from tests.benchmarks.places import BENCH, Places
from tests.benchmarks.rows import QUICK, Row, Sizes, markdown, table
from tests.rig import engine
from tests.rig.host import clean_leftovers

# In this order: what fills a host with volumes comes last.
MEASUREMENTS = {
    "declare": control_node.declare,
    "seal": control_node.seal,
    "scale": scale.scale,
    "vault": with_vault.declare_and_seal,
    "no-op": playbooks.no_op,
    "mount": on_hosts.mounts,
    "idle": on_hosts.idle,
    "docker-run": on_hosts.docker_run,
    "live-update": on_hosts.live_update,
    "docker-restart": on_hosts.docker_restart,
    "many-mounts": on_hosts.many_mounts,
    "hundred-hosts": playbooks.hundred_hosts,
}


def main() -> int:
    """The exit status: 1 when something that was to be measured failed. A missed target is no failure."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=MEASUREMENTS, help="this one; may be given several times")
    parser.add_argument("--quick", action="store_true", help="small numbers: does it run? Its figures mean nothing")
    options = parser.parse_args()
    sizes = QUICK if options.quick else Sizes()
    chosen = [name for name in MEASUREMENTS if not options.only or name in options.only]
    began = time.time()
    rows, failed, loads = measure(chosen, sizes)
    print(f"\n{table(rows)}")
    print(f"Load average (1 min) before each measurement and at the end: {' '.join(f'{load:.1f}' for load in loads)};")
    print(f"with more than about {os.cpu_count()} the machine had other things to do, and times are too long.")
    if options.quick:
        print("quick: too small and too few to mean anything")
    save(rows, failed, loads, began, options.quick)
    for name in failed:
        print(f"failed: {name}", file=sys.stderr)
    return 1 if failed else 0


def measure(chosen: list[str], sizes: Sizes) -> tuple[list[Row], list[str], list[float]]:
    """The rows of the CHOSEN measurements, which of these failed, and the load averages before each and at the end.

    What the measurements start is ended.
    """
    rows: list[Row] = []
    failed: list[str] = []
    loads: list[float] = []
    with contextlib.ExitStack() as stack:
        clean_leftovers(engine.ensure())
        places = Places(sizes, stack)
        for name in chosen:
            loads.append(os.getloadavg()[0])
            print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
            try:
                for row in MEASUREMENTS[name](places):
                    rows.append(row)
                    print(f"         {row.what}: {row.measured}", flush=True)
            except Exception:  # the other measurements are still worth having
                traceback.print_exc()
                failed.append(name)
        loads.append(os.getloadavg()[0])
    return rows, failed, loads


def save(rows: list[Row], failed: list[str], loads: list[float], began: float, quick: bool) -> None:
    """results.json with all numbers, results.md with the table."""
    BENCH.mkdir(parents=True, exist_ok=True)
    document = {
        "began": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began)),
        "seconds": round(time.time() - began),
        "quick": quick,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "loads": loads,
        "failed": failed,
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    (BENCH / "results.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (BENCH / "results.md").write_text(markdown(rows), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
