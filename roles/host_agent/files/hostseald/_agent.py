# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent: its rooms, and who knows whom."""

from __future__ import annotations

from collections.abc import Iterable

from . import VERSION
from ._alerts import Alerts
from ._audit import Audit
from ._bridge_client import BridgeClient
from ._changes import Changes
from ._deliveries import Deliveries
from ._docker_client import DockerClient, PodmanClient
from ._guard import Guard
from ._held import Envelopes
from ._host import Host
from ._jobs import Jobs
from ._keys import Keys
from ._mounts import Mounts
from ._paths import Paths
from ._pull import Pull
from ._reconcile import GAP_SECONDS, QUIET_SECONDS
from ._state import State
from ._status import Status
from ._tokens import Tokens
from ._users import Users
from ._volumes import Volumes


class Agent:
    """What the two APIs ask: MOUNTS and ENVELOPES are for Docker, KEYS, DELIVERIES and STATUS for the control side, PULL for a fetcher."""

    def __init__(
        self,
        paths: Paths,
        host: Host,
        audit: Audit,
        quiet: float = QUIET_SECONDS,
        gap: float = GAP_SECONDS,
        owner_of_zero: tuple[int, int] = (0, 0),
        key_protection: str = "file",
        alerts: bool = False,
        engines: Iterable[str] = ("docker",),
    ) -> None:
        self._host = host
        self._audit = audit
        state, users, jobs = State(paths.state), Users(paths.users), Jobs()
        volumes = Volumes(paths.volumes, paths.published, owner_of_zero)
        docker, podman = DockerClient(paths.docker_helper), PodmanClient(paths.podman_helper)
        asked = {name: client for name, client in (("docker", docker), ("podman", podman)) if name in engines}
        bridge = BridgeClient(paths.bridge)
        alert = Alerts(audit, host.name, paths.alerts if alerts else None)
        changes = Changes(paths.changes, asked.values(), users, paths.services, audit)
        tokens = Tokens(paths.volumes, bridge, jobs, audit, alert)
        guard = Guard(docker, bridge, jobs, audit, alert)
        self.keys = Keys(host, state, audit)
        self.envelopes = Envelopes(state, host)
        self.mounts = Mounts(
            host.name, self.envelopes, volumes, users, tokens, guard, changes, asked, audit, quiet, gap
        )
        self.deliveries = Deliveries(host.name, state, self.keys, self.envelopes, self.mounts, audit)
        self.pull = Pull(host.name, state, self.keys, self.envelopes, self.deliveries, audit, alert)
        self.status = Status(
            host, key_protection, state, self.keys, self.envelopes, self.pull, volumes, users, tokens, changes, asked
        )

    def start(self, pull: bool = False) -> None:
        """Finish what a crash cut off, then begin the background work. PULL: there is a fetcher."""
        held = len(self.envelopes.volumes())
        self._audit.write("start", {"version": VERSION, "kid": self._host.kid, "mounts": held})
        self.mounts.start()
        if pull:
            self.pull.start()
