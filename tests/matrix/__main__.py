# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Every supported ansible-core and Python, with the tests that matter there: python -m tests.matrix [NAME...] [--list]

requirements/matrix.toml has the rows. One whose Python is not on this machine is not run, and counts as failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomllib

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from tests.matrix.venvs import find_python, prepare
from tests.rig.paths import BUILD

LOGS = BUILD / "matrix" / "logs"


@dataclass(frozen=True)
class Row:
    """One run of pytest, or of SCRIPT, with ARGUMENTS and the virtual environment VENV."""

    name: str
    venv: str
    python: str
    packages: list[str]
    constraints: str
    arguments: list[str]
    alone: tuple[str, ...] = ()  # packages that come without what they ask for
    script: str = ""
    targets: tuple[str, ...] = ()  # for the script: the Pythons of hosts


def main() -> int:
    """The exit status: 1 when a row failed or could not run."""
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="only rows whose name has this in it")
    parser.add_argument("--list", action="store_true", help="name the rows and run nothing")
    options = parser.parse_args()
    plan = tomllib.loads((ROOT / "requirements/matrix.toml").read_text(encoding="utf-8"))
    wanted = [row for row in rows(plan) if not options.names or any(name in row.name for name in options.names)]
    if options.list or not wanted:
        print("\n".join(row.name for row in wanted) or "matrix: no row has such a name")
        return int(not wanted)
    LOGS.mkdir(parents=True, exist_ok=True)
    width = max(len(row.name) for row in wanted)
    lines = []
    for row in wanted:
        started = time.monotonic()
        result = run(row)
        lines.append((f"{row.name:{width}}  {time.monotonic() - started:5.0f} s  {result}", result))
        print(lines[-1][0], flush=True)
    bad = sum(result.partition(":")[0] != "passed" for _line, result in lines)
    print(f"\n{len(lines)} rows, {bad} failed or not run")
    return int(bad > 0)


def rows(plan: dict[str, Any]) -> Iterator[Row]:
    """All rows of the plan."""
    control, agent = plan["control"], plan["agent"]
    for core in plan["core"]:
        venv = f"core-{core['version']}"
        packages = [f"ansible-core=={core['version']}", *control["packages"]]
        common = (venv, core["python"], packages, "constraints.txt")
        skipped = [f"--skip-test={name}" for name in core.get("skip_sanity", [])]
        yield Row(f"{venv} unit", *common, ["-n2", *control["unit"]])
        yield Row(f"{venv} integration", *common, control["integration"])
        yield Row(f"{venv} sanity", *common, skipped, script="tests/rig/sanity.sh", targets=tuple(core["targets"]))
    importer = plan["importer"]
    name, python = "galaxy-importer", "{}.{}".format(*sys.version_info)
    yield Row(name, name, python, importer["packages"], importer["constraints"], [], script="tests/rig/importer.sh")
    for libraries in agent["libraries"]:
        for python in libraries["pythons"]:
            name = f"agent-{python}-{libraries['name']}"
            packages = [*libraries["packages"], *agent["packages"]]
            arguments = ["-n2", *agent["tests"]]
            yield Row(name, name, python, packages, "matrix-constraints.txt", arguments, (agent["module_utils"],))


def run(row: Row) -> str:
    """What came out: "passed: ", "failed: " or "not run: ", and why."""
    pythons = {version: find_python(version) for version in {row.python, *row.targets}}
    missing = sorted(version for version, found in pythons.items() if found is None)
    python = pythons[row.python]
    if missing or python is None:
        return f"not run: no Python {', '.join(missing)} with venv on this machine"
    log = LOGS / f"{row.name.replace(' ', '-')}.log"
    with log.open("w", encoding="utf-8") as output, tempfile.TemporaryDirectory(prefix="hs.", dir="/tmp") as base:
        try:
            venv = prepare(row.venv, python, row.packages, ROOT / "requirements" / row.constraints, row.alone, output)
        except subprocess.CalledProcessError:
            return f"failed: its packages can't be had, see {log}"
        variables = {**os.environ, "PATH": f"{venv}/bin:{os.environ['PATH']}"}
        if row.script:
            targets = " ".join(f"{version}@{pythons[version]}" for version in row.targets)
            command = [row.script, *row.arguments]
            variables |= {"HOSTSEAL_VENV": str(venv), "HOSTSEAL_TARGETS": targets}
        else:
            # A short path: sockets are made below it.
            command = [f"{venv}/bin/python", "-m", "pytest", "-q", f"--basetemp={base}/t", *row.arguments]
        done = subprocess.run(command, cwd=ROOT, env=variables, stdout=output, stderr=output, check=False)
    last = log.read_text(encoding="utf-8", errors="replace").rstrip().rpartition("\n")[2].strip("= ")
    return f"failed: {last}, see {log}" if done.returncode else f"passed: {last}"


if __name__ == "__main__":
    sys.exit(main())
