# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The collection's tarball, the same bytes for the same commit.

ansible-galaxy lists files as the file system does and stamps them with the time of the build. So its tarball is packed
again: FILES.json in the order of names, MANIFEST.json with the new checksum, the commit's time on every member.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from pathlib import Path


def export(checkout: Path, commit: str, directory: Path) -> None:
    """The files of COMMIT, and nothing that only lies about in CHECKOUT."""
    directory.mkdir(parents=True)
    archive = subprocess.run(["git", "-C", checkout, "archive", commit], capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as members:
        members.extractall(directory, filter="data")


def commit_time(checkout: Path, commit: str) -> int:
    """Seconds since the epoch."""
    command = ["git", "-C", str(checkout), "log", "-1", "--format=%ct", commit]
    return int(subprocess.run(command, capture_output=True, check=True).stdout)


def build(source: Path, target: Path, timestamp: int) -> Path:
    """Build the collection in SOURCE; the tarball is a file in TARGET with ansible-galaxy's name for it."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = ["ansible-galaxy", "collection", "build", "--output-path", folder, str(source)]
        subprocess.run(command, capture_output=True, check=True)
        (built,) = Path(folder).iterdir()
        members = _members(built)
        made = target / built.name
        made.write_bytes(_pack(members, timestamp))
    return made


def _members(tarball: Path) -> dict[str, bytes | None]:
    """Content by name, None for a directory, in the order of the new tarball."""
    with tarfile.open(tarball) as archive:
        found: dict[str, bytes | None] = {}
        for member in archive:
            file = archive.extractfile(member)
            if file is None and not member.isdir():
                raise ValueError(f"{member.name} is neither a file nor a directory")
            found[member.name] = file.read() if file else None
    manifest = json.loads(found.pop("MANIFEST.json") or b"")
    files = json.loads(found.pop("FILES.json") or b"")
    files["files"].sort(key=lambda entry: str(entry["name"]))
    listing = json.dumps(files, indent=True).encode()
    manifest["file_manifest_file"]["chksum_sha256"] = hashlib.sha256(listing).hexdigest()
    head = {"MANIFEST.json": json.dumps(manifest, indent=True).encode(), "FILES.json": listing}
    return {**head, **dict(sorted(found.items()))}


def _pack(members: dict[str, bytes | None], timestamp: int) -> bytes:
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", filename="", mtime=timestamp) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive,
    ):
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.mtime = timestamp
            # Nothing in the collection is run by its path.
            member.mode = 0o755 if content is None else 0o644
            member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            member.size = len(content or b"")
            archive.addfile(member, io.BytesIO(content or b""))
    return packed.getvalue()
