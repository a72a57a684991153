# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The images of the rig, built from the machine's own package sources, once per recipe."""

from __future__ import annotations

import hashlib
import re
import shlex
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.rig.engine import Engine, RigError
from tests.rig.paths import RIG, locked

FILES = Path(__file__).parent / "files"
RELEASES = ("bookworm", "trixie")
BUILD_SECONDS = 1200

_HOST_PACKAGES = (
    "ca-certificates,dbus,docker.io,iproute2,iptables,kmod,procps,python3,python3-apt,python3-cryptography,"
    "python3-docker,python3-jwcrypto,sudo,systemd,systemd-sysv"
)
# Documentation and translations are a fifth of the size and nobody reads them here.
_SLIM = (
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/locale/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
)
_APT = (
    '--aptopt=APT::Install-Recommends "false"',
    '--aptopt=Acquire::Languages "none"',
    # Hosts keep these: mirrors of packages may serve a snapshot, whose index is older than apt likes.
    '--aptopt=Acquire::Check-Valid-Until "false"',
    '--aptopt=Acquire::Check-Date "false"',
)


@dataclass(frozen=True)
class Recipe:
    """A root file system by mmdebstrap plus what `docker import -c` says about it. Its hash is the image's tag."""

    name: str
    release: str
    packages: str
    hooks: tuple[str, ...]
    changes: tuple[str, ...]
    scripts: tuple[str, ...] = field(default=())

    @property
    def tag(self) -> str:
        parts = [repr(self), *_SLIM, *_APT, *((FILES / name).read_text(encoding="utf-8") for name in self.scripts)]
        return f"hostseal-rig:{self.name}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:12]}"


def _install(script: str, target: str) -> str:
    return f"copy-in {shlex.quote(str(FILES / script))} {target}"


def host_recipe(release: str) -> Recipe:
    """A bare Docker host with systemd: the role has not been there."""
    return Recipe(
        name=release,
        release=release,
        # bookworm has no Compose v2.
        packages=_HOST_PACKAGES + (",docker-cli,docker-compose" if release != "bookworm" else ""),
        hooks=(
            # No console and no modules in a container; hosts must not share one machine-id.
            'chroot "$1" systemctl mask console-getty.service getty.target systemd-modules-load.service',
            ': >"$1/etc/machine-id"',
            'mkdir -p "$1/var/log/journal"',
            # A user for `become`: no root, but sudo.
            'chroot "$1" useradd --create-home --shell /bin/bash deploy',
            'echo "deploy ALL=(ALL) NOPASSWD: ALL" >"$1/etc/sudoers.d/deploy"',
        ),
        changes=(
            "ENV container=docker",
            "VOLUME /var/lib/docker",
            'CMD ["/sbin/rig-init"]',
        ),
        scripts=("rig-init",),
    )


MARIADB = Recipe(
    name="mariadb",
    release="bookworm",
    packages="mariadb-server",
    hooks=(
        'rm -rf "$1/var/lib/mysql" "$1/usr/share/mysql/test" "$1/usr/bin/mariadb-test"*',
        # 999 as in the official image.
        'chroot "$1" groupmod -g 999 mysql',
        'chroot "$1" usermod -u 999 mysql',
        'mkdir "$1/var/lib/mysql" && chroot "$1" chown mysql:mysql /var/lib/mysql',
    ),
    changes=("VOLUME /var/lib/mysql", 'ENTRYPOINT ["/sbin/mariadb-entrypoint"]', 'CMD ["mariadbd"]', "EXPOSE 3306"),
    scripts=("mariadb-entrypoint",),
)


def _sources(release: str) -> list[str]:
    """One-line apt sources for RELEASE, from the machine's own; empty when it is no Debian machine (mmdebstrap then
    knows where Debian is)."""
    shown = subprocess.run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(ORIGIN)",
            "Created-By: Packages",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = set()
    for line in shown.splitlines():
        uri, suite, component, origin = line.split("|")
        found = re.fullmatch(r"[a-z]+((?:-updates|-security)?)", suite)
        if origin == "Debian" and component == "main" and found:
            lines.add(f"deb {uri} {release}{found.group(1)} main")
    return sorted(lines)


def _build(engine: Engine, recipe: Recipe) -> None:
    hooks = [f"--customize-hook={_install(script, '/sbin')}" for script in recipe.scripts]
    hooks += [f"--customize-hook={hook}" for hook in recipe.hooks]
    command = [
        "mmdebstrap",
        "--quiet",
        "--variant=apt",
        "--format=tar",
        *_APT,
        *_SLIM,
        f"--include={recipe.packages}",
        *hooks,
        recipe.release,
        "-",
        *_sources(recipe.release),
    ]
    log = RIG / f"build-{recipe.name}.log"
    changes = [part for change in recipe.changes for part in ("-c", change)]
    # A session of its own: when its reader goes away, mmdebstrap sends SIGHUP to its whole process group.
    with (
        open(log, "wb") as errors,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, start_new_session=True) as build,
    ):
        done = engine.docker(
            "import", *changes, "-", recipe.tag, stdin=build.stdout, timeout=BUILD_SECONDS, check=False
        )
    if build.returncode != 0 or done.returncode != 0:
        engine.docker("rmi", recipe.tag, check=False)
        raise RigError(f"could not build {recipe.tag}: {done.stderr.decode(errors='replace').strip()}; see {log}")
    _forget_older(engine, recipe)


def _forget_older(engine: Engine, recipe: Recipe) -> None:
    """Remove images of earlier recipes of the same name; one that a host still uses stays."""
    listed = engine.text("image", "ls", "hostseal-rig", "--format", "{{.Repository}}:{{.Tag}}").split()
    for tag in listed:
        if tag.startswith(f"hostseal-rig:{recipe.name}-") and tag != recipe.tag:
            engine.docker("rmi", tag, check=False)


def built(engine: Engine, recipe: Recipe) -> str:
    """The tag of RECIPE's image in the outer engine; built when it is missing (a minute or two)."""
    with locked(f"build-{recipe.name}"):
        if not engine.has_image(recipe.tag):
            _build(engine, recipe)
    return recipe.tag


def forget(engine: Engine) -> None:
    """Remove the rig's images from the engine."""
    for tag in engine.text("image", "ls", "hostseal-rig", "--format", "{{.Repository}}:{{.Tag}}").split():
        engine.docker("rmi", tag, check=False)
