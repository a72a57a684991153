# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from ansible_collections.hostseal.secrets.plugins.modules import agent_file
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _zipapp
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import Action, Result

COLLECTION = Path(__file__).parents[2]


class ActionModule(Action):
    """Build the agent from the collection's sources and send it along with the other files."""

    ARGUMENT_SPEC = agent_file.ARGUMENT_SPEC

    def work(self, options: dict[str, Any]) -> Result:
        agent = _zipapp.build(_zipapp.agent_sources(COLLECTION))
        result = self.run_on_host(
            "hostseal.secrets.agent_file", {**options, "_agent": base64.b64encode(agent).decode()}
        )
        result.pop("invocation", None)  # it holds the whole file
        return result
