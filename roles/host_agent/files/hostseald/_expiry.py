# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Work that is due at a time of day, also when the clock is set forward to it or the machine sleeps through it.

A timer of the kernel's own, timerfd_create(2) on CLOCK_REALTIME with an absolute time: threading's waits count seconds
and know nothing of the clock. Python has it since 3.13 only, so the C library is called.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Callable

_TFD_TIMER_ABSTIME = 1


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long)]


class _Itimerspec(ctypes.Structure):
    _fields_ = [("interval", _Timespec), ("value", _Timespec)]


class Expiry:
    """Calls WORK at the times asked for. It returns when there is more to do, in milliseconds since 1970, or None.

    The timer and its thread begin with the first time asked for, and sleep until it has come.
    """

    def __init__(self, work: Callable[[], int | None]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._timer: int | None = None
        self._next: int | None = None

    def ask(self, when: int | None) -> None:
        """Do it at WHEN, or earlier; None for never."""
        if when is None:
            return
        with self._lock:
            if self._timer is None:
                self._timer = _call("timerfd_create", time.CLOCK_REALTIME, os.O_CLOEXEC)
                threading.Thread(target=self._run, args=(self._timer,), daemon=True).start()
            if self._next is None or when < self._next:
                # A time of 0 would disarm the timer.
                value = _Timespec(max(0, when // 1000), when % 1000 * 1_000_000 or 1)
                spec = _Itimerspec(_Timespec(0, 0), value)
                _call("timerfd_settime", self._timer, _TFD_TIMER_ABSTIME, ctypes.byref(spec), None)
                self._next = when

    def _run(self, timer: int) -> None:
        while True:
            os.read(timer, 8)
            with self._lock:
                self._next = None
            self.ask(self._work())


def _call(function: str, *arguments: object) -> int:
    result = int(getattr(ctypes.CDLL(None, use_errno=True), function)(*arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
