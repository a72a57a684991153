# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Unpack the collections that ours needs into build/collections, from the community package's wheel (no Galaxy)."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENT = ROOT / "requirements" / "bundle.txt"
TARGET = ROOT / "build" / "collections"
# community.docker needs the filtering one.
WANTED = ("ansible/posix", "community/docker", "community/hashi_vault", "community/library_inventory_filtering_v1")


def main() -> None:
    digest = hashlib.sha256((REQUIREMENT.read_text(encoding="utf-8") + repr(WANTED)).encode()).hexdigest()
    stamp = TARGET / "stamp"
    if stamp.exists() and stamp.read_text(encoding="ascii") == digest:
        return
    print("setup: build/collections", flush=True)
    shutil.rmtree(TARGET, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--ignore-requires-python"]
        subprocess.run([*pip, "--only-binary=:all:", "--dest", folder, "-r", str(REQUIREMENT)], check=True)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            wanted = tuple(f"ansible_collections/{name}/" for name in WANTED)
            archive.extractall(TARGET, [name for name in archive.namelist() if name.startswith(wanted)])
    stamp.write_text(digest, encoding="ascii")


if __name__ == "__main__":
    main()
