# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the agent says no with, and how it speaks of errors."""

from __future__ import annotations

import time

from ._model import HostsealError


class RefusedError(HostsealError):
    """A request is refused, nothing is changed, and the message says why."""


class UnknownMountError(RefusedError):
    """This host has no such mount."""


def error_text(error: Exception) -> str:
    """Our own errors speak for themselves; of the system's only the error number's text and the path are taken."""
    if isinstance(error, OSError):
        return f"{error.strerror} ({error.filename})" if error.filename else str(error.strerror)
    return str(error)


def milliseconds() -> int:
    """Now, since 1970."""
    return int(time.time() * 1000)


def when(at: int) -> str:
    """A time in milliseconds since 1970 for people."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at / 1000))
