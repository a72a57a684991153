# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A callback plugin that writes all it is told, as job event collectors do: results and the tasks' final fields."""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: dump
type: aggregate
short_description: Write every result to the file that HUNT_CALLBACK names
description: For tests.
"""


class CallbackModule(CallbackBase):
    """Every result of every task and loop item."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "dump"

    def _dump(self, event: str, result: Any) -> None:
        told = {"event": event, "result": result._result, "task": result._task_fields, "args": result._task.args}
        with open(os.environ["HUNT_CALLBACK"], "a", encoding="utf-8") as file:
            file.write(json.dumps(told, default=repr) + "\n")

    def v2_runner_on_ok(self, result: Any) -> None:
        self._dump("ok", result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:  # noqa: ARG002 - passed by name
        self._dump("failed", result)

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._dump("skipped", result)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._dump("unreachable", result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        self._dump("item ok", result)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        self._dump("item failed", result)

    def v2_on_file_diff(self, result: Any) -> None:
        self._dump("diff", result)
