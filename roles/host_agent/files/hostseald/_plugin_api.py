# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Docker's volume plugin API, version 1: https://docs.docker.com/engine/extend/plugins_volume/

Errors are answered as {"Err": text}, to Docker with status 200: so the text reaches the user word for word.
"""

from __future__ import annotations

import time
from typing import Any

from ._held import Envelopes
from ._http import HttpError, Request
from ._model import HostsealError
from ._mounts import Mounts
from ._refusals import RefusedError, UnknownMountError
from ._users import PODMAN

MAX_BODY_BYTES = 1 << 20
# Podman's one ID for all its mounts: pseudoCtrID in its libpod/volume_internal_linux.go.
_PODMAN_ID = "2f73349cfc4630255319c6c8dfc1b46a8996ace9d14d8e07563b165915918ec2"


class PluginApi:
    """Docker's requests to method calls."""

    _error_status = 200

    def __init__(self, mounts: Mounts, envelopes: Envelopes) -> None:
        self._mounts = mounts
        self._envelopes = envelopes
        self._actions = {
            "/Plugin.Activate": self._activate,
            "/VolumeDriver.Capabilities": self._capabilities,
            "/VolumeDriver.Create": self._create,
            "/VolumeDriver.Remove": self._remove,
            "/VolumeDriver.Mount": self._mount,
            "/VolumeDriver.Unmount": self._unmount,
            "/VolumeDriver.Path": self._path,
            "/VolumeDriver.Get": self._get,
            "/VolumeDriver.List": self._list,
        }

    def handle(self, request: Request) -> tuple[int, dict[str, Any]]:
        """Answer one request."""
        action = self._actions.get(request.path)
        if action is None or request.method != "POST":
            raise HttpError(404, "there is no such request")
        try:
            return 200, action(request.json())
        except HostsealError as error:
            return self._error_status, {"Err": str(error)}

    def _user(self, asked: dict[str, Any]) -> str:
        """Whose Mount or Unmount it is."""
        return _string(asked, "ID")

    def _activate(self, _asked: dict[str, Any]) -> dict[str, Any]:
        return {"Implements": ["VolumeDriver"]}

    def _capabilities(self, _asked: dict[str, Any]) -> dict[str, Any]:
        return {"Capabilities": {"Scope": "local"}}

    def _create(self, asked: dict[str, Any]) -> dict[str, Any]:
        if asked.get("Opts"):
            raise RefusedError("hostseal: volumes of this driver take no options")
        self._envelopes.known(_string(asked, "Name"))
        return {"Err": ""}

    def _remove(self, asked: dict[str, Any]) -> dict[str, Any]:
        # "docker compose down -v" asks for it. A mount is Ansible's to remove: succeed and delete nothing.
        _string(asked, "Name")
        return {"Err": ""}

    def _mount(self, asked: dict[str, Any]) -> dict[str, Any]:
        user = self._user(asked)
        if user == _PODMAN_ID:
            # Docker would be asked who uses the volume, and would know of nobody.
            raise RefusedError("hostseal: this socket is Docker's: install the agent with podman in hostseal_engines")
        return {"Mountpoint": self._mounts.mount(_string(asked, "Name"), user), "Err": ""}

    def _unmount(self, asked: dict[str, Any]) -> dict[str, Any]:
        self._mounts.unmount(_string(asked, "Name"), self._user(asked))
        return {"Err": ""}

    def _path(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = _string(asked, "Name")
        self._envelopes.known(name)
        return {"Mountpoint": self._mounts.path(name), "Err": ""}

    def _get(self, asked: dict[str, Any]) -> dict[str, Any]:
        name = _string(asked, "Name")
        volume: dict[str, Any]
        try:
            statement = self._envelopes.known(name).statement
        except UnknownMountError:
            if not self._mounts.in_use(name):
                raise RefusedError("no such volume") from None
            # Removed while containers have it. Docker sends no Unmount for a volume that is not there.
            volume = {"Name": name, "Mountpoint": self._mounts.path(name), "Status": {"removed": True}}
            return {"Volume": volume, "Err": ""}
        volume = {"Name": name, "Mountpoint": self._mounts.path(name), "Status": {"damaged": True}}
        if statement is not None:
            volume["CreatedAt"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(statement.issued_at // 1000))
            volume["Status"] = {
                "versions": {ref.name: ref.version for ref in statement.secrets},
                "issued_at": statement.issued_at,
                "expires_at": statement.expires_at,
            }
        return {"Volume": volume, "Err": ""}

    def _list(self, _asked: dict[str, Any]) -> dict[str, Any]:
        volumes = [{"Name": name, "Mountpoint": self._mounts.path(name)} for name in self._envelopes.volumes()]
        return {"Volumes": volumes, "Err": ""}


class PodmanApi(PluginApi):
    """Podman's. It takes every answer of status 200 for a success."""

    _error_status = 500

    def _user(self, _asked: dict[str, Any]) -> str:
        return PODMAN


def _string(asked: dict[str, Any], member: str) -> str:
    value = asked.get(member)
    if not asked:
        # Its client has sent the body to the agent that died, and repeats the request without one.
        raise HttpError(400, "the agent ended in the midst of Docker's request, which came again empty: start it again")
    if not isinstance(value, str) or not value:
        raise HttpError(400, f"{member} is missing")
    return value
