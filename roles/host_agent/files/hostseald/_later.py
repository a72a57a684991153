# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Small work that is due a moment later."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Later:
    """Calls WORK(name) SECONDS after the last ask(name), from one thread that ends when nothing is left to do."""

    def __init__(self, seconds: float, work: Callable[[str], None]) -> None:
        self._seconds = seconds
        self._work = work
        self._lock = threading.Lock()
        self._due: dict[str, float] = {}
        self._running = False

    def ask(self, name: str) -> None:
        """Do it for NAME, later."""
        with self._lock:
            self._due.pop(name, None)
            self._due[name] = time.monotonic() + self._seconds  # at the end: the dict is in order of time
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._due:
                    self._running = False
                    return
                name, due = next(iter(self._due.items()))
                wait = due - time.monotonic()
                if wait <= 0:
                    del self._due[name]
            if wait > 0:
                time.sleep(wait)
            else:
                self._work(name)
