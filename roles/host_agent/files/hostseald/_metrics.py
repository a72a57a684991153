# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What Prometheus wants to know, as a file for node_exporter's textfile collector. Names and times, never values.

Ages are left to whoever reads: there are points in time alone, in seconds since 1970, so a file is true for as long as
nothing happens. It is written anew now and then all the same: its own age tells that the agent lives.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from ._files import remove_file, replace_file

_ESCAPES = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Metrics:
    """Writes PATH from the agent's STATUS and the COUNTS of its audit lines by (event, what)."""

    def __init__(
        self,
        path: str,
        status: Callable[[], dict[str, Any]],
        counts: Callable[[], dict[tuple[str, str], int]],
        interval: float,
    ) -> None:
        self._path = path
        self._status = status
        self._counts = counts
        self._interval = interval
        self._started_at = time.time()

    def start(self) -> None:
        """Write it now, and from now on."""
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            # OSError: /run is full. The file's age tells.
            with suppress(OSError):
                replace_file(self._path, self.text().encode(), durable=False, mode=0o644)
            pause.wait(self._interval)

    def text(self) -> str:
        """The file, in Prometheus' text format 0.0.4."""
        status = self._status()
        counts = self._counts()
        events: dict[str, int] = {}
        for (event, _what), count in counts.items():
            events[event] = events.get(event, 0) + count
        refusals = {what: count for (event, what), count in counts.items() if event == "refusal"}
        alerts = {what: count for (event, what), count in counts.items() if event == "alert"}
        agent = {"host": status["host"], "kid": status["kid"], "version": status["version"]}
        page = _Page()
        page.add("hostseal_agent_info", "gauge", "The agent.", [(agent, 1)])
        page.add("hostseal_start_time_seconds", "gauge", "When the agent was started.", [({}, self._started_at)])
        page.add(
            "hostseal_older_keys", "gauge", "Keys of the host that are rotated out.", [({}, len(status["older_keys"]))]
        )
        page.add("hostseal_problems", "gauge", "What somebody should look at.", [({}, _problems(status))])
        page.add("hostseal_events_total", "counter", "Audit lines.", [({"event": key}, n) for key, n in events.items()])
        page.add("hostseal_refusals_total", "counter", "Refusals.", [({"what": key}, n) for key, n in refusals.items()])
        page.add("hostseal_alerts_total", "counter", "Alerts.", [({"what": key}, n) for key, n in alerts.items()])
        tmpfs = status["tmpfs"]
        page.add("hostseal_tmpfs_ok", "gauge", "Whether the memory file system is there.", [({}, int(tmpfs["ok"]))])
        if tmpfs["ok"]:
            page.add("hostseal_tmpfs_size_bytes", "gauge", "Its size.", [({}, tmpfs["size"])])
            page.add("hostseal_tmpfs_free_bytes", "gauge", "Its free space.", [({}, tmpfs["free"])])
        self._add_pull(page, status["pull"])
        self._add_mounts(page, status["mounts"])
        return str(page)

    @staticmethod
    def _add_pull(page: _Page, pull: dict[str, dict[str, Any]]) -> None:
        for name, text, read in _PER_MANIFEST:
            samples = [({"environment": environment}, read(source)) for environment, source in pull.items()]
            page.add(name, "gauge", text, [(labels, value) for labels, value in samples if value is not None])

    @staticmethod
    def _add_mounts(page: _Page, mounts: list[dict[str, Any]]) -> None:
        page.add("hostseal_mounts", "gauge", "Mounts of this host.", [({}, len(mounts))])
        for name, text, read in _PER_MOUNT:
            samples = [({key: mount[key] for key in ("environment", "mount")}, read(mount)) for mount in mounts]
            page.add(name, "gauge", text, [(labels, value) for labels, value in samples if value is not None])
        versions = [
            (
                {
                    "environment": mount["environment"],
                    "mount": mount["mount"],
                    "secret": secret["name"],
                    "target": secret["target"],
                },
                secret["version"],
            )
            for mount in mounts
            for secret in mount["secrets"]
        ]
        page.add("hostseal_secret_version", "gauge", "Version of a secret in a mount.", versions)


def forget_metrics(path: str) -> None:
    """Remove what an agent with metrics left."""
    remove_file(path)


def _problems(status: dict[str, Any]) -> int:
    problems = 0 if status["tmpfs"]["ok"] else 1
    for mount in status["mounts"]:
        problems += not mount["valid"]
        problems += mount["users"] > 0 and not mount["live"]
        problems += bool(mount["last_change"] and mount["last_change"]["reason"])
    for source in status["pull"].values():
        problems += source["expired"] or bool(source["missing"] or source["reason"])
    return problems


def _seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


_PER_MOUNT: tuple[tuple[str, str, Callable[[dict[str, Any]], float | None]], ...] = (
    ("hostseal_mount_issued_timestamp_seconds", "When it was sealed.", lambda mount: _seconds(mount["issued_at"])),
    ("hostseal_mount_expiry_timestamp_seconds", "When it expires.", lambda mount: _seconds(mount["expires_at"])),
    ("hostseal_mount_delivered_timestamp_seconds", "Last delivery.", lambda mount: _seconds(mount["delivered_at"])),
    ("hostseal_mount_valid", "Whether a container can be started with it.", lambda mount: int(mount["valid"])),
    ("hostseal_mount_live", "Whether its files are in memory.", lambda mount: int(mount["live"])),
    ("hostseal_mount_users", "How often Docker has mounted it.", lambda mount: int(mount["users"])),
)
_PER_MANIFEST: tuple[tuple[str, str, Callable[[dict[str, Any]], float | None]], ...] = (
    ("hostseal_manifest_issued_timestamp_seconds", "Newest manifest.", lambda source: _seconds(source["issued_at"])),
    ("hostseal_manifest_expiry_timestamp_seconds", "When it expires.", lambda source: _seconds(source["expires_at"])),
    ("hostseal_manifest_missing", "Envelopes that it names and that are not here.", lambda one: len(one["missing"])),
    ("hostseal_fetch_timestamp_seconds", "When all was fetched last.", lambda source: _seconds(source["fetched_at"])),
)


class _Page:
    def __init__(self) -> None:
        self._lines: list[str] = []

    def add(self, name: str, kind: str, text: str, samples: Iterable[tuple[Mapping[str, str], float]]) -> None:
        self._lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        for labels, value in samples:
            told = ",".join(f'{key}="{label.translate(_ESCAPES)}"' for key, label in labels.items())
            self._lines.append(f"{name}{{{told}}} {value!r}" if told else f"{name} {value!r}")

    def __str__(self) -> str:
        return "".join(line + "\n" for line in self._lines)
