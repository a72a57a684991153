# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Mends counts that leaked upward: Docker forgot an Unmount, for instance because it was killed.

Outside of any Mount, and never on a guess: a volume's counts are dropped only when Docker, answering in time, listed no
container in any state but exited or dead that uses it, twice, with a gap between, and nothing about the volume changed
meanwhile or shortly before. Only IDs that look like Docker's are dropped: Podman counts for itself.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

from ._docker_client import ENDED, DockerClient
from ._model import HostsealError
from ._users import Users, now

QUIET_SECONDS = 600.0
GAP_SECONDS = 60.0

_DOCKER_ID = re.compile(r"[0-9a-f]{64}")


def looks_like_docker(user: str) -> bool:
    """Whether a mount ID is one that Docker makes."""
    return _DOCKER_ID.fullmatch(user) is not None


class Reconciler:
    """Calls DROP(volume, changed_at) for a volume whose counts are wrong. Has no timer when nothing is live."""

    def __init__(
        self,
        users: Users,
        docker: DockerClient,
        drop: Callable[[str, float], None],
        quiet: float,
        gap: float,
    ) -> None:
        self._users = users
        self._docker = docker
        self._drop = drop
        self._quiet = quiet
        self._gap = gap
        # volume -> (its changed_at, when it was first seen unused)
        self._suspects: dict[str, tuple[float, float]] = {}
        self._live = threading.Event()

    def start(self) -> None:
        """Look at once, then now and then."""
        threading.Thread(target=self._run, daemon=True).start()

    def wake(self) -> None:
        """Something is live now."""
        self._live.set()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            self.check()
            self._live.clear()
            if not self._users.volumes():
                self._live.wait()
            pause.wait(self._gap + 1 if self._suspects else self._quiet)

    def check(self) -> None:
        """One look at all volumes that were quiet long enough."""
        begin = now()
        changed = {volume: self._users.changed_at(volume) for volume in self._users.volumes()}
        quiet = [
            volume
            for volume, changed_at in changed.items()
            if begin - changed_at >= self._quiet and any(map(looks_like_docker, self._users.ids(volume)))
        ]
        self._suspects = {volume: seen for volume, seen in self._suspects.items() if volume in quiet}
        if not quiet:
            return
        try:
            containers = self._docker.users(quiet)
        except HostsealError:
            self._suspects.clear()
            return
        for volume in quiet:
            if any(container["state"] not in ENDED for container in containers[volume]):
                self._suspects.pop(volume, None)
                continue
            changed_at, first_seen = self._suspects.setdefault(volume, (changed[volume], begin))
            if changed_at != changed[volume]:
                self._suspects[volume] = (changed[volume], begin)
            elif begin - first_seen >= self._gap:
                del self._suspects[volume]
                self._drop(volume, changed_at)
