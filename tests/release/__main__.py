# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Make a release from a clean checkout: python -m tests.release [VERSION] [--dry-run | --rebuild]

Changelog, commit and tag in this checkout; tarball, bill of materials and checksums in dist/. Nothing is pushed. CONTRIBUTING.md says
what comes then. A dry run does it in a clone, with what is committed, compares two builds and installs the tarball.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from tests.release import sbom, tarball
from tests.rig.paths import BUILD

# https://semver.org without build metadata, which Galaxy ignores.
_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z-]+(\.[0-9A-Za-z-]+)*)?")


class ReleaseError(Exception):
    """Why there is no release, for people."""


def main() -> int:
    """The exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.release", description=__doc__)
    parser.add_argument("version", nargs="?", default="", help="as in galaxy.yml")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="in a clone; the version may be left out")
    how.add_argument("--rebuild", action="store_true", help="make the files of a tag again")
    options = parser.parse_args()
    try:
        if options.dry_run:
            dry_run(options.version or str(galaxy(ROOT)["version"]))
        else:
            if not options.rebuild:
                check(ROOT, options.version)
                tag(ROOT, options.version)
            for file in pack(ROOT, options.version, ROOT / "dist"):
                print(file)
    except ReleaseError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    except subprocess.CalledProcessError as error:
        output = (error.stderr or error.stdout or b"").decode(errors="replace")
        print(f"release: {error.cmd[0]} ended with {error.returncode}\n{output}", file=sys.stderr)
        return 1
    return 0


def galaxy(checkout: Path) -> dict[str, object]:
    """What galaxy.yml says."""
    loaded: dict[str, object] = yaml.safe_load((checkout / "galaxy.yml").read_text(encoding="utf-8"))
    return loaded


def check(checkout: Path, version: str) -> None:
    """ReleaseError unless VERSION can be released from CHECKOUT as it is."""
    if not _VERSION.fullmatch(version):
        raise ReleaseError(f"version '{version}' is not a semantic version: VERSION=1.2.3")
    if galaxy(checkout)["version"] != version:
        raise ReleaseError(f"galaxy.yml has version {galaxy(checkout)['version']}: change and commit it first")
    agent = (checkout / "roles/host_agent/files/hostseald/__init__.py").read_text(encoding="utf-8")
    if f'VERSION = "{version}"' not in agent:
        raise ReleaseError(f"the agent has another VERSION than {version}: change and commit it first")
    if git(checkout, "status", "--porcelain"):
        raise ReleaseError("there are changes that are not committed")
    if git(checkout, "tag", "--list", version):
        raise ReleaseError(f"tag {version} is there already: a version is released once")
    if not list((checkout / "changelogs/fragments").glob("*.yml")):
        raise ReleaseError("no changelog fragment: a release says what is new")


def tag(checkout: Path, version: str) -> None:
    """Changelog, commit and annotated tag."""
    run(["antsibull-changelog", "lint"], checkout)
    run(["antsibull-changelog", "release", "--version", version, "--date", time.strftime("%Y-%m-%d")], checkout)
    git(checkout, "add", "--all", "CHANGELOG.md", "changelogs")
    git(checkout, "commit", "--quiet", f"--message=Release {version}")
    git(checkout, "tag", "--annotate", f"--message=hostseal.secrets {version}", version)


def pack(checkout: Path, version: str, target: Path) -> list[Path]:
    """Tarball, bill of materials and SHA256SUMS of the tagged commit, in TARGET."""
    timestamp = tarball.commit_time(checkout, version)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "source"
        tarball.export(checkout, version, source)
        made = tarball.build(source, target, timestamp)
        bill = target / made.name.replace(".tar.gz", ".cdx.json")
        bill.write_text(sbom.describe(source, made, timestamp), encoding="utf-8")
    sums = target / "SHA256SUMS"
    lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in (made, bill)]
    sums.write_text("".join(lines), encoding="ascii")
    return [made, bill, sums]


def dry_run(version: str) -> None:
    """A release of what is committed, in a clone; ReleaseError when two builds differ or the tarball is no good."""
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        clone = Path(folder) / "clone"
        git(ROOT, "clone", "--quiet", "--no-tags", "--local", str(ROOT), str(clone))
        for key in ("user.name=dry run", "user.email=dry-run@example.invalid", "commit.gpgsign=false"):
            git(clone, "config", *key.split("=", 1))
        check(clone, version)
        tag(clone, version)
        first = pack(clone, version, Path(folder) / "first")
        old_umask = os.umask(0o077)  # another builder has another umask
        try:
            second = pack(clone, version, Path(folder) / "second")
        finally:
            os.umask(old_umask)
        for one, other in zip(first, second, strict=True):
            if one.read_bytes() != other.read_bytes():
                raise ReleaseError(f"two builds of {one.name} differ")
            print(f"{one.name}: {one.stat().st_size} bytes, twice the same")
        modules = install(first[0], Path(folder) / "installed")
        print(f"{first[0].name}: installed and verified, with {modules} modules")


def install(tarball_path: Path, target: Path) -> int:
    """As a user does, without what comes from Galaxy, and verify it; the number of modules that ansible-doc finds."""
    alone = {**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(target)}
    ours = ["ansible-galaxy", "collection"]
    run([*ours, "install", "--no-deps", "--offline", "-p", str(target), str(tarball_path)], target.parent, alone)
    run([*ours, "verify", "--offline", "hostseal.secrets"], target.parent, alone)
    listed = run(["ansible-doc", "--list", "--type", "module", "hostseal.secrets"], target.parent, alone)
    count = len(listed.splitlines())
    if count != len(list((ROOT / "plugins/modules").glob("*.py"))):
        raise ReleaseError(f"ansible-doc finds {count} modules in what was installed")
    return count


def git(checkout: Path, *arguments: str) -> str:
    """What git prints."""
    return run(["git", *arguments], checkout)


def run(command: list[str], directory: Path, environment: dict[str, str] | None = None) -> str:
    """What it prints; CalledProcessError when it fails."""
    done = subprocess.run(command, cwd=directory, env=environment, capture_output=True, check=True)
    return done.stdout.decode()


if __name__ == "__main__":
    sys.exit(main())
