# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Whether a Mount belongs to the start of a container that may have what it asks for, as far as Docker's list tells.

Docker's mount IDs say nothing of containers. Whoever holds Docker's socket can make the list say anything.
"""

from __future__ import annotations

from typing import Any

from ._docker_client import DockerClient
from ._envelope import Statement
from ._model import HostsealError

# A container that is being started is not running yet: it was made, has ended, or waits to be started again.
_STARTING = ("created", "restarting", "exited")
_STARTED = ("running", "paused", "restarting")


class NotGenuineError(HostsealError):
    """No container, several, or another one than the mount is for."""


class Seen:
    """What Docker lists of a mount's volume at this moment."""

    def __init__(self, docker: DockerClient, statement: Statement) -> None:
        """DockerError when Docker's helper does not answer: the engine is booting, or down."""
        self._statement = statement
        self._containers = docker.users([statement.volume])[statement.volume]

    def is_running(self) -> bool:
        """Whether a container runs with it."""
        return any(container["state"] in ("running", "paused") for container in self._containers)

    def starting(self) -> dict[str, Any]:
        """The container that is being started with it."""
        return _genuine(self._statement, self._in(_STARTING))

    def started(self, users: int) -> dict[str, Any] | None:
        """The container that was started with it while Docker could not be asked; None while not all USERS are listed."""
        containers = self._in(_STARTED)
        return _genuine(self._statement, containers) if len(containers) >= users else None

    def _in(self, states: tuple[str, ...]) -> list[dict[str, Any]]:
        return [container for container in self._containers if container["state"] in states]


def _genuine(statement: Statement, containers: list[dict[str, Any]]) -> dict[str, Any]:
    """The one of CONTAINERS, or one of several that all match where the mount is not for one alone."""
    names = ", ".join(sorted(container["name"] for container in containers)[:5])
    if not containers:
        raise NotGenuineError(
            "Docker lists no container that is being started with it; where an image has something at the place of the"
            " volume, say volume-nocopy"
        )
    if statement.vault_token is not None and len(containers) > 1:
        raise NotGenuineError(
            f"Docker lists {len(containers)} containers that it could be for ({names}), and each token is for one:"
            " remove those that are not needed, and give each service a mount of its own"
        )
    match = statement.options.match
    for container in containers:
        reason = match.refusal(container["image"], container["image_id"], container["labels"]) if match else None
        if reason is not None:
            raise NotGenuineError(f"container {container['name']} may not have it: {reason}")
    return containers[0]
