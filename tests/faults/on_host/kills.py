# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""kill -9 at every system call by which the agent changes something, in each of its operations.

strace attaches from outside to the agent as its unit runs it, hardening and all, and makes the kernel kill it at the
entry of the Nth call of a kind, which is then not done any more. A first pass without a kill finds out which calls
there are. strace counts calls of a kind per thread, and each request has a thread of its own.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass

from . import agent, containers, invariants
from .result import Result, tried
from .world import ENVIRONMENT, World, progress

CALLS = (
    *("openat", "write", "writev", "pwrite64", "rename", "renameat", "renameat2", "unlink", "unlinkat", "mkdir"),
    *("mkdirat", "rmdir", "symlink", "symlinkat", "fchown", "fchownat", "chmod", "fchmod", "fchmodat", "fsync"),
    *("fdatasync", "ftruncate", "sendto", "sendmsg", "accept4"),
)
MOUNT = "kill"
VOLUME = f"{ENVIRONMENT}.{MOUNT}"
_TRACED = re.compile(r"(?P<tid>[0-9]+) +(?P<call>[a-z0-9_]+)\((?P<rest>.*)")


@dataclass(frozen=True)
class Point:
    """Before the NUMBERth CALL of a thread: of a new one, or of the one that is THREADth when the operation begins."""

    call: str
    number: int
    thread: int | None
    label: str


class Operation:
    """What is cut off. Prepare, do, say what is allowed then, and run again."""

    lingers = 0.0
    watched = False
    removes = False

    def __init__(self, world: World) -> None:
        self.world = world
        self.old = 0
        self.new = 0
        self.text = ""
        self.user = ""

    def prepare(self) -> None:
        """Before each run, with a healthy agent."""
        self.old = self.new = self.world.deliver(MOUNT)
        if self.watched:  # so that no work of this delivery is left for later
            invariants.until_settled(invariants.TMPFS / VOLUME, f"..{self.old}")
            time.sleep(0.05)

    def do(self) -> None:
        raise NotImplementedError

    def allowed(self) -> set[int | None]:
        return {self.old, self.new}

    def again(self) -> None:
        """The next run."""
        self.new = self.world.deliver(MOUNT)


class FirstMount(Operation):
    def do(self) -> None:
        self.user = self.world.user()
        agent.plugin("Mount", VOLUME, self.user)


class SecondMount(FirstMount):
    watched = True


class LastUnmount(FirstMount):
    def prepare(self) -> None:
        super().prepare()
        super().do()

    def do(self) -> None:
        agent.plugin("Unmount", VOLUME, self.user)


class IdleDelivery(Operation):
    def prepare(self) -> None:
        super().prepare()
        self.new, self.text = self.world.envelope(MOUNT)

    def do(self) -> None:
        agent.deliver(VOLUME, self.text)

    def again(self) -> None:
        self.do()


class LiveDelivery(IdleDelivery):
    watched = True
    lingers = 1.3  # the generation before goes a second later


class Removal(Operation):
    watched = True
    removes = True

    def do(self) -> None:
        agent.control("DELETE", f"/v1/mounts/{VOLUME}")

    def allowed(self) -> set[int | None]:
        return {self.old, None}

    def again(self) -> None:
        self.do()
        if left := invariants.volume_in_memory(self.world, VOLUME, None, None):
            raise AssertionError(f"removed: {left}")
        super().again()


class Pinning(Operation):
    both = False

    def do(self) -> None:
        self.both = not self.both
        agent.control("PUT", f"/v1/environments/{ENVIRONMENT}", self.world.key_set(self.both))

    def again(self) -> None:
        self.do()
        super().again()


OPERATIONS: dict[str, type[Operation]] = {
    "first-mount": FirstMount,
    "second-mount": SecondMount,
    "last-unmount": LastUnmount,
    "deliver-live": LiveDelivery,
    "deliver-idle": IdleDelivery,
    "remove-live": Removal,
    "pin": Pinning,
}


class Strace:
    """strace on the agent, with more arguments; on all of its threads or on one that exists."""

    def __init__(self, thread: int | None, *arguments: str) -> None:
        self.pid = agent.pid()
        tasks = sorted(map(int, os.listdir(f"/proc/{self.pid}/task")))
        whom = ["-f", "-p", str(self.pid)] if thread is None else ["-p", str(tasks[thread])]
        self.tasks = tasks
        # No strings in the output, they are secrets; paths are printed all the same.
        self._process = subprocess.Popen(
            ["strace", "-s", "0", "-y", *whom, *arguments], stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
        )
        assert self._process.stderr
        line = self._process.stderr.readline()
        if "attached" not in line:
            raise RuntimeError(f"strace: {line}")
        self.lines: list[str] = []
        self._reader = threading.Thread(target=lambda: self.lines.extend(self._process.stderr or []))
        self._reader.start()

    def end(self) -> list[str]:
        """Let go of the agent, if it lives; the lines traced."""
        if os.path.exists(f"/proc/{self.pid}"):
            self._process.terminate()
        self._process.wait(20)
        self._reader.join()
        return self.lines


def events(lines: list[str], tasks: list[int]) -> list[Point]:
    """The calls that a trace shows, in order; those that change nothing are counted but left out."""
    counted: Counter[tuple[int, str]] = Counter()
    only = tasks[0]
    points = []
    for line in lines:
        text = re.sub(r"^\[pid +([0-9]+)\] ", r"\1 ", line)
        found = _TRACED.match(text if text != line else f"{only} {line}")
        if not found or "resumed" in text[:40]:
            continue
        tid, call = int(found["tid"]), found["call"]
        counted[tid, call] += 1
        if call == "openat" and not re.search(r"O_CREAT|O_TRUNC", found["rest"]):
            continue
        thread = tasks.index(tid) if tid in tasks else None
        what = re.search(r'"([^"]*)"|<([^>]*)>', found["rest"])
        label = re.sub(r"[0-9]{6,}", "N", (what[1] or what[2] or "") if what else "")
        points.append(Point(call, counted[tid, call], thread, f"{call} {label}"))
    return points


def points_of(operation: Operation) -> list[Point]:
    """All points of an operation."""
    operation.prepare()
    strace = Strace(None, "-e", f"trace={','.join(CALLS)}", "-e", "signal=none")
    operation.do()
    time.sleep(max(0.3, operation.lingers))
    found: dict[tuple[str, int, int | None], Point] = {}
    for point in events(strace.end(), strace.tasks):
        found.setdefault((point.call, point.number, point.thread), point)
    operation.again()
    return list(found.values())


def kill(world: World, name: str, most: int | None) -> Result:
    """Kill the agent at each point of the operation NAME, or at MOST of them."""
    operation = OPERATIONS[name](world)
    result = Result(f"kill -9 in {name}")
    agent.restart(**agent.reconciling(0.3, 0.2))
    world.deliver(MOUNT)
    watcher = containers.start(MOUNT, "watcher") if operation.watched else None
    points = points_of(operation)
    world.random.shuffle(points)
    chosen = points[:most]
    progress(f"{len(points)} system calls that change something, {len(chosen)} kills")
    reached: set[str] = set()
    for count, point in enumerate(chosen, start=1):
        where = f"before {point.label} ({point.call} {point.number} of thread {point.thread})"
        killed, completed = _one(operation, point)
        after_fault, after_run = _look(operation, watcher)
        result.note(where, after_fault, after_run)
        result.reached += killed
        result.done += completed
        if killed:
            reached.add(point.label)
        if count % 10 == 0 or after_fault or after_run:
            progress(f"{count}/{len(chosen)} {where}: {after_fault or 'well'}, then {after_run or 'well'}")
    if watcher:
        watcher.remove()
    result.violations += invariants.nobody_left(world)
    agent.control("DELETE", f"/v1/mounts/{VOLUME}")
    result.remark = f"{result.reached} of {len(points)} calls reached"
    return result


def _one(operation: Operation, point: Point) -> tuple[bool, bool]:
    """Whether the agent was killed, and whether the operation was answered all the same."""
    operation.prepare()
    strace = Strace(
        point.thread,
        "-e",
        f"trace={point.call}",
        "-e",
        f"inject={point.call}:signal=KILL:when={point.number}",
    )
    try:
        operation.do()
        answered = True
    except agent.BrokenOff:
        answered = False
    deadline = time.monotonic() + (operation.lingers or 0.2)
    while os.path.exists(f"/proc/{strace.pid}") and time.monotonic() < deadline:
        time.sleep(0.02)
    killed = any("+++ killed by SIGKILL +++" in line for line in strace.end())
    return killed, answered


def _look(operation: Operation, watcher: containers.Watcher | None) -> tuple[list[str], list[str]]:
    """The violations right after the fault, and those after the next run."""
    world = operation.world
    found = tried(lambda: invariants.check(world, {VOLUME: operation.allowed()}))
    if watcher and watcher.blinked() and not operation.removes:
        found.append("a running container saw an empty /run/secrets")
    later = tried(operation.again)
    later += tried(lambda: invariants.check(world, {VOLUME: {operation.new}}))
    if watcher:
        later += tried(lambda: watcher.sees(operation.new))
        if watcher.blinked() and not operation.removes:
            later.append("a running container saw an empty /run/secrets")
    else:
        later += tried(lambda: _starts_with(operation))
        later += invariants.nobody_left(world)
    return found, later + containers.bad()


def _starts_with(operation: Operation) -> list[str]:
    seen = containers.once(MOUNT)
    return [] if seen == operation.new else [f"a container started with {seen}, not {operation.new}"]


def storm(world: World, rounds: int) -> Result:
    """Kills at random moments while Docker starts and stops containers and deliveries come."""
    result = Result("kill -9 while Docker starts and stops containers")
    agent.restart()
    world.deliver(MOUNT)
    watcher = containers.start(MOUNT, "watcher")
    for number in range(rounds):
        stop = threading.Event()
        killer = threading.Thread(target=_kill_at_random, args=(stop, random.Random(world.random.random())))
        killer.start()
        started, refused, other = 0, 0, []
        first = world.sent[VOLUME][0]
        sent = [first]
        for start in range(4):
            generation, text = world.envelope(MOUNT)
            sent.append(generation)
            with suppress(Exception):  # it is cut off
                agent.deliver(VOLUME, text)
            name = f"storm{number}-{start}"
            done = containers.docker(
                *containers.arguments(MOUNT, name, "once"), "--rm", "busybox", "sh", "-c", containers.WATCH, check=False
            )
            started += done.returncode == 0
            # Docker repeats a request that was broken off without its body: that container can't be started.
            refused += done.returncode == 125 and "came again empty" in done.stderr
            if done.returncode not in (0, 125):
                other.append(f"container {name} ended with {done.returncode}: {done.stderr.strip()[-200:]}")
        stop.set()
        killer.join()
        held = agent.status()
        issued = {mount["issued_at"] for mount in held["mounts"] if mount["volume"] == VOLUME}
        # A delivery that was given up waits at the socket, and may be taken while this looks.
        allowed = {number for number in sent if number >= max(issued, default=0)}
        found = other + tried(lambda allowed=allowed: invariants.check(world, {VOLUME: allowed}))
        if not all(first <= issued_at <= generation for issued_at in issued):
            found.append(f"{issued} is held")
        if watcher.blinked():
            found.append("a running container saw an empty /run/secrets")
        newest = world.deliver(MOUNT)
        later = tried(lambda newest=newest: watcher.sees(newest))
        later += tried(lambda newest=newest: [] if containers.once(MOUNT) == newest else ["an old generation"])
        result.note(f"round {number}", found, later + containers.bad())
        result.reached += 1
        result.done += started
        result.remark = f"{result.done} of {result.runs * 4} containers started meanwhile"
        progress(f"round {number + 1}: {started} started, {refused} refused because Docker repeats without a body")
    watcher.remove()
    agent.restart(**agent.reconciling(0.3, 0.2))
    result.violations += invariants.nobody_left(world)
    return result


def _kill_at_random(stop: threading.Event, chance: random.Random) -> None:
    while not stop.wait(chance.uniform(0.1, 2.5)):
        pid = int(agent.systemctl("show", "--property=MainPID", "--value", agent.UNIT))
        if pid:
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue
