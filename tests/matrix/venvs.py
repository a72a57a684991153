# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Pythons of this machine, and a virtual environment below build/matrix for each row."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from tests.rig.paths import BUILD


def find_python(version: str) -> Path | None:
    """A real interpreter of this version ("3.11") with venv; never one of pyenv's shims, which ansible-test can't use."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [Path(path) / f"python{version}" for path in os.get_exec_path() if "shims" not in path]
    for candidate in [*found, *sorted(pyenv.glob(f"{version}.*/bin/python{version}"))]:
        code = "import ensurepip, sys, venv; sys.exit(sys.prefix != sys.base_prefix)"
        if candidate.exists() and subprocess.run([candidate, "-c", code], check=False).returncode == 0:
            return candidate
    return None


def prepare(
    name: str, python: Path, packages: Sequence[str], constraints: Path, alone: Sequence[str], output: TextIO
) -> Path:
    """The directory of the virtual environment NAME with PACKAGES, and those ALONE without what they ask for.

    CalledProcessError, and why in OUTPUT, when it can't be made.
    """
    directory = BUILD / "matrix" / name
    wanted = repr((str(python), [*packages], [*alone], constraints.read_text(encoding="utf-8")))
    stamp = directory / "stamp"
    digest = hashlib.sha256(wanted.encode()).hexdigest()
    if stamp.exists() and stamp.read_text(encoding="ascii") == digest:
        return directory
    shutil.rmtree(directory, ignore_errors=True)
    subprocess.run([python, "-m", "venv", directory], check=True)
    pip = [f"{directory}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    calls = [["-c", str(constraints), *packages]]
    if alone:
        calls.append(["--no-deps", "--ignore-requires-python", *alone])
    for arguments in calls:
        subprocess.run([*pip, *arguments], check=True, stdout=output, stderr=output)
    stamp.write_text(digest, encoding="ascii")
    return directory
