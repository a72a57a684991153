# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Unpack the collections that ours needs into build/collections, from wheels of the community package (no Galaxy)."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
TARGET = ROOT / "build" / "collections"
# What is wanted of the package that a file of REQUIREMENTS names. community.docker needs the filtering one.
WANTED = {
    "bundle.txt": (
        "ansible/posix",
        "community/docker",
        "community/hashi_vault",
        "community/library_inventory_filtering_v1",
    ),
    "bundle-awx.txt": ("awx/awx",),
}


def main() -> None:
    texts = [(REQUIREMENTS / name).read_text(encoding="utf-8") for name in WANTED]
    digest = hashlib.sha256(repr((texts, WANTED)).encode()).hexdigest()
    stamp = TARGET / "stamp"
    if stamp.exists() and stamp.read_text(encoding="ascii") == digest:
        return
    print("setup: build/collections", flush=True)
    shutil.rmtree(TARGET, ignore_errors=True)
    for name, collections in WANTED.items():
        _unpack(REQUIREMENTS / name, tuple(f"ansible_collections/{collection}/" for collection in collections))
    stamp.write_text(digest, encoding="ascii")


def _unpack(requirement: Path, wanted: tuple[str, ...]) -> None:
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--ignore-requires-python"]
        subprocess.run([*pip, "--only-binary=:all:", "--dest", folder, "-r", str(requirement)], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(TARGET, [name for name in archive.namelist() if name.startswith(wanted)])


if __name__ == "__main__":
    main()
