# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Who may have a mount that is for certain containers alone, or that gives each its own Vault token.

All of it happens before a Mount takes its volume's lock: Docker and Vault may take their time, SECONDS_TO_LIST and
SECONDS_TO_ASK at most.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ._alerts import Alerts
from ._audit import Audit
from ._bridge_client import BridgeClient
from ._docker_client import DockerClient, DockerError
from ._envelope import Statement
from ._jobs import Jobs
from ._model import HostsealError
from ._starts import NotGenuineError, Seen
from ._users import PODMAN, SYSTEMD

_POLL_SECONDS = 1.0
_LONGEST_PAUSE_SECONDS = 30.0


@dataclass(frozen=True)
class Permit:
    """What a Mount may show. WAITING: nothing yet. ANSWER is the bridge's, CONTAINER who gets its token.

    LEAKED are users of the volume of which Docker knows no more.
    """

    statement: Statement
    waiting: bool = False
    container: str = ""
    answer: dict[str, Any] | None = None
    leaked: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Permit({self.statement.volume!r})"


def is_guarded(statement: Statement | None) -> bool:
    """Whether a mount is for certain containers alone."""
    return statement is not None and (statement.vault_token is not None or statement.options.match is not None)


class Guard:
    """Asks Docker's helper and the bridge."""

    def __init__(self, docker: DockerClient, bridge: BridgeClient, jobs: Jobs, audit: Audit, alerts: Alerts) -> None:
        self._docker = docker
        self._bridge = bridge
        self._jobs = jobs
        self._audit = audit
        self._alerts = alerts
        self._busy: set[str] = set()
        self._looking: set[str] = set()
        self._lock = threading.Lock()

    @contextmanager
    def turn(self, volume: str) -> Iterator[None]:
        """One Mount at a time: a second one is refused, not held up."""
        with self._lock:
            busy = volume in self._busy
            self._busy.add(volume)
        if busy:
            self._alerts.give("several", {"volume": volume})
            raise NotGenuineError("another container is being started with it at this moment")
        try:
            yield
        finally:
            with self._lock:
                self._busy.discard(volume)

    def permit(self, statement: Statement, user: str, users: dict[str, int], shown: bool) -> Permit | None:
        """Let USER have a mount that USERS have already; None when there is nothing new to give.

        SHOWN is whether its files are there, or are waited for.
        """
        exclusive = statement.vault_token is not None
        if user in (PODMAN, SYSTEMD):
            raise NotGenuineError(
                "it is for certain containers alone (match, vault_token), which only Docker can tell apart: give Podman"
                " and services a mount without"
            )
        others = tuple(sorted(set(users) - {user}))
        if exclusive and not {PODMAN, SYSTEMD}.isdisjoint(others):
            raise NotGenuineError("Podman or a service has it, from before it gave tokens: end that first")
        try:
            seen = Seen(self._docker, statement)
        except DockerError as error:
            if user in users and shown:
                return None
            if statement.options.while_booting == "refuse" or (exclusive and others):
                raise NotGenuineError(f"Docker can't be asked who is being started ({error})") from None
            return Permit(statement, waiting=True)
        if user in users and shown and seen.is_running():
            return None  # `docker cp` mounts again with the ID of a container that runs
        if exclusive and others and seen.is_running():
            self._alerts.give("several", {"volume": statement.volume, "id": user, "users": list(others)})
            raise NotGenuineError("a container runs with it, and each of its tokens is for one container alone")
        container = seen.starting()
        answer = self._token(statement)
        return Permit(statement, container=container["name"], answer=answer, leaked=others if exclusive else ())

    def _token(self, statement: Statement) -> dict[str, Any] | None:
        if statement.vault_token is None:
            return None
        return self._bridge.token(statement.environment, statement.mount, statement.vault_token)

    def look_for(
        self, volume: str, find: Callable[[], tuple[Statement, int] | None], show: Callable[[Permit], None]
    ) -> None:
        """SHOW a VOLUME that waits, as soon as Docker tells whose it is.

        FIND gives its statement and the number of its users, None when it waits no more.
        """
        with self._lock:
            if volume in self._looking:
                return
            self._looking.add(volume)
        pause, told = _POLL_SECONDS, ""

        def look() -> float | None:
            nonlocal pause, told
            with self._lock:
                self._looking.discard(volume)
            found = find()  # without the lock: it takes the volume's, whose holders come here
            with self._lock:
                if found is None or volume in self._looking:
                    return None
                self._looking.add(volume)
            statement, users = found
            try:
                container = Seen(self._docker, statement).started(users)
                if container is None:
                    return _POLL_SECONDS
                show(Permit(statement, container=container["name"], answer=self._token(statement)))
                return 0.0
            except DockerError:
                return _POLL_SECONDS
            except (HostsealError, OSError) as error:
                # What is not genuine now may be so when others have ended; Vault may come back.
                reason = str(error) if isinstance(error, HostsealError) else str(error.strerror)
                if reason != told:
                    told = reason
                    self._audit.write("refusal", {"what": "mount", "volume": volume, "reason": reason})
                pause = min(_LONGEST_PAUSE_SECONDS, 2 * pause)
                return pause

        self._jobs.put(0, look)
