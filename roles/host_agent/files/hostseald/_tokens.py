# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The wrapped tokens that containers have, from their start to their end, across restarts of the agent.

What is known of a volume's token lies in a file on the same tmpfs as the files of secrets, as it holds the token: it is
put into the files again when the mount's secrets change, and asked about shortly before it expires. When the container
ends, the token inside is revoked by its accessor, again and again until Vault has done it.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from ._alerts import Alerts
from ._audit import Audit
from ._bridge_client import BridgeClient
from ._envelope import File, Statement
from ._files import names, remove_file, write_json
from ._jobs import Jobs
from ._model import HostsealError
from ._reports import Reports
from ._users import now

_FIRST_RETRY_SECONDS = 1.0
_LONGEST_RETRY_SECONDS = 60.0
# So long it is tried to revoke a token; no token of a sensible role lives longer.
_GIVE_UP_SECONDS = 7 * 86400.0


@dataclass
class Record:
    """One volume's. TOKEN and what follows is of the container that has it now; times in seconds since boot.

    WAITING: the container runs, and gets its files as soon as Docker tells who it is. ENDED: accessors of tokens whose
    containers have ended, with the time since when.
    """

    waiting: bool = False
    role: str = ""
    container: str = ""
    token: str = ""
    accessor: str = ""
    expires: float = 0.0
    check: float = 0.0
    told: list[str] = field(default_factory=list)
    ended: dict[str, float] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Record({self.role!r})"


class Tokens:
    """Files below ROOT/.tokens. Callers hold the lock of the volume they change."""

    def __init__(self, root: str, bridge: BridgeClient, jobs: Jobs, audit: Audit, alerts: Alerts) -> None:
        self._folder = os.path.join(root, ".tokens")
        self._bridge = bridge
        self._jobs = jobs
        self._audit = audit
        self._alerts = alerts
        self._reports = Reports(root, self._reported)
        self._lock = threading.Lock()
        self._records: dict[str, Record] = {}
        self._revoking: set[str] = set()

    def load(self) -> None:
        """Read what the agent before has left, and go on revoking."""
        with suppress(FileNotFoundError):
            for volume in names(self._folder):
                path = os.path.join(self._folder, volume)
                try:
                    with open(path, encoding="utf-8") as file:
                        record = Record(**json.load(file))
                except (ValueError, TypeError):  # never written by us
                    remove_file(path)
                    continue
                self._records[volume] = record
                self._revoke(volume, record.ended)

    def volumes(self) -> list[str]:
        """Volumes of which something is known."""
        with self._lock:
            return sorted(self._records)

    def is_waiting(self, volume: str) -> bool:
        """Whether the files of VOLUME are held back."""
        with self._lock:
            return volume in self._records and self._records[volume].waiting

    def wait(self, volume: str) -> None:
        """Hold the files of VOLUME back."""
        self._change(volume, waiting=True)

    def keep(self, volume: str, role: str, container: str, answer: dict[str, Any]) -> None:
        """The container of VOLUME gets the token in the bridge's ANSWER; an older one is ended. OSError: it is not kept."""
        seconds = float(answer["seconds"])
        older = self._ended(volume)
        self._change(
            volume,
            role=role,
            container=container,
            token=answer["token"],
            accessor=answer["accessor"],
            expires=now() + seconds,
            check=now() + seconds - max(1.5, min(10.0, seconds / 10)),
            told=[],
            ended=older,
        )
        self._revoke(volume, older)

    def refuse(self, volume: str, answer: dict[str, Any] | None) -> None:
        """Nobody gets the token in ANSWER."""
        if answer is not None:
            self._revoke(volume, {answer["accessor"]: now()})

    def open(self, volume: str) -> None:
        """VOLUME's directory is there: listen for reports, and look after its token."""
        with self._lock:
            record = self._records.get(volume)
        if record is None or not record.token:
            return
        self._reports.open(volume)
        if "checked" not in record.told:
            self._jobs.put(max(0.0, record.check - now()), self._check(volume, record.token))

    def settled(self, volume: str) -> None:
        """The files of VOLUME are held back no more."""
        if self.is_waiting(volume):
            self._change(volume, waiting=False)

    def file(self, statement: Statement) -> list[File]:
        """The file with the token that the container of a mount has."""
        wanted = statement.vault_token
        with self._lock:
            record = self._records.get(statement.volume)
        if wanted is None or record is None or not record.token or record.role != wanted.role:
            return []
        return [File(wanted.target, wanted.uid, wanted.gid, wanted.mode, record.token.encode())]

    def end(self, volume: str, held: bool = False) -> None:
        """The container of VOLUME has ended, or is to lose what it has (HELD): revoke it."""
        self._reports.close(volume)
        with self._lock:
            if volume not in self._records:
                return
        ended = self._ended(volume)
        with self._lock:
            self._records[volume] = Record(waiting=held and self._records[volume].waiting, ended=ended)
        with suppress(OSError):  # when the tmpfs is full, only this process remembers it
            self._save(volume)
        self._revoke(volume, ended)

    def _ended(self, volume: str) -> dict[str, float]:
        """Accessors to revoke when the present token has ended too."""
        with self._lock:
            record = self._records.get(volume, Record())
            return {**record.ended, **({record.accessor: now()} if record.accessor else {})}

    def _revoke(self, volume: str, accessors: dict[str, float]) -> None:
        with self._lock:
            new = [accessor for accessor in accessors if accessor not in self._revoking]
            self._revoking.update(new)
        for accessor in new:
            self._jobs.put(0, self._revocation(volume, accessor, accessors[accessor]))

    # -- in the background ------------------------------------------------------------------------------------------

    def _revocation(self, volume: str, accessor: str, since: float) -> Callable[[], float | None]:
        pause, told = _FIRST_RETRY_SECONDS, ""

        def revoke() -> float | None:
            nonlocal pause, told
            try:
                self._bridge.end(accessor)
                self._audit.write("token_end", {"volume": volume, "accessor": accessor})
            except HostsealError as error:
                if str(error) != told:
                    told = str(error)
                    details = {"what": "token_end", "volume": volume, "accessor": accessor, "reason": str(error)}
                    self._audit.write("refusal", details)
                if now() - since < _GIVE_UP_SECONDS:
                    pause = min(_LONGEST_RETRY_SECONDS, 2 * pause)
                    return pause
            with self._lock:
                self._revoking.discard(accessor)
                record = self._records.get(volume)
                if record is not None:
                    record.ended.pop(accessor, None)
            with suppress(OSError):
                self._save(volume)
            return None

        return revoke

    def _check(self, volume: str, token: str) -> Callable[[], float | None]:
        def check() -> float | None:
            with self._lock:
                record = self._records.get(volume)
                if record is None or record.token != token:
                    return None
            try:
                word = "used" if self._bridge.is_used(token) else "unused"
            except HostsealError as error:
                if now() < record.expires - 1.0:
                    return 0.5
                self._audit.write("refusal", {"what": "token_lookup", "volume": volume, "reason": str(error)})
                return None
            if self._tell_once(volume, token, "checked") and word == "unused":
                self._tell_once(volume, token, "unused")
                self._alerts.give("unused", self._details(volume, record))
            return None

        return check

    def _reported(self, volume: str, word: str) -> None:
        with self._lock:
            record = self._records.get(volume)
        # After an alert that nobody had used it in time, that it is too late is no news.
        if record is None or not record.token or "unused" in record.told:
            return
        if self._tell_once(volume, record.token, word):
            self._alerts.give(word, self._details(volume, record))

    @staticmethod
    def _details(volume: str, record: Record) -> dict[str, Any]:
        return {"volume": volume, "role": record.role, "container": record.container, "accessor": record.accessor}

    def _tell_once(self, volume: str, token: str, word: str) -> bool:
        """Whether WORD is news of a token that a container has."""
        with self._lock:
            record = self._records.get(volume)
            if record is None or record.token != token or word in record.told:
                return False
            record.told.append(word)
        with suppress(OSError):
            self._save(volume)
        return True

    # -- files ------------------------------------------------------------------------------------------------------

    def _change(self, volume: str, **members: Any) -> None:
        with self._lock:
            before = self._records.get(volume, Record())
            self._records[volume] = Record(**{**asdict(before), **members})
        try:
            self._save(volume)
        except OSError:
            with self._lock:
                self._records[volume] = before
            raise

    def _save(self, volume: str) -> None:
        """Write what is known of VOLUME; the last who saves has the newest."""
        with self._lock:
            record = self._records.get(volume)
            path = os.path.join(self._folder, volume)
            if record is None or record == Record():
                self._records.pop(volume, None)
                with suppress(FileNotFoundError):
                    remove_file(path)
                return
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            write_json(path, asdict(record))
