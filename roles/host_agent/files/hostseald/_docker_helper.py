# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The second unit: may open Docker's socket, has no key and no state.

It lists who uses volumes of our driver, and signals or restarts one container that does. Nothing else.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
from typing import Any
from urllib.parse import quote, urlencode

from ._http import HttpError, Request
from ._model import HostsealError, check_signal, split_volume

DRIVER = "hostseal"
_CONTAINER = re.compile(r"[0-9a-f]{12,64}")


class GoneError(HttpError):
    """The engine has no such container or volume."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float) -> None:
        super().__init__("docker", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class DockerHelper:
    """Answers the agent's requests with the help of the engine whose socket is at PATH."""

    engine = "Docker"

    def __init__(self, path: str) -> None:
        self._path = path
        self._actions = {
            "/v1/users": self._users,
            "/v1/shadowed": self._shadowed,
            "/v1/signal": self._signal,
            "/v1/restart": self._restart,
        }

    def handle(self, request: Request) -> tuple[int, dict[str, Any]]:
        """One request of the helper's API."""
        action = self._actions.get(request.path)
        if action is None or request.method != "POST":
            raise HttpError(404, "there is no such request")
        try:
            return 200, action(request.json())
        except HostsealError as error:
            raise HttpError(400, str(error)) from None

    def _users(self, asked: dict[str, Any]) -> dict[str, Any]:
        users: dict[str, list[dict[str, Any]]] = {volume: [] for volume in volumes_of(asked)}
        for container in self._containers({"volume": list(users)}) if users else []:
            for volume in _used_by(container) & set(users):
                users[volume].append(
                    {
                        "id": container["Id"],
                        "name": (container.get("Names") or [container["Id"][:12]])[0].lstrip("/"),
                        "state": container["State"],
                        "image": container["Image"],
                        "image_id": container["ImageID"],
                        "labels": container.get("Labels") or {},
                    }
                )
        return {"users": users}

    def _shadowed(self, asked: dict[str, Any]) -> dict[str, Any]:
        ours = set(volumes_of(asked))
        known: list[dict[str, str]] = self._ask("GET", "/volumes", 4.0)["Volumes"] or []
        return {"shadowed": sorted({item["Name"] for item in known if item["Driver"] != DRIVER} & ours)}

    def _signal(self, asked: dict[str, Any]) -> dict[str, Any]:
        container = self._user(asked)
        self._ask("POST", f"/containers/{container}/kill?signal={check_signal(asked.get('signal'))}", 30.0)
        return {}

    def _restart(self, asked: dict[str, Any]) -> dict[str, Any]:
        self._ask("POST", f"/containers/{self._user(asked)}/restart", 140.0)
        return {}

    def _user(self, asked: dict[str, Any]) -> str:
        """The container of a request, when it runs and uses the request's volume of our driver."""
        (volume,) = volumes_of({"volumes": [asked.get("volume")]})
        container = asked.get("container")
        if not isinstance(container, str) or not _CONTAINER.fullmatch(container):
            raise HttpError(400, "that is no container id")
        for found in self._containers({"id": [container]}):
            if found["Id"] == container and found["State"] == "running" and volume in _used_by(found):
                return container
        raise HttpError(409, f"container {container[:12]} does not run or does not use the volume {volume}")

    def _containers(self, filters: dict[str, list[str]]) -> list[dict[str, Any]]:
        query = urlencode({"all": 1, "filters": json.dumps(filters)}, quote_via=quote)
        found: list[dict[str, Any]] = self._ask("GET", f"/containers/json?{query}", 4.0)
        return found

    def _ask(self, method: str, target: str, seconds: float) -> Any:
        """The engine's answer, in its own API version."""
        connection = _UnixConnection(self._path, seconds)
        try:
            connection.request(method, target, headers={"Content-Length": "0"})
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise HttpError(503, f"{self.engine} did not answer ({type(error).__name__})") from None
        finally:
            connection.close()
        if response.status in (404, 409):
            kind = GoneError if response.status == 404 else HttpError
            raise kind(409, f"{self.engine} refused ({response.status}): the container is gone or does not run")
        if response.status >= 300:
            raise HttpError(503, f"{self.engine} answered {response.status}")
        return json.loads(body) if body.strip() else None


def volumes_of(asked: dict[str, Any]) -> list[str]:
    """What a request names; HttpError when these are no volumes of ours."""
    volumes = asked.get("volumes")
    if not isinstance(volumes, list) or not all(isinstance(volume, str) for volume in volumes):
        raise HttpError(400, "volumes is not a list of names")
    for volume in volumes:
        split_volume(volume)
    return volumes


def _used_by(container: dict[str, Any]) -> set[str]:
    """The volumes of our driver that a container uses."""
    return {
        mount["Name"]
        for mount in container.get("Mounts") or []
        if mount.get("Type") == "volume" and mount.get("Driver") == DRIVER
    }
