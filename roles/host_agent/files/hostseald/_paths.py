# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Where everything lies on a host. Tests put it all below another root."""

from __future__ import annotations

import os


class Paths:
    """Absolute paths below ROOT."""

    def __init__(self, root: str = "/") -> None:
        def at(path: str) -> str:
            return os.path.join(root, path)

        self.state = at("var/lib/hostseal/state")
        self.volumes = at("run/hostseal/volumes")
        self.published = at("var/lib/hostseal/volumes")
        self.users = at("run/hostseal/users")
        self.changes = at("run/hostseal/changes")
        self.metrics = at("run/hostseal/metrics/hostseal.prom")
        self.docker_helper = at("run/hostseal/docker.sock")
        self.docker = at("run/docker.sock")
        self.agent = at("run/hostseal/agent.sock")
        self.podman_helper = at("run/hostseal/podman.sock")
        self.podman = at("run/hostseal/podman-api.sock")
        self.bridge = at("run/hostseal/bridge.sock")
        self.fetch = at("run/hostseal/fetch/agent.sock")
        self.services = at("run/hostseal/services")
        self.alerts = at("run/hostseal/alerts")
        self.audit = at("var/log/hostseal/audit.jsonl")
