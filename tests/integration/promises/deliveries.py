# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deliver many envelopes one after another; runs on a host: `python3 -c SOURCE VOLUME KILL < envelopes as JSON`.

Prints the number of each envelope that was accepted. With KILL the agent is killed -9 during every fourth one, at a
random moment; a delivery that it broke off is not repeated.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import subprocess
import sys
import threading
import time


class Connection(http.client.HTTPConnection):
    """To the agent."""

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect("/run/hostseal/agent.sock")


def deliver(volume: str, envelope: str) -> bool:
    """Whether the agent gave a receipt."""
    connection = Connection("localhost")
    try:
        connection.request("PUT", f"/v1/mounts/{volume}", body=envelope)
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return response.status == 200


def kill() -> None:
    """Kill the agent at a moment when a delivery may be in any of its steps, and have it started again."""
    time.sleep(random.uniform(0, 0.06))
    subprocess.run(["systemctl", "kill", "--signal=KILL", "hostseald.service"], check=False)
    subprocess.run(["systemctl", "start", "hostseald.service"], check=False)


def main() -> None:
    volume, with_kill = sys.argv[1:]
    for number, envelope in enumerate(json.load(sys.stdin)):
        killer = threading.Thread(target=kill)
        if with_kill == "kill" and number % 4 == 3:
            killer.start()
        if deliver(volume, envelope):
            print(number, flush=True)
        if killer.ident is not None:
            killer.join()
        time.sleep(0.02)


main()
