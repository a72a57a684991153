# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Faults of what the agent stands on: disks, memory, Docker, the clock, its own process's time."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from . import agent, containers, invariants
from .agent import until
from .result import Result, tried
from .world import ENVIRONMENT, World, progress

MOUNT = "fault"
VOLUME = f"{ENVIRONMENT}.{MOUNT}"
PAGE = 4096
STATE = Path("/var/lib/hostseal/state")
CLOCK = Path("/srv/faults/clock")


def _fill(file: Path, pages: int) -> None:
    """Leave PAGES of 4 KiB in the file system of FILE."""
    with file.open("wb", buffering=0) as filler, suppress(OSError):
        while True:
            filler.write(bytes(PAGE))
    with file.open("ab") as filler:
        filler.truncate(max(0, filler.tell() - pages * PAGE))


def _refusal(work: object, *arguments: str) -> str | None:
    """Why the agent refused; None when it did not."""
    try:
        work(*arguments)  # type: ignore[operator]
    except agent.Refused as refused:
        return str(refused)
    return None


def _is_told(reason: str | None) -> list[str]:
    told = reason is None or "No space left on device" in reason
    return [] if told else [f"a full file system is told as: {reason}"]


@contextmanager
def _small_disks() -> Iterator[None]:
    """The agent's directory and its log on file systems of 1 MiB."""
    places = (STATE, agent.AUDIT.parent)
    owner = "uid=$(id -u hostseal),gid=$(id -g hostseal)"
    agent.systemctl("stop", agent.UNIT)
    for place in places:
        _shell(f"cp -a {place} /var/copy; mount -t tmpfs -o size=1m,mode=0700,{owner} tmpfs {place}")
        _shell(f"cp -a /var/copy/. {place}; rm -r /var/copy")
    agent.systemctl("start", agent.UNIT)
    try:
        yield
    finally:
        agent.systemctl("stop", agent.UNIT)
        for place in places:
            _shell(f"rm -f {place}/filler; cp -a {place} /var/copy; umount {place}")
            _shell(f"cp -a /var/copy/. {place}; rm -r /var/copy")
        agent.systemctl("start", agent.UNIT)


def _shell(script: str) -> None:
    subprocess.run(["sh", "-euc", script], check=True)


def full_disk(world: World, rounds: int, step: int) -> Result:
    """Some last pages are free, from none to enough, when an envelope comes, keys are pinned, a mount is taken away."""
    result = Result("full disk of the agent and its log")
    agent.restart()
    _shell(f"mv {agent.AUDIT} {agent.AUDIT}.before")
    world.deliver(MOUNT)
    watcher = containers.start(MOUNT, "watcher")
    with _small_disks():
        for pages in range(0, rounds * step, step):
            old = world.deliver(MOUNT)
            new, text = world.envelope(MOUNT)
            _fill(STATE / "filler", pages)
            _fill(agent.AUDIT.parent / "filler", pages % 2)
            reason = _refusal(agent.deliver, VOLUME, text)
            found = _is_told(reason)
            now = old if reason else new
            found += tried(lambda now=now: invariants.check(world, {VOLUME: {now}}))
            found += tried(lambda now=now: watcher.sees(now))
            found += tried(lambda now=now: _starts_with(now))
            told = _refusal(agent.control, "PUT", f"/v1/environments/{ENVIRONMENT}", world.key_set(False))
            found += _is_told(told)
            gone = _refusal(agent.control, "DELETE", f"/v1/mounts/{VOLUME}")
            found += _is_told(gone)
            found += tried(lambda now=now, gone=gone: watcher.sees(now if gone else 0))
            watcher.blinked()
            for place in (STATE, agent.AUDIT.parent):
                (place / "filler").unlink()
            later = _mended(world, watcher)
            result.note(f"{pages} pages free", found, later)
            result.done += reason is None
            progress(
                f"{pages} pages free: delivery {'refused' if reason else 'accepted'}, "
                f"removal {'refused' if gone else 'done'}"
            )
    watcher.remove()
    result.violations += _end(world)
    result.remark = f"{result.done} deliveries accepted"
    return result


def full_memory(world: World, rounds: int, step: int) -> Result:
    """Some last pages of the tmpfs are free when an envelope comes to running containers, and when one starts."""
    result = Result("full tmpfs")
    agent.restart(**agent.reconciling(0.3, 0.2))
    fillers = [invariants.TMPFS / f".filler{number}" for number in range(2)]
    started = 0
    for pages in range(0, rounds * step, step):
        old = world.deliver(MOUNT)
        watcher = containers.start(MOUNT, "watcher")
        new, text = world.envelope(MOUNT)
        _fill(fillers[0], pages)
        reason = _refusal(agent.deliver, VOLUME, text)
        found = _is_told(reason)
        now = old if reason else new
        found += tried(lambda now=now: invariants.check(world, {VOLUME: {now}}))
        found += tried(lambda now=now, watcher=watcher: watcher.sees(now))
        if watcher.blinked():
            found.append("a running container saw an empty /run/secrets")
        found += tried(lambda now=now: _starts_with(now))
        watcher.remove()
        _fill(fillers[1], pages)
        name = f"full{pages}"
        arguments = containers.arguments(MOUNT, name, "once")
        done = containers.docker(*arguments, "--rm", "busybox", "sh", "-c", containers.WATCH, check=False)
        started += done.returncode == 0
        if done.returncode:
            found += _is_told(done.stderr)
        for filler in fillers:
            filler.unlink(missing_ok=True)
        found += invariants.nobody_left(world) + containers.bad()
        world.deliver(MOUNT)
        watcher = containers.start(MOUNT, "watcher")
        later = _mended(world, watcher)
        watcher.remove()
        result.note(f"{pages} pages free", found, later)
        result.done += reason is None
        progress(
            f"{pages} pages free: delivery {'refused' if reason else 'accepted'}, "
            f"container {'not ' if done.returncode else ''}started"
        )
    result.violations += _end(world)
    result.remark = f"{result.done} deliveries accepted, {started} containers started"
    return result


def no_docker_socket(world: World, rounds: int) -> Result:
    """Docker's socket is away for a while: nothing waits for it, nothing is wiped on a guess, what is due comes later."""
    result = Result("Docker's socket away and back")
    agent.restart(**agent.reconciling(0.3, 0.2))
    docker = Path("/run/docker.sock")
    away = Path("/run/docker.sock.away")
    signals = {"change_mode": "signal", "change_signal": "SIGUSR1"}
    world.deliver(MOUNT, **signals)
    world.deliver("leaked")
    watcher = containers.start(MOUNT, "watcher")
    for number in range(rounds):
        before = watcher.signals()
        docker.rename(away)
        try:
            agent.plugin("Mount", f"{ENVIRONMENT}.leaked", world.user())
            began = time.monotonic()
            new = world.deliver(MOUNT, **signals)
            slow = time.monotonic() - began > 3
            found = ["a delivery waited for Docker"] if slow else []
            found += tried(lambda new=new: watcher.sees(new))
            time.sleep(world.random.uniform(2, 5))
            status = agent.status()
            if status["docker"]["ok"]:
                found.append("the status says that Docker answers")
            users = {mount["volume"]: mount["users"] for mount in status["mounts"]}
            if users[f"{ENVIRONMENT}.leaked"] != 1:
                found.append("a use was dropped on a guess")
            if watcher.signals() != before:
                found.append("a signal came by itself")
        finally:
            away.rename(docker)
        found += tried(lambda new=new: invariants.check(world, {VOLUME: {new}}))
        later = tried(lambda before=before: until(lambda: watcher.signals() > before, 30, "the signal comes") and [])
        later += invariants.counts({f"{ENVIRONMENT}.leaked": 0, VOLUME: 1})
        later += _mended(world, watcher)
        result.note(f"round {number}", found, later)
        progress(f"round {number + 1}")
    watcher.remove()
    agent.control("DELETE", f"/v1/mounts/{ENVIRONMENT}.leaked")
    result.violations += _end(world)
    return result


def docker_restarts(world: World, rounds: int) -> Result:
    """The engine is restarted or killed in the midst of starting containers, with more that it has to bring back."""
    result = Result("dockerd restarted or killed in the midst of mounts")
    agent.restart(**agent.reconciling(8, 2))
    mounts = [f"engine{number}" for number in range(3)]
    for mount in mounts:
        world.deliver(mount)
    watchers = [
        containers.start(mount, f"{mount}-{number}", "--restart", "always") for mount in mounts for number in range(2)
    ]
    for number in range(rounds):
        how = world.random.choice(["restart", "kill"])
        stop = threading.Event()
        starter = threading.Thread(target=_start_many, args=(world.random.choice(mounts), f"more{number}", stop))
        starter.start()
        newest = {mount: world.deliver(mount) for mount in mounts}
        time.sleep(world.random.uniform(0.1, 1.5))
        agent.systemctl("reset-failed", "docker")
        if how == "kill":
            agent.systemctl("kill", "--signal=KILL", "docker")
        else:
            agent.systemctl("restart", "docker")
        for mount in mounts:
            newest[mount] = world.deliver(mount)
        stop.set()
        starter.join()
        until(lambda: containers.docker("info", check=False).returncode == 0, 60, "Docker is back")
        found: list[str] = []
        for watcher in watchers:
            found += tried(lambda watcher=watcher, newest=newest: watcher.sees(newest[watcher.mount], 60))
        allowed = {f"{ENVIRONMENT}.{mount}": {issued_at} for mount, issued_at in newest.items()}
        found += tried(lambda allowed=allowed: invariants.check(world, allowed))
        later: list[str] = []
        for mount in mounts:
            newest[mount] = world.deliver(mount)
            later += tried(lambda mount=mount, newest=newest: _starts_with(newest[mount], mount))
        for watcher in watchers:
            later += tried(lambda watcher=watcher, newest=newest: watcher.sees(newest[watcher.mount]))
        result.note(f"round {number}, {how}", found, later)
        progress(f"round {number + 1}: {how}")
    containers.remove_all()
    result.violations += invariants.nobody_left(world)
    for mount in mounts:
        agent.control("DELETE", f"/v1/mounts/{ENVIRONMENT}.{mount}")
    return result


def _start_many(mount: str, name: str, stop: threading.Event) -> None:
    number = 0
    while not stop.is_set():
        number += 1
        arguments = containers.arguments(mount, f"{name}-{number}", "once")
        containers.docker(*arguments, "--rm", "busybox", "sh", "-c", containers.WATCH, check=False)


def clock_set_back(world: World, rounds: int) -> Result:
    """The agent's clock goes back a day, and forward and back over an expiry, while it runs and over its restart."""
    result = Result("clock set back and forward (the agent's time.time)")
    _set_clock(0)
    program = "/srv/faults/on_host/shifted_clock.py /usr/local/lib/hostseal/hostseald.pyz"
    agent.restart(ExecStart_="", ExecStart=f"/usr/bin/python3 -I {program} agent")
    world.deliver(MOUNT)
    watcher = containers.start(MOUNT, "watcher")
    for number in range(rounds):
        found: list[str] = []
        old = world.sent[VOLUME][1]
        with _clock(-24):
            newest = world.deliver(MOUNT)
            found += tried(lambda newest=newest: watcher.sees(newest))
            if not _refusal(agent.deliver, VOLUME, old):
                found.append("an older envelope is accepted")
            if number % 2:
                agent.systemctl("restart", agent.UNIT)
            found += tried(lambda newest=newest: _starts_with(newest))
            found += tried(lambda newest=newest: invariants.check(world, {VOLUME: {newest}}))
            if (
                agent.control("PUT", f"/v1/mounts/{VOLUME}", world.envelope(MOUNT)[1])["accepted_at"]
                > newest - 3_600_000
            ):
                found.append("its clock was not set back: nothing is shown")
        newest = world.deliver(MOUNT, expires_after="1h")
        with _clock(2):
            done = containers.docker(
                *containers.arguments(MOUNT, "late", "once"), "--rm", "busybox", "true", check=False
            )
            if "expired" not in done.stderr:
                found.append(f"a container starts with what has expired: {done.stderr}")
            found += tried(lambda newest=newest: watcher.sees(newest))
        found += tried(lambda newest=newest: _starts_with(newest))
        later = _mended(world, watcher)
        result.note(f"round {number}", found, later)
        progress(f"round {number + 1}")
    watcher.remove()
    result.violations += _end(world)
    return result


@contextmanager
def _clock(hours: int) -> Iterator[None]:
    """The agent's clock differs by HOURS."""
    _set_clock(hours)
    try:
        yield
    finally:
        _set_clock(0)


def _set_clock(hours: int) -> None:
    new = CLOCK.with_suffix(".new")
    new.write_text(str(hours * 3600))
    new.replace(CLOCK)


def stopped(world: World, rounds: int) -> Result:
    """SIGSTOP of the agent while Docker starts a container; then it goes on, is killed, or the watchdog ends it."""
    result = Result("SIGSTOP of the agent during docker run")
    agent.restart(WatchdogSec="3", **agent.reconciling(0.3, 0.2))
    world.deliver(MOUNT)
    watcher = containers.start(MOUNT, "watcher")
    started = 0
    for number in range(rounds):
        how = ["goes on", "is killed", "watchdog"][number % 3]
        newest = world.deliver(MOUNT)
        pid = agent.pid()
        os.kill(pid, signal.SIGSTOP)
        arguments = containers.arguments(MOUNT, f"stopped{number}", "once")
        with subprocess.Popen(
            ["docker", *arguments, "--rm", "busybox", "sh", "-c", containers.WATCH],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as run:
            time.sleep(world.random.uniform(0.2, 1.5))
            if how != "watchdog":
                os.kill(pid, signal.SIGCONT if how == "goes on" else signal.SIGKILL)
            message = run.communicate(timeout=120)[1]
        started += run.returncode == 0
        found = []
        if run.returncode and (how == "goes on" or "came again empty" not in message):
            found.append(f"{how}: the container did not start: {message.strip()[-300:]}")
        found += tried(lambda newest=newest: invariants.check(world, {VOLUME: {newest}}))
        found += tried(lambda newest=newest: watcher.sees(newest))
        if watcher.blinked():
            found.append("a running container saw an empty /run/secrets")
        result.note(f"round {number}, {how}", found, _mended(world, watcher))
        progress(f"round {number + 1}: {how}: container {'started' if not run.returncode else 'did not start'}")
    watcher.remove()
    result.violations += _end(world)
    result.remark = f"{started} containers started"
    return result


def _starts_with(generation: int, mount: str = MOUNT) -> list[str]:
    seen = containers.once(mount)
    return [] if seen == generation else [f"a container started with {seen}, not {generation}"]


def _mended(world: World, watcher: containers.Watcher) -> list[str]:
    """The next run: what is wrong after it."""
    found: list[str] = []

    def deliver() -> None:
        newest = world.deliver(watcher.mount)
        found.extend(tried(lambda: watcher.sees(newest)))
        found.extend(tried(lambda: invariants.check(world, {f"{ENVIRONMENT}.{watcher.mount}": {newest}})))
        found.extend(tried(lambda: _starts_with(newest, watcher.mount)))

    return tried(deliver) + found + containers.bad()


def _end(world: World) -> list[str]:
    """No container is left."""
    agent.restart(**agent.reconciling(0.3, 0.2))
    found = invariants.nobody_left(world)
    agent.control("DELETE", f"/v1/mounts/{VOLUME}")
    return found


def power_storm(world: World) -> None:
    """Deliver, start and stop containers until the power is cut; tells what was sent and what was accepted."""
    mounts = [f"power{number}" for number in range(3)]
    for mount in mounts:
        _tell("accepted", mount, world.deliver(mount))
    for mount in mounts[:2]:
        containers.start(mount, mount, "--restart", "always")
    _tell("ready", "", 0)
    stop = threading.Event()
    threading.Thread(target=_start_many, args=(mounts[2], "more", stop), daemon=True).start()
    while True:
        mount = world.random.choice(mounts)
        generation, text = world.envelope(mount)
        _tell("sent", mount, generation)
        agent.deliver(f"{ENVIRONMENT}.{mount}", text)
        _tell("accepted", mount, generation)


def _tell(what: str, mount: str, generation: int) -> None:
    print(json.dumps({what: {mount: generation}}), flush=True)


def after_power(world: World, accepted: dict[str, int], sent: dict[str, int]) -> Result:
    """The host has booted again by itself."""
    result = Result("power cut (host container killed) in the midst of deliveries and mounts")
    for file in containers.SEEN.glob("more*"):
        file.unlink()
    held = {mount["mount"]: mount["issued_at"] for mount in agent.status()["mounts"]}
    found = [
        f"{mount}: {held.get(mount)} is held, {accepted[mount]} was accepted, {sent.get(mount)} sent"
        for mount in accepted
        if held.get(mount) not in (accepted[mount], sent.get(mount))
    ]
    watchers = [containers.Watcher(mount, mount) for mount in ("power0", "power1")]
    for watcher in watchers:
        found += tried(lambda watcher=watcher: watcher.sees(held[watcher.mount], 60))
    containers.docker("container", "prune", "--force")
    found += tried(lambda: invariants.check(world, {f"{ENVIRONMENT}.{mount}": {held[mount]} for mount in held}))
    found += invariants.counts({f"{ENVIRONMENT}.power0": 1, f"{ENVIRONMENT}.power1": 1, f"{ENVIRONMENT}.power2": 0})
    later: list[str] = []
    for watcher in (*watchers, containers.Watcher("power2", "power2")):
        newest = world.deliver(watcher.mount)
        if watcher.mount != "power2":
            later += tried(lambda watcher=watcher, newest=newest: watcher.sees(newest))
        later += tried(lambda watcher=watcher, newest=newest: _starts_with(newest, watcher.mount))
    later += containers.bad()
    containers.remove_all()
    later += invariants.nobody_left(world)
    for watcher in (*watchers, containers.Watcher("power2", "power2")):
        agent.control("DELETE", f"/v1/mounts/{ENVIRONMENT}.{watcher.mount}")
    result.note("a cut", found, later)
    return result
