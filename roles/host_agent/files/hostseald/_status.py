# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a person, a module or a metric wants to know of the agent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import VERSION
from ._changes import Changes
from ._docker_client import ENDED, DockerClient
from ._held import Envelopes, Held
from ._host import Host
from ._keys import Keys
from ._model import HostsealError, mode_text, split_volume
from ._pull import Pull
from ._state import State
from ._tokens import Tokens
from ._users import SYSTEMD, Users
from ._volumes import Volumes


class Status:
    """Reads, and changes nothing."""

    def __init__(
        self,
        host: Host,
        key_protection: str,
        state: State,
        keys: Keys,
        envelopes: Envelopes,
        pull: Pull,
        volumes: Volumes,
        users: Users,
        tokens: Tokens,
        changes: Changes,
        engines: Mapping[str, DockerClient],
    ) -> None:
        self._host = host
        self._key_protection = key_protection
        self._state = state
        self._keys = keys
        self._envelopes = envelopes
        self._pull = pull
        self._volumes = volumes
        self._users = users
        self._tokens = tokens
        self._changes = changes
        self._engines = engines

    def read(self, docker: bool, examine: bool = True) -> dict[str, Any]:
        """Everything; with DOCKER also which containers use which mount, by engine.

        Without EXAMINE no envelope is verified, and one that nobody asked for since the start counts as good.
        """
        volumes = self._state.volumes()
        mounts = [
            self._mount(volume, held, examine)
            for volume in volumes
            if (held := self._envelopes.find(volume)) is not None
        ]
        marks = {volume: self._state.saved_mark(volume) for volume in self._state.marks()}
        for mount in mounts:
            if mount["issued_at"] is not None:
                marks[mount["volume"]] = max(marks.get(mount["volume"], 0), mount["issued_at"])
        status: dict[str, Any] = {
            "format": 1,
            "version": VERSION,
            "host": self._host.name,
            "kid": self._host.kid,
            "older_keys": self._keys.older(),
            "key_protection": self._key_protection,
            "tmpfs": self._volumes.status(),
            "environments": {
                environment: {"kids": pin.kids, "issued_at": pin.issued_at}
                for environment, pin in self._state.pins().items()
            },
            "mounts": mounts,
            "marks": marks,
            "pull": self._pull.status(),
        }
        if docker:
            status |= {name: _containers(engine, volumes) for name, engine in self._engines.items()}
        return status

    def _mount(self, volume: str, held: Held, examine: bool) -> dict[str, Any]:
        if examine:
            self._envelopes.examine(volume, held)
        environment, mount = split_volume(volume)
        statement = held.statement
        reason = self._envelopes.why_not(held)
        users = self._users.total(volume)
        pending, last = self._changes.status(volume)
        return {
            "volume": volume,
            "environment": environment,
            "mount": mount,
            "issued_at": statement.issued_at if statement else None,
            "expires_at": statement.expires_at if statement else None,
            "state_digest": statement.state_digest if statement else None,
            "delivered_at": self._state.delivered_at(volume),
            "on_expiry": statement.options.on_expiry if statement else None,
            "owner": statement.options.owner if statement else None,
            "vault_token": statement.vault_token.as_dict() if statement and statement.vault_token else None,
            "waiting": self._tokens.is_waiting(volume),
            "valid": reason is None and statement is not None,
            "reason": reason,
            "secrets": [
                {
                    "name": ref.name,
                    "version": ref.version,
                    "target": ref.target,
                    "uid": ref.uid,
                    "gid": ref.gid,
                    "mode": mode_text(ref.mode),
                }
                for ref in (statement.secrets if statement else ())
            ],
            "live": users > 0 and self._volumes.current(volume) is not None,
            "users": users,
            "held_for_services": SYSTEMD in self._users.ids(volume),
            "pending": pending,
            "last_change": last,
        }


def _containers(engine: DockerClient, volumes: list[str]) -> dict[str, Any]:
    try:
        users = engine.users(volumes)
        shadowed = engine.shadowed(volumes)
    except HostsealError as error:
        return {"ok": False, "reason": str(error), "users": {}, "shadowed": []}
    using = {
        volume: sorted(container["name"] for container in containers if container["state"] not in ENDED)
        for volume, containers in users.items()
    }
    return {
        "ok": True,
        "reason": None,
        "users": {volume: names for volume, names in using.items() if names},
        "shadowed": shadowed,
    }
