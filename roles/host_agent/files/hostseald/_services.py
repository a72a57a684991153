# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Signals or restarts services of the host after a change of the mount that is held for them.

The agent may not talk to systemd. It leaves a file per mount, which starts this; see hostseal-services.path.
"""

from __future__ import annotations

import json
import os
import subprocess

from ._files import names, remove_file
from ._model import HostsealError, check_choice, check_signal, split_volume

_SECONDS = 60


def hold_unit(volume: str) -> str:
    """The unit that services require to have VOLUME."""
    return f"hostseal-hold@{volume}.service"


def change_services(folder: str) -> None:
    """Do what the files in FOLDER ask for. A restart is done at most once, a signal is sent at least once."""
    for volume in names(folder):
        path = os.path.join(folder, volume)
        try:
            split_volume(volume)
            with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
                asked = json.load(file)
            mode = check_choice("change_mode", asked["mode"], ("signal", "restart"))
            signal = check_signal(asked["signal"]) if mode == "signal" else ""
        except (HostsealError, OSError, ValueError, TypeError, KeyError):
            remove_file(path)  # the agent did not write this
            continue
        if mode == "restart":
            remove_file(path)
        for unit in _requiring(volume):
            if mode == "restart":
                _systemctl("try-restart", "--no-block", unit)
            else:
                _systemctl("kill", "--kill-who=main", f"--signal={signal}", unit)
        if mode == "signal":
            remove_file(path)


def _requiring(volume: str) -> list[str]:
    """The running units that need the hold of VOLUME."""
    shown = _systemctl("show", "--property=RequiredBy,BoundBy", "--value", hold_unit(volume)).split()
    return [unit for unit in shown if _systemctl("show", "--property=ActiveState", "--value", unit).strip() == "active"]


def _systemctl(*arguments: str) -> str:
    """What it prints; what it complains about goes to the journal."""
    command = ["/usr/bin/systemctl", *arguments]
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=_SECONDS, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HostsealError(f"systemctl did not do its work ({type(error).__name__})") from None
