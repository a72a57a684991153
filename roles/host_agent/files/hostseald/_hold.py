# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What hostseal-hold@ENVIRONMENT.MOUNT.service does: the services that need it are one user of the mount.

systemd counts them, starts the unit before the first and stops it after the last.
"""

from __future__ import annotations

from ._http import call
from ._model import HostsealError, split_volume

# The agent may have to be started for it.
_SECONDS = 60.0


def ask(agent: str, method: str, mount: str) -> None:
    """PUT or DELETE the hold of MOUNT at the socket AGENT; HostsealError when it is not done, with the agent's reason."""
    split_volume(mount)
    try:
        status, answer = call(agent, method, f"/v1/holds/{mount}", {}, _SECONDS)
    except (OSError, ValueError) as error:
        raise HostsealError(f"the agent did not answer ({type(error).__name__})") from None
    if status != 200:
        raise HostsealError(str(answer.get("reason")))
