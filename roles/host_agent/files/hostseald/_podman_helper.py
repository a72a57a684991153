# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The Docker helper's sibling for Podman, which speaks Docker's API and one of its own (libpod)."""

from __future__ import annotations

from typing import Any

from ._docker_helper import DockerHelper, GoneError, volumes_of

# Podman answers to this version and all after it.
_LIBPOD = "/v4.0.0/libpod"


class PodmanHelper(DockerHelper):
    """Also tells which volumes Podman has mounted: it counts their users by itself."""

    engine = "Podman"

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._actions["/v1/mounted"] = self._mounted

    def _mounted(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"mounted": [volume for volume in volumes_of(asked) if self._count(volume)]}

    def _count(self, volume: str) -> int:
        try:
            return int(self._ask("GET", f"{_LIBPOD}/volumes/{volume}/json", 4.0)["MountCount"])
        except GoneError:
            return 0
