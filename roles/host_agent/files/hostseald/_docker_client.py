# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent's side of the helpers' sockets. Every call has a deadline and may fail.

Podman speaks Docker's API, and its helper the same words.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from ._http import call
from ._model import HostsealError

SECONDS_TO_LIST = 5.0
# Docker itself waits for the container's stop timeout first.
SECONDS_TO_ACT = 150.0
# States in which a container uses no volume any more.
ENDED = ("exited", "dead")


class DockerError(HostsealError):
    """The engine or its helper did not answer; it may later."""


class NotAUserError(HostsealError):
    """The container is gone, not running, or does not use the volume: nothing to do for it."""


class DockerClient:
    """Talks to the helper's socket at PATH."""

    engine = "Docker"

    def __init__(self, path: str) -> None:
        self._path = path

    def users(self, volumes: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """For each volume the containers, in whatever state, that use it: {"id", "name", "state", "image", "image_id", "labels"}."""
        answer = self._call("/v1/users", {"volumes": list(volumes)}, SECONDS_TO_LIST)
        return cast("dict[str, list[dict[str, Any]]]", answer["users"])

    def unused(self, volumes: Sequence[str]) -> set[str]:
        """Those of VOLUMES that no container uses, running or about to."""
        users = self.users(volumes)
        return {volume for volume in volumes if all(container["state"] in ENDED for container in users[volume])}

    def shadowed(self, volumes: Sequence[str]) -> list[str]:
        """Those of VOLUMES whose name the engine knows as another driver's volume."""
        answer = self._call("/v1/shadowed", {"volumes": list(volumes)}, SECONDS_TO_LIST)
        return cast("list[str]", answer["shadowed"])

    def signal(self, volume: str, container: str, signal: str) -> None:
        """Send SIGNAL to a container that uses VOLUME."""
        self._call("/v1/signal", {"volume": volume, "container": container, "signal": signal}, SECONDS_TO_ACT)

    def restart(self, volume: str, container: str) -> None:
        """Restart a container that uses VOLUME."""
        self._call("/v1/restart", {"volume": volume, "container": container}, SECONDS_TO_ACT)

    def _call(self, target: str, payload: dict[str, Any], seconds: float) -> dict[str, Any]:
        try:
            status, answer = call(self._path, "POST", target, payload, seconds)
        except (OSError, ValueError) as error:
            raise DockerError(f"the {self.engine} helper did not answer ({type(error).__name__})") from None
        if status == 409:
            raise NotAUserError(str(answer.get("reason")))
        if status != 200:
            raise DockerError(str(answer.get("reason")))
        return answer


class PodmanClient(DockerClient):
    """The same for Podman."""

    engine = "Podman"

    def unused(self, volumes: Sequence[str]) -> set[str]:
        """Those of VOLUMES that Podman has not mounted.

        Not those without a container that runs: a volume that it has mounted it does not mount again, so that the next
        container would be started with what is there.
        """
        answer = self._call("/v1/mounted", {"volumes": list(volumes)}, SECONDS_TO_LIST)
        return set(volumes) - set(answer["mounted"])
