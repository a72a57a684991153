# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The execution environment of execution-environment.yml, built by ansible-builder on a base image of the rig."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from tests.release import tarball
from tests.rig.engine import Engine, RigError
from tests.rig.images import Recipe, built
from tests.rig.paths import BUILD, ROOT, locked

IMAGE = "hostseal-rig:execution-environment"
BUILD_SECONDS = 1800
_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
# No registry is asked. What trusts the machine's package mirrors must be trusted in the image, too.
_BASE = Recipe(
    name="debian",
    release="trixie",
    packages="ca-certificates",
    hooks=(f"copy-in {_BUNDLE} /etc/ssl/certs",),
    changes=(f"ENV PIP_CERT={_BUNDLE}",),
)
_OTHERS = ("community/docker", "community/library_inventory_filtering_v1")


def build(engine: Engine, folder: Path) -> str:
    """The image's name. FOLDER is an empty directory for what goes into it.

    Two things differ from what a reader of execution-environment.yml gets: the base image is the rig's, and the
    collections come from here, as no Galaxy is asked. A second build of the same files takes seconds.
    """
    definition = yaml.safe_load((ROOT / "execution-environment.yml").read_text(encoding="utf-8"))
    tarballs = [_own(folder), *(_other(folder, name) for name in _OTHERS)]
    definition["additional_build_files"] = [{"src": str(path), "dest": "tarballs"} for path in tarballs]
    definition["additional_build_steps"]["prepend_galaxy"] = ["COPY _build/tarballs /tmp/tarballs"]
    assert [listed["name"] for listed in definition["dependencies"]["galaxy"]["collections"]] == ["hostseal.secrets"]
    definition["dependencies"]["galaxy"]["collections"] = [
        {"name": f"/tmp/tarballs/{path.name}", "type": "file"} for path in tarballs
    ]
    (folder / "execution-environment.yml").write_text(yaml.safe_dump(definition), encoding="utf-8")
    command = [
        str(Path(sys.executable).with_name("ansible-builder")),
        *("build", "--container-runtime", "docker", "--tag", IMAGE, "--verbosity", "3"),
        *("--build-arg", f"EE_BASE_IMAGE={built(engine, _BASE)}"),
        *("--build-arg", "ANSIBLE_GALAXY_CLI_COLLECTION_OPTS=--offline"),
        *("--extra-build-cli-args", "--network host"),
    ]
    environment = {**os.environ, "DOCKER_HOST": engine.address, "DOCKER_BUILDKIT": "0"}
    with locked("build-execution-environment"):
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
        )
    if done.returncode:
        raise RigError(f"ansible-builder failed:\n{(done.stdout + done.stderr)[-5000:]}")
    return IMAGE


def _own(folder: Path) -> Path:
    """The collection's tarball, of the working tree."""
    source = folder / "hostseal.secrets"
    listed = subprocess.run([ROOT / "tests/rig/worktree.sh"], capture_output=True, check=True).stdout
    for name in filter(None, listed.decode().split("\0")):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    return tarball.build(source, folder, 0)


def _other(folder: Path, name: str) -> Path:
    """The tarball of an unpacked collection, which lacks some of the files that its manifest names."""
    source = folder / name
    shutil.copytree(BUILD / "collections/ansible_collections" / name, source)
    manifest = json.loads((source / "MANIFEST.json").read_text(encoding="utf-8"))
    for left in ("MANIFEST.json", "FILES.json"):
        (source / left).unlink()
    about = {key: value for key, value in manifest["collection_info"].items() if value is not None}
    (source / "galaxy.yml").write_text(yaml.safe_dump(about), encoding="utf-8")
    return tarball.build(source, folder, 0)
