# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Many things at once, on a real agent process."""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.agent.harness import Environment, RunningAgent


def read_set(folder: Path) -> set[bytes]:
    """What a careful reader does: resolve the set once, then read from it."""
    handle = os.open(folder / "..data", os.O_RDONLY | os.O_DIRECTORY)
    try:
        values = set()
        for name in ("key", "cert", "chain"):
            with open(os.open(name, os.O_RDONLY, dir_fd=handle), "rb") as file:
                values.add(file.read())
        return values
    finally:
        os.close(handle)


def test_a_reader_never_sees_a_mixed_set(agent: RunningAgent, prod: Environment) -> None:
    def envelope(number: int) -> str:
        return prod.envelope(files=dict.fromkeys(("key", "cert", "chain"), b"%d" % number * 5000))

    agent.deliver(envelope(0))
    folder = agent.mount()
    done = threading.Event()
    sets: list[set[bytes]] = []
    missing = []

    def read() -> None:
        while not done.is_set():
            try:
                sets.append(read_set(folder))
                (folder / "key").read_bytes()
            except FileNotFoundError as error:
                missing.append(error)

    readers = [threading.Thread(target=read) for _reader in range(2)]
    for reader in readers:
        reader.start()
    for number in range(1, 40):
        time.sleep(0.05)
        agent.deliver(envelope(number))
        assert (folder / "key").read_bytes() == b"%d" % number * 5000
    done.set()
    for reader in readers:
        reader.join()
    assert len(sets) > 20
    assert all(len(values) == 1 for values in sets)
    assert missing == []


def test_containers_come_and_go_while_envelopes_arrive_and_the_agent_is_killed(
    agent: RunningAgent, prod: Environment
) -> None:
    agent.deliver(prod.envelope(files={"key": b"0", "cert": b"0"}))
    end = time.monotonic() + 5
    lock = threading.Lock()
    troubles: list[BaseException] = []

    def container(number: int) -> None:
        chance = random.Random(number)
        try:
            while time.monotonic() < end:
                user = f"{chance.getrandbits(256):064x}"
                with lock:
                    pass  # the agent is being restarted: the request would wait in the socket all the same
                folder = retried(lambda user=user: agent.mount(user=user))
                for name in ("key", "cert"):
                    assert (folder / name).read_bytes().isdigit()
                time.sleep(chance.random() / 50)
                assert (folder / "key").exists()
                retried(lambda user=user: agent.unmount(user=user))
        except BaseException as error:
            troubles.append(error)

    def retried(call):  # as Docker does when the plugin breaks off
        while True:
            try:
                return call()
            except (OSError, ValueError, EOFError):
                time.sleep(0.02)

    with ThreadPoolExecutor(4) as pool:
        for number in range(4):
            pool.submit(container, number)
        for number in range(1, 1000):
            if time.monotonic() > end:
                break
            envelope = prod.envelope(files={"key": b"%d" % number, "cert": b"%d" % number})
            retried(lambda envelope=envelope: agent.deliver(envelope))
            if number % 25 == 0:
                with lock:
                    agent.kill()
                    agent.start()
    assert troubles == []
    agent.kill()
    agent.start()
    # A kill may leave a count too many, never one too few.
    users = agent.status()["mounts"][0]["users"]
    assert (agent.volumes / "prod.db").exists() == (users > 0)


def test_a_mount_does_not_wait_for_a_disk_or_for_docker(agent: RunningAgent, prod: Environment) -> None:
    agent.deliver(prod.envelope())
    agent.mount()
    slow = prod.envelope("big", {f"f{number}": os.urandom(1 << 20) for number in range(7)})
    times = []
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(agent.deliver, slow, "prod.big")
        for number in range(20):
            begin = time.monotonic()
            agent.mount(user=f"{number:064x}")
            times.append(time.monotonic() - begin)
        running.result()
    assert sorted(times)[10] < 0.1
