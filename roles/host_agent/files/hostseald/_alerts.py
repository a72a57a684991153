# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What somebody should look at now: a line of the audit trail, a count of the metrics, and a file for the host's hook.

The agent has no network and runs no commands: hostseal-alert.path starts another unit when there is a file.
"""

from __future__ import annotations

import itertools
import os
import time
from contextlib import suppress
from typing import Any

from ._audit import Audit
from ._files import names, write_json

_MOST = 1000


class Alerts:
    """Files go to FOLDER, to none without it."""

    def __init__(self, audit: Audit, host: str, folder: str | None) -> None:
        self._audit = audit
        self._host = host
        self._folder = folder
        self._numbers = itertools.count()

    def give(self, what: str, details: dict[str, Any]) -> None:
        """Tell it. WHAT is one word: unused, used, foreign, several or expired."""
        self._audit.write("alert", {"what": what, **details})
        if self._folder is None:
            return
        name = f"{time.time_ns()}-{next(self._numbers)}.json"
        # OSError: /run is full. The audit line is there.
        with suppress(OSError):
            if len(names(self._folder)) < _MOST:
                alert = {"time": int(time.time()), "host": self._host, "alert": what, **details}
                write_json(os.path.join(self._folder, name), alert, mode=0o640)
