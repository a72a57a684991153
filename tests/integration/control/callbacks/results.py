# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A callback plugin that writes what callbacks are told of each result, a line of JSON per result."""

from __future__ import annotations

import json
import os
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: results
type: notification
short_description: Write every result to the file that RESULTS names
description: For tests.
"""


class CallbackModule(CallbackBase):
    """Results of tasks, and of the items of loops."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "results"

    def _write(self, result: Any, item: bool = False, failed: bool = False) -> None:
        line = {
            "task": result.task.name,
            "host": result.host.name,
            "item": item,
            "failed": failed,
            "result": result.result,
        }
        with open(os.environ["RESULTS"], "a", encoding="utf-8") as file:
            file.write(json.dumps(line, default=repr) + "\n")

    def v2_runner_on_ok(self, result: Any) -> None:
        self._write(result)

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:  # noqa: ARG002 - passed by name
        self._write(result, failed=True)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        self._write(result, failed=True)

    def v2_runner_on_skipped(self, result: Any) -> None:
        self._write(result)

    def v2_runner_item_on_ok(self, result: Any) -> None:
        self._write(result, item=True)

    def v2_runner_item_on_failed(self, result: Any) -> None:
        self._write(result, item=True, failed=True)
