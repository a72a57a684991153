# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What happens to containers and services after new secrets are in place: nothing, a signal, or a restart.

A signal is sent at least once, a restart is done at most once, also across restarts of the agent: what is still to do
lies in a file per volume on /run, and a container is noted there before its restart but after its signal.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from ._audit import Audit
from ._docker_client import DockerClient, DockerError, NotAUserError
from ._files import names, remove_file, write_json
from ._model import HostsealError, Options
from ._services import hold_unit
from ._users import SYSTEMD, Users, now

_FIRST_RETRY_SECONDS = 2.0
_LONGEST_RETRY_SECONDS = 60.0
_AT_A_TIME = 8


class Changes:
    """Pending and last change of each volume."""

    def __init__(self, folder: str, engines: Iterable[DockerClient], users: Users, services: str, audit: Audit) -> None:
        self._folder = folder
        self._engines = tuple(engines)
        self._users = users
        self._services = services
        self._audit = audit
        self._wake = threading.Condition()
        self._running: set[str] = set()
        # volume -> {"pending": {"mode", "signal", "issued_at", "due", "handled", "tries"} | None, "last": {...} | None}
        self._records: dict[str, dict[str, Any]] = {}
        for volume in names(folder):
            try:
                with open(os.path.join(folder, volume), encoding="utf-8") as file:
                    record = json.load(file)
                self._records[volume] = {"pending": record["pending"], "last": record["last"]}
            except (ValueError, TypeError, KeyError):
                remove_file(os.path.join(folder, volume))

    def start(self) -> None:
        """Begin to work; nothing happens before."""
        threading.Thread(target=self._run, daemon=True).start()

    def schedule(self, volume: str, options: Options, issued_at: int) -> None:
        """Queue what OPTIONS want, instead of an older change that has not happened yet."""
        pending: dict[str, Any] | None = None
        if options.change_mode != "noop":
            pending = {
                "mode": options.change_mode,
                "signal": options.change_signal,
                "issued_at": issued_at,
                "due": now() + random.uniform(0, options.splay),  # noqa: S311 - spreads load, hides nothing
                "handled": [],
                "tries": 0,
            }
        with self._wake:
            last = self._records.get(volume, {}).get("last")
            if pending or volume in self._records:
                self._save(volume, {"pending": pending, "last": last})
            self._wake.notify()

    def forget(self, volume: str) -> None:
        """The volume is gone."""
        with self._wake:
            self._records.pop(volume, None)
            remove_file(os.path.join(self._folder, volume))

    def status(self, volume: str) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
        """Pending changes (with "in" seconds) and the last one."""
        with self._wake:
            record = self._records.get(volume, {"pending": None, "last": None})
            pending = record["pending"]
            if pending is None:
                return [], record["last"]
            waiting = {
                "mode": pending["mode"],
                "issued_at": pending["issued_at"],
                "in": max(0, round(pending["due"] - now())),
                "tries": pending["tries"],
            }
            return [waiting], record["last"]

    def _save(self, volume: str, record: dict[str, Any]) -> None:
        self._records[volume] = record
        with suppress(OSError):  # when /run is full, it is only remembered by this process
            write_json(os.path.join(self._folder, volume), record)

    def _run(self) -> None:
        while True:
            with self._wake:
                waiting = {
                    volume: record["pending"]["due"]
                    for volume, record in self._records.items()
                    if record["pending"] and volume not in self._running
                }
                first = min(waiting, key=lambda volume: waiting[volume], default=None)
                if first is None or len(self._running) >= _AT_A_TIME:
                    self._wake.wait()
                    continue
                if waiting[first] > now():
                    self._wake.wait(waiting[first] - now())
                    continue
                self._running.add(first)
                pending = self._records[first]["pending"]
            threading.Thread(target=self._perform, args=(first, pending), daemon=True).start()

    def _perform(self, volume: str, pending: dict[str, Any]) -> None:
        reason = None
        try:
            try:
                done = self._act(volume, pending)
            except DockerError as error:
                self._retry(volume, pending, str(error))
                return
            except HostsealError as error:
                done, reason = [], str(error)
            last = {
                "mode": pending["mode"],
                "issued_at": pending["issued_at"],
                "at": int(time.time() * 1000),
                "containers": done,
                "reason": reason,
            }
            with self._wake:
                record = self._records.get(volume)
                if record is not None:
                    newer = record["pending"] if record["pending"] is not pending else None
                    self._save(volume, {"pending": newer, "last": last})
            self._audit.write("change", {"volume": volume, **last})
        finally:
            with self._wake:
                self._running.discard(volume)
                self._wake.notify()

    def _act(self, volume: str, pending: dict[str, Any]) -> list[str]:
        """Signal or restart every running container of VOLUME that is not handled yet; the names of those done now."""
        done = self._tell_services(volume, pending)
        failed = None
        for engine in self._engines:
            try:
                done += self._act_in(engine, volume, pending)
            except DockerError as error:
                failed = error  # the other one may answer
        if failed is not None:
            raise failed
        return done

    def _tell_services(self, volume: str, pending: dict[str, Any]) -> list[str]:
        """Leave word for the services that have VOLUME, see _services; the unit that holds it for them."""
        if SYSTEMD not in self._users.ids(volume) or SYSTEMD in pending["handled"]:
            return []
        asked = {"mode": pending["mode"], "signal": pending["signal"]}
        try:
            write_json(os.path.join(self._services, volume), asked, mode=0o640)
        except OSError as error:
            raise DockerError(f"the services that use it could not be told: {error.strerror}") from None
        self._handled(volume, pending, SYSTEMD)
        return [hold_unit(volume)]

    def _act_in(self, engine: DockerClient, volume: str, pending: dict[str, Any]) -> list[str]:
        done = []
        for container in engine.users([volume])[volume]:
            if container["state"] != "running" or container["id"] in pending["handled"]:
                continue
            try:
                if pending["mode"] == "restart":
                    self._handled(volume, pending, container["id"])
                    engine.restart(volume, container["id"])
                else:
                    engine.signal(volume, container["id"], pending["signal"])
                    self._handled(volume, pending, container["id"])
                done.append(container["name"])
            except NotAUserError:
                continue  # it has ended since, and will start with the new secrets
        return done

    def _handled(self, volume: str, pending: dict[str, Any], container: str) -> None:
        with self._wake:
            pending["handled"].append(container)
            record = self._records.get(volume)
            if record is not None and record["pending"] is pending:
                self._save(volume, record)

    def _retry(self, volume: str, pending: dict[str, Any], reason: str) -> None:
        with self._wake:
            pending["tries"] += 1
            doubled = _FIRST_RETRY_SECONDS * 2 ** min(10, pending["tries"] - 1)
            pending["due"] = now() + min(_LONGEST_RETRY_SECONDS, doubled)
            record = self._records.get(volume)
            if record is not None:
                record["last"] = {
                    "mode": pending["mode"],
                    "issued_at": pending["issued_at"],
                    "at": int(time.time() * 1000),
                    "containers": [],
                    "reason": f"tried {pending['tries']} times: {reason}",
                }
