# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What systemd hands over and wants to hear: sd_listen_fds(3) and sd_notify(3)."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def listening_sockets() -> dict[str, socket.socket]:
    """The sockets of socket activation by the base name of their path, like "agent.sock"."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    sockets = [socket.socket(fileno=3 + number) for number in range(int(os.environ.get("LISTEN_FDS", "0")))]
    for passed in sockets:
        passed.set_inheritable(False)
        passed.setblocking(False)
    return {os.path.basename(passed.getsockname()): passed for passed in sockets}


def notify(state: str) -> None:
    """Tell the service manager, for example "READY=1"; nothing happens when there is none."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    # OSError: the manager is away, and the watchdog its business.
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        channel.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)


def watchdog_interval() -> float | None:
    """Seconds between two signs of life, half of what the manager allows; None when it wants none."""
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    allowed = int(os.environ.get("WATCHDOG_USEC", "0"))
    return allowed / 2_000_000 if allowed else None
