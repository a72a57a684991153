# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The audit trail: one JSON line per event, to the journal and to a file. Names and versions, never values.

A thread writes, so that a full disk or a stuck journal holds up no Mount; what doesn't fit the queue is counted.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ._envelope import Statement
from ._model import delivery_id

_AT_ONCE = 100


def describe(statement: Statement) -> dict[str, Any]:
    """What an audit line says of an envelope."""
    return {
        "volume": statement.volume,
        "issued_at": statement.issued_at,
        "delivery": delivery_id(statement.host, statement.volume, statement.issued_at),
        "secrets": [{"name": ref.name, "version": ref.version} for ref in statement.secrets],
    }


class Audit:
    """Lines go to PATH, which is opened anew for each batch and so may be rotated away at any time."""

    def __init__(self, path: str, host: str) -> None:
        self._path = path
        self._host = host
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._lost = 0
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], int] = {}
        self._thread = threading.Thread(target=self._write_all, daemon=True)
        self._thread.start()

    def write(self, event: str, details: Mapping[str, Any]) -> None:
        """Queue one line; returns at once."""
        kind = (event, str(details.get("what", "")))
        with self._lock:
            self._counts[kind] = self._counts.get(kind, 0) + 1
        if self._queue.qsize() > 10_000:
            self._lost += 1
            return
        seconds = time.time()
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds * 1000) % 1000:03d}Z"
        line = {"time": when, "host": self._host, "event": event, **details}
        if self._lost:
            line["lost_lines"], self._lost = self._lost, 0
        self._queue.put(json.dumps(line))

    def counts(self) -> dict[tuple[str, str], int]:
        """How many lines there were since the start, by (event, what)."""
        with self._lock:
            return dict(self._counts)

    def close(self, seconds: float) -> None:
        """Write what is queued, for SECONDS at most."""
        self._queue.put(None)
        self._thread.join(seconds)

    def _write_all(self) -> None:
        last = False
        while not last:
            lines: list[str | None] = [self._queue.get()]
            with suppress(queue.Empty):  # what else has come goes with it
                while len(lines) < _AT_ONCE:
                    lines.append(self._queue.get_nowait())
            last = None in lines
            text = "".join(f"{line}\n" for line in lines if line is not None).encode()
            for write in (self._to_journal, self._to_file):
                with suppress(OSError):  # the other one has it
                    write(text)

    @staticmethod
    def _to_journal(text: bytes) -> None:
        sys.stdout.buffer.write(text)
        sys.stdout.buffer.flush()

    def _to_file(self, text: bytes) -> None:
        handle = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        try:
            size = os.fstat(handle).st_size
            if size and os.pread(handle, 1, size - 1) != b"\n":
                text = b"\n" + text  # a power cut left half a line: it must not spoil this one
            written = os.write(handle, text)
            if written < len(text):
                os.ftruncate(handle, size + text.rfind(b"\n", 0, written) + 1)  # the disk is full: whole lines alone
        finally:
            os.close(handle)
