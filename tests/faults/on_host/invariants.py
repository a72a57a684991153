# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What must hold whatever happened. Each function returns the violations it found, in words."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

from . import agent, containers
from .agent import until
from .world import ENVIRONMENT, World, targets

TMPFS = Path("/run/hostseal/volumes")
SECONDS_TO_RECONCILE = 20.0


def check(world: World, allowed: dict[str, set[int | None]]) -> list[str]:
    """The agent is healthy, and of each volume one of its ALLOWED generations is held (None: it has no envelope).

    What is in memory is whole, and of the generation that is held.
    """
    status = agent.status()
    found = containers.bad() + agent.broken_audit_lines()
    if not status["tmpfs"]["ok"]:
        found.append(f"unhealthy: {status['tmpfs']['reason']}")
    if ENVIRONMENT not in status["environments"]:
        found.append("the environment's keys are no longer pinned")
    held = {mount["volume"]: mount for mount in status["mounts"]}
    for volume, generations in allowed.items():
        mount = held.get(volume)
        if mount is None:
            if None not in generations:
                found.append(f"{volume}: its envelope is lost")
        elif not mount["valid"]:
            found.append(f"{volume}: not valid: {mount['reason']}")
        elif mount["issued_at"] not in generations:
            found.append(f"{volume}: {mount['issued_at']} is held, not one of {sorted(filter(None, generations))}")
    for volume in sorted({*held, *os.listdir(TMPFS)}):
        users = held[volume]["users"] if volume in held else None
        issued_at = held[volume]["issued_at"] if volume in held else None
        try:
            found += volume_in_memory(world, volume, users, issued_at)
        except FileNotFoundError:
            if users and any(mount["users"] for mount in agent.status()["mounts"] if mount["volume"] == volume):
                raise  # else the last use ended meanwhile
    return found


def volume_in_memory(world: World, volume: str, users: int | None, issued_at: int | None) -> list[str]:
    """The tmpfs has VOLUME's generation ISSUED_AT whole when it has USERS, else nothing of it (None: has no envelope)."""
    folder = TMPFS / volume
    if volume.startswith(".filler"):
        return []
    if not users:
        left = sorted(str(path.relative_to(TMPFS)) for path in folder.rglob("*")) if folder.exists() else []
        if users is not None and folder.exists():
            left.append(volume)
        return [f"left in memory without a user: {path}" for path in left]
    try:
        shown = os.readlink(folder / "..data")
    except OSError:
        return [f"{volume}: has {users} users and no files"]
    found = []
    if shown != f"..{issued_at}":
        found.append(f"{volume}: {issued_at} is held, {shown} is shown")
    generation = int(shown[2:])
    expected = targets(generation)
    until_settled(folder, shown)
    names = set(os.listdir(folder))
    if names != {"..data", shown, *(target.split("/", maxsplit=1)[0] for target in expected)}:
        found.append(f"{volume}: its directory has {sorted(names)}")
    present = {str(path.relative_to(folder / shown)) for path in (folder / shown).rglob("*") if not path.is_dir()}
    if present != set(expected):
        found.append(f"{volume}: {shown} has {sorted(present)}")
    mount = volume.partition(".")[2]
    for target in present & set(expected):
        file = folder / shown / target
        first, second, *rest = [*file.read_text().split("\n"), ""]
        if first != f"{mount}:{generation}:{target}" or not second.startswith(world.marker) or rest != ["", ""]:
            found.append(f"{volume}: {shown}/{target} is not what was sealed: {first!r}")
        information = file.stat()
        if (stat.S_IMODE(information.st_mode), information.st_uid) != (0o444, 1000):
            found.append(f"{volume}: {shown}/{target} has mode {information.st_mode:o}, owner {information.st_uid}")
    return found


def until_settled(folder: Path, shown: str) -> None:
    """The generation before stays for a second after a swap."""
    for _attempt in range(40):
        if all(name in ("..data", shown) for name in os.listdir(folder) if name.startswith("..")):
            return
        subprocess.run(["sleep", "0.1"], check=True)


def nobody_left(world: World) -> list[str]:
    """No container runs: after the agent has looked, no use is counted and nothing is in memory. And on no disk, ever."""
    try:
        until(lambda: not os.listdir(TMPFS) and not any(_counts()), SECONDS_TO_RECONCILE, "memory is empty")
        found = []
    except TimeoutError:
        left = sorted(str(path.relative_to(TMPFS)) for path in TMPFS.rglob("*"))
        found = [f"left behind after reconciliation: {left}, uses {_counts()}"]
    return found + on_disk(world)


def counts(expected: dict[str, int]) -> list[str]:
    """After the agent has looked, the uses of each volume are those EXPECTED."""

    def wrong() -> dict[str, int]:
        users = {mount["volume"]: mount["users"] for mount in agent.status()["mounts"]}
        return {volume: users.get(volume, 0) for volume in expected if users.get(volume, 0) != expected[volume]}

    try:
        until(lambda: not wrong(), SECONDS_TO_RECONCILE, "the counts are right")
    except TimeoutError:
        return [f"counted {volume}: {count}, not {expected[volume]}" for volume, count in wrong().items()]
    return []


def _counts() -> list[int]:
    return [mount["users"] for mount in agent.status()["mounts"]]


def on_disk(world: World) -> list[str]:
    """Files on a disk that hold the marker."""
    files = agent.files_below("/var/lib/hostseal", "/var/log", "/tmp", "/var/tmp", "/var/lib/docker", "/etc/hostseal")
    marker = world.marker.encode()
    found = []
    for file in files:
        try:
            if os.path.getsize(file) < 64 << 20 and marker in Path(file).read_bytes():
                found.append(f"in clear on disk: {file}")
        except FileNotFoundError:
            continue
    return found
