# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What containers report of their token: a datagram socket ``..report`` in each volume that has one.

A read-only bind does not keep a process from sending to a socket. Only the containers of a volume reach it, so a report is
about their own token; what it says is one of a few words.
"""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Callable

from ._files import remove_file
from ._volumes import REPORT

WORDS = ("used", "foreign")


class Reports:
    """Calls HANDLER(volume, word) for what comes, from one thread that begins with the first socket."""

    def __init__(self, root: str, handler: Callable[[str, str], None]) -> None:
        self._root = root
        self._handler = handler
        self._lock = threading.Lock()
        self._poll: select.epoll | None = None
        self._sockets: dict[str, socket.socket] = {}

    def open(self, volume: str) -> None:
        """Listen in VOLUME, whose directory is there; an older socket in it is replaced."""
        self.close(volume)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        folder = os.open(os.path.join(self._root, volume), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # By the descriptor: an address has 107 bytes, and names of volumes are longer.
            place = f"/proc/self/fd/{folder}/{REPORT}"
            remove_file(place)
            listener.bind(place)
            os.chmod(place, 0o666)  # noqa: S103 - for any user in the container; its directory's parent is 0700
        except OSError:
            listener.close()
            raise
        finally:
            os.close(folder)
        with self._lock:
            self._sockets[volume] = listener
            if self._poll is None:
                self._poll = select.epoll()
                threading.Thread(target=self._run, args=(self._poll,), daemon=True).start()
            self._poll.register(listener, select.EPOLLIN)

    def close(self, volume: str) -> None:
        """Listen no more."""
        with self._lock:
            listener = self._sockets.pop(volume, None)
            if listener is not None:
                listener.close()  # the kernel takes it off the poll

    def _run(self, poll: select.epoll) -> None:
        while True:
            for handle, _event in poll.poll():
                with self._lock:
                    found = [(volume, one) for volume, one in self._sockets.items() if one.fileno() == handle]
                    try:
                        reports = [(volume, one.recv(64)) for volume, one in found]
                    except OSError:
                        continue
                for volume, report in reports:
                    word = report.decode("ascii", "replace")
                    if word in WORDS:
                        self._handler(volume, word)
