# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
name: hostseal_trace
type: aggregate
short_description: Write down what a run of the benchmark does
description:
  - Appends one JSON line per task and host with its duration, per module that is run on a host, and per call of a
    backend, to the file that the environment variable C(HOSTSEAL_TRACE) names.
requirements:
  - enabled by C(ANSIBLE_CALLBACKS_ENABLED)
"""

import json
import os
import time
from collections.abc import Callable
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.plugins.callback import CallbackBase
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import Action
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends.localkey import LocalKey


def _write(**event: Any) -> None:
    """One write per line, so that the lines of forks don't mix."""
    line = json.dumps({"at": time.time(), "pid": os.getpid(), **event}) + "\n"
    handle = os.open(os.environ["HOSTSEAL_TRACE"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(handle, line.encode())
    finally:
        os.close(handle)


def _traced(kind: type, name: str, describe: Callable[..., dict[str, Any]]) -> None:
    original = getattr(kind, name)

    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        _write(**describe(self, *arguments, **named))
        return original(self, *arguments, **named)

    setattr(kind, name, call)


# Here in the parent: tasks run in forks of it, which inherit what is replaced.
_traced(
    ActionBase,
    "_execute_module",
    lambda action, module_name=None, *_rest, **_named: {
        "event": "module",
        "module": str(module_name or action._task.action),
        "task": action._task.get_name(),
    },
)
_traced(Action, "open_backend", lambda *_arguments: {"event": "backend", "call": "login", "items": 0})
for _name in ("encrypt", "decrypt", "fingerprint", "sign"):
    _traced(
        LocalKey,
        _name,
        lambda _backend, items, name=_name: {"event": "backend", "call": name, "items": len(items)},
    )
_traced(LocalKey, "verification_keys", lambda _backend: {"event": "backend", "call": "verification_keys", "items": 1})


class CallbackModule(CallbackBase):
    """Writes down how long each task took, and what became of it."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "hostseal_trace"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._began = 0.0

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:  # noqa: ARG002 - passed by name
        self._began = time.monotonic()

    def v2_runner_on_ok(self, result: Any) -> None:
        _write(
            event="task",
            task=result._task.get_name(),
            host=result._host.get_name(),
            seconds=time.monotonic() - self._began,
            changed=bool(result._result.get("changed")),
        )
