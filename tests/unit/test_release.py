# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tarball that users get: what is in it, and that one commit makes one tarball wherever it is built."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.release import tarball

ROOT = Path(__file__).parents[2]
TIMESTAMP = 1_700_000_000
# What a collection consists of; everything else is for who works on it.
EXPECTED = {
    "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md",
    "FILES.json",
    "LICENSE",
    "MANIFEST.json",
    "README.md",
    "changelogs",
    "docs",
    "execution-environment.yml",
    "meta",
    "playbooks",
    "plugins",
    "roles",
}
# As another file system would list, and another user would write.
_ANOTHER_ORDER = """
import os
listdir = os.listdir
os.listdir = lambda *arguments: sorted(listdir(*arguments), reverse=True)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files as they would be committed now."""
    copy = tmp_path_factory.mktemp("source")
    listed = subprocess.run([ROOT / "tests/rig/worktree.sh"], capture_output=True, check=True).stdout
    for name in listed.decode().split("\0")[:-1]:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    return copy


@pytest.fixture(scope="module")
def built(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tarball.build(source, tmp_path_factory.mktemp("built"), TIMESTAMP)


def test_same_bytes_from_another_builder(
    source: Path, built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text(_ANOTHER_ORDER, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    for path in source.rglob("*"):
        path.chmod(0o700)
        os.utime(path, (0, 0))
    assert tarball.build(source, tmp_path / "dist", TIMESTAMP).read_bytes() == built.read_bytes()


def test_only_what_a_collection_consists_of(built: Path) -> None:
    with tarfile.open(built) as archive:
        members = archive.getmembers()
    assert {member.name.partition("/")[0] for member in members} - {"CHANGELOG.md"} == EXPECTED
    assert [member.name for member in members if not (member.isfile() or member.isdir())] == []
    names = [member.name for member in members if member.isfile()]
    junk = ("__pycache__", ".pyc", ".cache", ".git", "test", ".retry", "~", ".orig", ".rej", ".swp")
    assert [name for name in names if any(part in name for part in junk)] == []
    assert {member.mtime for member in members} == {TIMESTAMP}
    assert sum(member.size for member in members) < 5_000_000  # Galaxy takes 20 MB


def test_checksums_match(built: Path) -> None:
    with tarfile.open(built) as archive:
        content = {member.name: archive.extractfile(member).read() for member in archive if member.isfile()}
    manifest, listing = json.loads(content.pop("MANIFEST.json")), content.pop("FILES.json")
    assert manifest["file_manifest_file"]["chksum_sha256"] == hashlib.sha256(listing).hexdigest()
    listed = {entry["name"]: entry["chksum_sha256"] for entry in json.loads(listing)["files"]}
    assert {name: digest for name, digest in listed.items() if digest} == {
        name: hashlib.sha256(data).hexdigest() for name, data in content.items()
    }
