# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Mends counts that leaked upward: Docker forgot an Unmount, for instance because it was killed.

Outside of any Mount, and never on a guess: the counts of an engine for a volume are dropped only when that engine,
answering in time, said that it does not use the volume, twice, with a gap between, and nothing about the volume changed
meanwhile or shortly before. Nobody is asked about other users, and they stay.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from ._docker_client import DockerClient
from ._model import HostsealError
from ._users import Users, engine_of, now

QUIET_SECONDS = 600.0
GAP_SECONDS = 60.0


class Reconciler:
    """Calls DROP(volume, engine, changed_at) when an engine's counts are wrong. Has no timer when nothing is live."""

    def __init__(
        self,
        users: Users,
        engines: Mapping[str, DockerClient],
        drop: Callable[[str, str, float], None],
        quiet: float,
        gap: float,
    ) -> None:
        self._users = users
        self._engines = engines
        self._drop = drop
        self._quiet = quiet
        self._gap = gap
        # For each engine: volume -> (its changed_at, when it was first seen unused)
        self._suspects: dict[str, dict[str, tuple[float, float]]] = {engine: {} for engine in engines}
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
            pause.wait(self._gap + 1 if any(self._suspects.values()) else self._quiet)

    def check(self) -> None:
        """One look at all volumes that were quiet long enough."""
        for engine, client in self._engines.items():
            self._check(engine, client)

    def _check(self, engine: str, client: DockerClient) -> None:
        begin = now()
        changed = {volume: self._users.changed_at(volume) for volume in self._users.volumes()}
        quiet = [
            volume
            for volume, changed_at in changed.items()
            if begin - changed_at >= self._quiet and engine in map(engine_of, self._users.ids(volume))
        ]
        suspects = {volume: seen for volume, seen in self._suspects[engine].items() if volume in quiet}
        self._suspects[engine] = suspects
        if not quiet:
            return
        try:
            unused = client.unused(quiet)
        except HostsealError:
            suspects.clear()
            return
        for volume in quiet:
            if volume not in unused:
                suspects.pop(volume, None)
                continue
            changed_at, first_seen = suspects.setdefault(volume, (changed[volume], begin))
            if changed_at != changed[volume]:
                suspects[volume] = (changed[volume], begin)
            elif begin - first_seen >= self._gap:
                del suspects[volume]
                self._drop(volume, engine, changed_at)
