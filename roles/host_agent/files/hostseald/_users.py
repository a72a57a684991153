# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who uses a volume: counts per mount ID, on the tmpfs /run so that they live as long as the containers can.

Docker's IDs are random per container start. `docker cp` mounts again with the ID of the running container, so an ID has
a count and is no mere member of a set. Podman and systemd count by themselves: they mount before the first of their
users and unmount after the last, and have the volume or have it not.
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Iterable

from ._files import names, remove_file, write_json

PODMAN = "podman"
SYSTEMD = "systemd"
_DOCKER_ID = re.compile(r"[0-9a-f]{64}")


def engine_of(user: str) -> str | None:
    """The engine that can tell whether USER still uses a volume."""
    if user == PODMAN:
        return "podman"
    return "docker" if _DOCKER_ID.fullmatch(user) else None


def now() -> float:
    """Seconds since boot: the same clock before and after a restart of the agent."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Users:
    """Counts, written to FOLDER before a caller goes on. Callers hold the lock of the volume they change."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._counts: dict[str, dict[str, int]] = {}
        self._changed_at: dict[str, float] = {}
        for volume in names(folder):
            try:
                with open(os.path.join(folder, volume), encoding="utf-8") as file:
                    saved = json.load(file)
                self._counts[volume] = {str(user): int(count) for user, count in saved["ids"].items()}
                self._changed_at[volume] = float(saved["changed_at"])
            except (ValueError, TypeError, KeyError, AttributeError):
                # Never written by us. Somebody may be using it: keep it until the next boot.
                self._counts[volume] = {"unreadable": 1}
                self._changed_at[volume] = now()

    def volumes(self) -> list[str]:
        """Volumes with at least one user."""
        with self._lock:
            return sorted(self._counts)

    def ids(self, volume: str) -> dict[str, int]:
        """The count of each ID."""
        with self._lock:
            return dict(self._counts.get(volume, {}))

    def total(self, volume: str) -> int:
        """All uses of a volume."""
        return sum(self.ids(volume).values())

    def changed_at(self, volume: str) -> float:
        """When a count of VOLUME last changed, in seconds since boot."""
        with self._lock:
            return self._changed_at.get(volume, 0.0)

    def add(self, volume: str, user: str) -> None:
        """One more use. OSError: it is not counted."""
        counts = self.ids(volume)
        counts[user] = 1 if user in (PODMAN, SYSTEMD) else counts.get(user, 0) + 1
        self._save(volume, counts)

    def drop(self, volume: str, user: str) -> bool:
        """One use less; False when this user has none."""
        counts = self.ids(volume)
        if user not in counts:
            return False
        counts[user] -= 1
        self._save(volume, {user: count for user, count in counts.items() if count})
        return True

    def forget(self, volume: str, users: Iterable[str]) -> None:
        """Take USERS off whatever their count."""
        gone = set(users)
        self._save(volume, {user: count for user, count in self.ids(volume).items() if user not in gone})

    def _save(self, volume: str, counts: dict[str, int]) -> None:
        path = os.path.join(self._folder, volume)
        changed_at = now()
        if counts:
            write_json(path, {"ids": counts, "changed_at": changed_at})
        else:
            remove_file(path)
        with self._lock:
            if counts:
                self._counts[volume] = counts
                self._changed_at[volume] = changed_at
            else:
                self._counts.pop(volume, None)
                self._changed_at.pop(volume, None)
