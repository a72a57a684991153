# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Hands alerts over to the host's command (as JSON on its standard input) and webhook (as the body of a POST).

Each gets three tries; the audit trail and the metrics have the alert whatever becomes of it here.
"""

from __future__ import annotations

import functools
import http.client
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable

from ._files import names, remove_file
from ._model import HostsealError

_SECONDS = 20
_PAUSES = (0.0, 2.0, 10.0)


def hand_over(folder: str, credentials: str) -> None:
    """All alerts in FOLDER, the oldest first; CREDENTIALS has alerts.json with {"command": [...], "webhook": URL or ""}."""
    try:
        with open(os.path.join(credentials, "alerts.json"), encoding="utf-8") as file:
            settings = json.load(file)
        command, webhook = list(settings["command"]), str(settings["webhook"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise HostsealError(f"alerts.json can't be read ({type(error).__name__}): run the role again") from None
    for name in names(folder):
        path = os.path.join(folder, name)
        with open(path, "rb") as file:
            alert = file.read()
        if command and not _tried(functools.partial(_run, command, alert)):
            sys.stderr.write(f"hostseald: the command of alerts failed for {name}\n")
        if webhook and not _tried(functools.partial(_post, webhook, alert)):
            sys.stderr.write(f"hostseald: the webhook of alerts failed for {name}\n")
        remove_file(path)


def _tried(work: Callable[[], bool]) -> bool:
    for pause in _PAUSES:
        time.sleep(pause)
        if work():
            return True
    return False


def _run(command: list[str], alert: bytes) -> bool:
    try:
        return not subprocess.run(command, input=alert, timeout=_SECONDS, check=False).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


def _post(webhook: str, alert: bytes) -> bool:
    # An https URL: the role refuses others.
    request = urllib.request.Request(webhook, alert, {"Content-Type": "application/json"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_SECONDS) as answer:  # noqa: S310
            return bool(answer.status < 300)
    except (OSError, ValueError, http.client.HTTPException):
        return False
