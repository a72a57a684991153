# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make faults happen to a throwaway host, and print a table: python -m tests.faults [--seed N] [--only NAME] [--short]"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "build/sym"), str(ROOT / "build/collections")]

from tests.faults.faults import FAULTS, run
from tests.faults.mutants import MUTANTS
from tests.faults.station import Station
from tests.rig import engine
from tests.rig.host import ThrowawayHost, clean_leftovers

_COLUMNS = ("fault", "runs", "survived", "mended", "violations", "remark")


def main() -> int:
    """The exit status: 1 when a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, help="repeat the order of a run; it is printed")
    parser.add_argument("--minutes", type=float, default=3, help="how long containers start and stop at random")
    parser.add_argument("--only", action="append", choices=FAULTS, help="this one; may be given several times")
    parser.add_argument("--short", action="store_true", help="few of everything")
    parser.add_argument(
        "--break", dest="mutant", choices=MUTANTS, help="break the agent first: violations are expected"
    )
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))  # so that the host goes
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)
    clean_leftovers(engine.ensure())
    host = ThrowawayHost(engine.ensure(), f"faults{os.getpid()}")
    results = []
    try:
        station = Station(host.start()).install()
        if options.mutant:
            station.replace_agent(MUTANTS[options.mutant])
        for name in options.only or FAULTS:
            results.append(one(station, name, seed, options.minutes, options.short))
    finally:
        host.remove()
    print(f"\n{table(results)}\n")
    violations = [f"{result['fault']}: {text}" for result in results for text in result["violations"]]
    for text in violations:
        print(text)
    print(f"{len(violations)} violations; seed {seed}")
    return 1 if violations else 0


def one(station: Station, name: str, seed: int, minutes: float = 3, short: bool = False) -> dict[str, Any]:
    """Run a fault, with progress; its result."""

    def say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {name}: {text}", flush=True)

    say("begins")
    sizes = FAULTS[name].short if short else FAULTS[name].full
    result = run(station, name, seed, sizes(minutes), say)
    for text in result["violations"]:
        say(f"VIOLATION {text}")
    return result


def table(results: list[dict[str, Any]]) -> str:
    """Faults x outcomes: how many runs, after how many all was well at once, and after how many after the next run."""
    rows = [
        [str(len(result["violations"]) if name == "violations" else result.get(name, "")) for name in _COLUMNS]
        for result in results
    ]
    rows.insert(0, ["fault", "runs", "survived", "mended", "violations", ""])
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)


if __name__ == "__main__":
    sys.exit(main())
