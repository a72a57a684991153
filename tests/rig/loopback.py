# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ports for servers on loopback."""

from __future__ import annotations

import random
import socket

from tests.rig.engine import RigError

# Below the range for outgoing connections: a port must still be free when a killed server comes back.
_PORTS = range(20000, 32000)


def free_port() -> int:
    """A port that nobody listens on."""
    for port in random.sample(_PORTS, 200):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RigError("no free port on loopback")
