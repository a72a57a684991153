# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Work that is due at some time, done by a few threads that are there while there is something to do."""

from __future__ import annotations

import heapq
import itertools
import sys
import threading
import time
from collections.abc import Callable

_AT_A_TIME = 4


class Jobs:
    """WORK returns in how many seconds it wants to be called again, or None."""

    def __init__(self) -> None:
        self._wake = threading.Condition()
        self._numbers = itertools.count()
        self._due: list[tuple[float, int, Callable[[], float | None]]] = []
        self._threads = 0
        self._idle = 0

    def put(self, seconds: float, work: Callable[[], float | None]) -> None:
        """Do WORK in SECONDS."""
        with self._wake:
            heapq.heappush(self._due, (time.monotonic() + seconds, next(self._numbers), work))
            self._see_to_it()

    def _see_to_it(self) -> None:
        """Somebody has to wait for what is due next."""
        if self._idle:
            self._wake.notify()
        elif self._threads < _AT_A_TIME:
            self._threads += 1
            threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            with self._wake:
                while self._due and (wait := self._due[0][0] - time.monotonic()) > 0:
                    self._idle += 1
                    self._wake.wait(wait)
                    self._idle -= 1
                if not self._due:
                    self._threads -= 1
                    return
                work = heapq.heappop(self._due)[2]
                if self._due:
                    self._see_to_it()
            again: float | None = None
            try:
                again = work()
            except Exception as error:
                # Not its text: a library may have put anything into it. The other work goes on.
                sys.stderr.write(f"hostseald: background work failed with {type(error).__name__}\n")
            if again is not None:
                self.put(again, work)
