# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where it is measured: a control node's files, and throwaway hosts with the agent."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.hostseal.secrets.plugins.module_utils._model import Mount
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends.localkey import LocalKey
from ansible_collections.hostseal.secrets.plugins.plugin_utils._declaring import Declaration, declare
from ansible_collections.hostseal.secrets.plugins.plugin_utils._sealing import plan, seal
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store

from tests.benchmarks.rows import Sizes
from tests.rig import engine
from tests.rig.engine import RigError
from tests.rig.host import ThrowawayHost, inventory_text
from tests.rig.paths import BUILD, ROOT

BENCH = BUILD / "bench"
RUN = BENCH / "run"
ON_HOST = Path(__file__).parent / "on_host.py"
ENVIRONMENT = "prod"
Play = dict[str, Any]


class BenchError(RuntimeError):
    """Something that was to be measured failed; the text says what."""


@dataclass(frozen=True)
class Trace:
    """What a run of ansible-playbook did: its wall and processor time in seconds, the events of hostseal_trace.

    Processor time is what other work on the machine changes least.
    """

    seconds: float
    cpu_seconds: float
    events: list[dict[str, Any]]

    def task_seconds(self, name: str) -> list[float]:
        """From the start of each task NAME to its result, per host."""
        return [event["seconds"] for event in self.events if event["event"] == "task" and event["task"] == name]

    def changed(self, name: str) -> int:
        """How many hosts' results of the task NAME were changes."""
        return sum(event["changed"] for event in self.events if event["event"] == "task" and event["task"] == name)

    def modules(self, task: str) -> int:
        """How many modules the task ran on hosts."""
        return sum(event["event"] == "module" and event["task"] == task for event in self.events)

    def backend_calls(self) -> Counter[str]:
        """Calls of the backend by method; "login" is opening it."""
        return Counter(event["call"] for event in self.events if event["event"] == "backend")

    def vault_requests(self, most: int = 249) -> int:
        """How many requests the calls are with a backend that takes MOST items in a request."""
        calls = [event["items"] for event in self.events if event["event"] == "backend" and event["call"] != "login"]
        return sum(-(-items // most) for items in calls)


class ControlNode:
    """A store and keys of their own below FOLDER, used by ansible-playbook and, between its runs, by direct calls.

    VARIABLES are more environment variables for ansible-playbook.
    """

    def __init__(self, folder: Path, variables: Mapping[str, str] | None = None) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        self._folder = folder
        self._runs = 0
        self.store_path = folder / "store.db"
        self._environment = {
            "PATH": f"{BUILD / 'venv/bin'}:{os.environ['PATH']}",
            "ANSIBLE_COLLECTIONS_PATH": f"{BUILD / 'sym'}:{BUILD / 'collections'}",
            "ANSIBLE_HOME": str(folder / "ansible"),
            "ANSIBLE_CALLBACK_PLUGINS": str(Path(__file__).parent / "trace"),
            "ANSIBLE_CALLBACKS_ENABLED": "hostseal_trace",
            "ANSIBLE_LOCALHOST_WARNING": "false",
            "ANSIBLE_INVENTORY_UNPARSED_WARNING": "false",
            "ANSIBLE_NOCOLOR": "true",
            "ANSIBLE_PIPELINING": "true",
            "HOSTSEAL_STORE": str(self.store_path),
            "HOSTSEAL_KEY_PATH": str(folder / "keys"),
            **(variables or {}),
        }

    def play(self, plays: Sequence[Play], inventory: str = "", forks: int = 10) -> Trace:
        """Run ansible-playbook; BenchError with the end of its output when it fails."""
        self._runs += 1
        base = self._folder / f"run-{self._runs}"
        trace, output = base.with_suffix(".trace"), base.with_suffix(".out")
        base.with_suffix(".yml").write_text(json.dumps(list(plays)), encoding="utf-8")
        base.with_suffix(".ini").write_text(inventory, encoding="utf-8")
        environment = {**os.environ, **self._environment, "HOSTSEAL_TRACE": str(trace), "ANSIBLE_FORKS": str(forks)}
        command = ["ansible-playbook", "-i", str(base.with_suffix(".ini")), str(base.with_suffix(".yml"))]
        began, spent = time.monotonic(), _children_cpu()
        with output.open("wb") as file:
            done = subprocess.run(
                [str(BUILD / "venv/bin" / command[0]), *command[1:]],
                env=environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                check=False,
            )
        seconds, cpu = time.monotonic() - began, _children_cpu() - spent
        if done.returncode:
            raise BenchError(f"ansible-playbook ended with {done.returncode}:\n{output.read_text()[-3000:]}")
        return Trace(seconds, cpu, [json.loads(line) for line in trace.read_text().splitlines()])

    def declare_environment(self) -> None:
        """A key and the environment."""
        self.play([local_play(task("localkey", name=ENVIRONMENT), task("environment", name=ENVIRONMENT))])

    def open(self) -> tuple[Store, LocalKey]:
        """The store and the backend, for direct calls."""
        return Store(str(self.store_path), create=False), LocalKey(self._folder / "keys", ENVIRONMENT)

    def declare(self, values: Mapping[str, bytes]) -> None:
        """Declare secrets by a direct call; a value that differs makes a new version."""
        declarations = [
            Declaration(name=name, state="present", on_difference="rotate", value=value)
            for name, value in values.items()
        ]
        store, backend = self.open()
        with store, store.transaction() as transaction:
            declare(transaction, ENVIRONMENT, lambda: backend, declarations, False)

    def seal(self, wanted: Sequence[tuple[str, Mount]]) -> dict[str, str]:
        """Seal mounts for one host by a direct call: volume -> envelope."""
        store, backend = self.open()
        with store:
            sealed = seal(store, lambda _environment: backend, plan(store, wanted))
        return {volume: envelope.text for (_host, volume), envelope in sealed.items()}


def _children_cpu() -> float:
    """Seconds of processor time of all children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def task(module: str, **arguments: Any) -> dict[str, Any]:
    """A task with a module of ours, named after it unless there is a `task_name`."""
    name = arguments.pop("task_name", module)
    return {"name": name, f"hostseal.secrets.{module}": arguments}


def patient(task: dict[str, Any]) -> dict[str, Any]:
    """TASK, tried again when it fails: the connection to a throwaway host loses a command's output now and then when
    the machine is busy. Each try is counted as a module call of its own."""
    return {
        "register": "tried",
        **task,
        "until": f"{task.get('register', 'tried')} is success",
        "retries": 3,
        "delay": 1,
    }


def local_play(*tasks: dict[str, Any]) -> Play:
    """A play on the control node."""
    return {"hosts": "localhost", "gather_facts": False, "tasks": list(tasks)}


def mount(name: str, secrets: Sequence[str]) -> Mount:
    """A mount of SECRETS with the defaults."""
    return Mount.from_options({"environment": ENVIRONMENT, "name": name, "secrets": [{"source": s} for s in secrets]})


class AgentHost:
    """A throwaway host with the agent, installed by the role and enrolled, and the control node that did it."""

    def __init__(self, name: str, with_agent: bool = True) -> None:
        # The name of a host is its name in the inventory: a pid would make each run's files differ in nothing else.
        self.machine = ThrowawayHost(engine.ensure(), name)
        self.name = name
        self.machine.start(load=("busybox",))
        self.control = ControlNode(RUN / name)
        self.inventory = inventory_text(self.machine)
        if with_agent:
            self.control.declare_environment()
            self.install_agent()

    def install_agent(self) -> None:
        """Run the role."""
        roles = [{"role": "hostseal.secrets.host_agent", "vars": {"hostseal_environments": [ENVIRONMENT]}}]
        self.control.play([{"hosts": "docker_hosts", "gather_facts": False, "roles": roles}], self.inventory)

    def call(self, command: str, data: Any = None, **arguments: Any) -> Any:
        """Run a command of on_host.py on the host; DATA is for what is too long for ARGUMENTS."""
        source = ON_HOST.read_text(encoding="utf-8")
        argv = ["python3", "-I", "-c", source, command, json.dumps(arguments)]
        try:
            return json.loads(self.machine.run(argv, input=json.dumps(data), timeout=1800).stdout)
        except RigError as error:
            raise BenchError(f"{command} on {self.name}: {error}") from None

    def deliver(self, mounts: Sequence[Mount]) -> None:
        """Seal mounts and hand their envelopes to the agent, as the module does, without Ansible."""
        self.call("deliver", self.control.seal([(self.name, one) for one in mounts]))


class Places:
    """The hosts that measurements share, started when they are first asked for and removed at the end."""

    def __init__(self, sizes: Sizes, stack: contextlib.ExitStack) -> None:
        self.sizes = sizes
        self._stack = stack
        self._hosts: dict[str, AgentHost] = {}

    def host(self, name: str, with_agent: bool = True) -> AgentHost:
        """The host NAME; where the agent is wanted it is on it already."""
        if name not in self._hosts:
            full = f"bench{os.getpid()}-{name}"
            self._stack.callback(lambda: ThrowawayHost(engine.ensure(), full).remove())
            self._hosts[name] = AgentHost(full, with_agent)
        return self._hosts[name]

    def control(self, name: str) -> ControlNode:
        """A control node without hosts."""
        return ControlNode(RUN / name)
