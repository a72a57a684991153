# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A lock per volume."""

from __future__ import annotations

import threading


class Locks:
    """Call it with a name for that name's lock."""

    def __init__(self) -> None:
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def __call__(self, volume: str) -> threading.Lock:
        with self._lock:
            return self._locks.setdefault(volume, threading.Lock())
