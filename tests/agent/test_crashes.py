# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent dies at every single step of every operation: afterwards all is old or new, and the next run mends it."""

from __future__ import annotations

import functools
import os
import pickle
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hostseald._mounts
import pytest
from hostseald._agent import Agent
from hostseald._audit import Audit
from hostseald._host import Host
from hostseald._paths import Paths

from tests.agent.harness import Environment, RunningAgent

USER = "a" * 64
OLD = {"key": b"old", "cert": b"old", "gone": b"old"}
NEW = {"key": b"new", "cert": b"new", "more/deep": b"new"}

# Every system call by which the agent changes something, as the agent calls it.
STEPS = ("rename", "unlink", "mkdir", "rmdir", "symlink", "fsync", "fchmod", "fchown", "chmod", "write", "open")


class Stage:
    """A root with a tmpfs and an environment, on which agents come and go in processes of their own."""

    def __init__(self, bare: RunningAgent) -> None:
        self.root = bare.root
        self.prod = Environment(host_key=bare.host_key)
        self.host = Host(bare.host, bare.host_key)
        self.old = self.prod.envelope(files=OLD)
        self.new = self.prod.envelope(files=NEW)
        self.volume = bare.volumes / "prod.db"

    def agent(self) -> Agent:
        paths = Paths(str(self.root))
        agent = Agent(paths, self.host, Audit(os.devnull, "db1"))
        agent.start()
        return agent

    def apart(self, work: Callable[[Agent], Any], crash_at: int | None = None) -> tuple[int, Any]:
        """Run WORK in a child process, which dies before step CRASH_AT. Its exit status and what WORK returned."""
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            status = 1
            try:
                os.close(reading)
                sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - the audit's journal
                agent = self.agent()
                if crash_at is not None:
                    _die_at(crash_at)
                result = work(agent)
                _die_at(-1)
                for name in agent.mounts.live():
                    agent.mounts._tidy(name)
                with os.fdopen(writing, "wb") as pipe:
                    pickle.dump(result, pipe)
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        os.close(writing)
        with os.fdopen(reading, "rb") as pipe:
            data = pipe.read()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return status, pickle.loads(data) if data else None  # noqa: S301 - our own child's

    def do(self, work: Callable[[Agent], Any]) -> Any:
        status, result = self.apart(work)
        assert status == 0
        return result

    def reset(self) -> None:
        """The old envelope is held and pinned, nothing is live."""
        self.do(
            lambda agent: (
                agent.deliveries.wipe_all(),
                [agent.mounts.unmount("prod.db", user) for user in self.users(agent)],
            )
        )
        self.do(lambda agent: (agent.keys.pin("prod", self.prod.key_set(), False), deliver(agent, self.old)))

    @staticmethod
    def users(agent: Agent) -> list[str]:
        return [user for user, count in agent.mounts._users.ids("prod.db").items() for _use in range(count)]

    def seen(self, volume: str = "prod.db") -> dict[str, bytes]:
        """What a container sees, by path; nothing but our own names may be there."""
        folder = self.volume.with_name(volume)
        if not folder.exists():
            return {}
        generations = [path.name for path in folder.iterdir() if path.name.startswith("..") and path.name != "..data"]
        links = {path.name for path in folder.iterdir() if not path.name.startswith("..")}
        if not generations:
            assert links == set()
            return {}
        assert generations == [os.readlink(folder / "..data")]
        current = folder / "..data/"
        assert links == {path.name for path in current.iterdir()}
        files = [path for path in (folder / generations[0]).rglob("*") if path.is_file()]
        for path in files:
            assert (folder / path.relative_to(folder / generations[0])).read_bytes() == path.read_bytes()
        return {str(path.relative_to(folder / generations[0])): path.read_bytes() for path in files}

    def crashes(self, prepare: Callable[[Agent], Any], work: Callable[[Agent], Any]) -> Iterator[int]:
        """PREPARE, then die in WORK before its first step, its second, ... until it is through. Yields after each death."""
        for step in range(1, 200):
            self.reset()
            self.do(prepare)
            status, _result = self.apart(work, crash_at=step)
            if status == 0:
                assert step > 3
                return
            assert status == 9
            yield step
        raise AssertionError("it never came to an end")


def _die_at(step: int) -> None:
    """From now on, exit before the STEPth change of anything; never with a negative STEP."""
    left = [step]

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*arguments: Any, **options: Any) -> Any:
            kind = function.__name__
            if kind == "open":
                changes = bool(arguments[1] & os.O_CREAT)
            else:
                # The audit's thread writes when it likes.
                changes = kind != "write" or threading.current_thread() is threading.main_thread()
            left[0] -= changes
            if left[0] == 0:
                os._exit(9)
            return function(*arguments, **options)

        return wrapper

    for name in STEPS:
        function = getattr(os, name)
        setattr(os, name, wrap(getattr(function, "__wrapped__", function)))


@pytest.fixture
def stage(bare: RunningAgent) -> Stage:
    return Stage(bare)


def deliver(agent: Agent, envelope: str) -> dict[str, Any]:
    outcome: dict[str, Any] = agent.deliveries.deliver({"prod.db": envelope})["prod.db"]
    assert "reason" not in outcome, outcome
    return outcome


def nothing(_agent: Agent) -> None:
    return None


def test_wiping_what_expired(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    stage.old = stage.prod.envelope(files=OLD, options={"expires_after": "1h", "on_expiry": "wipe"})
    two_hours_later = hostseald._mounts.milliseconds() + 7_200_000

    def wipe(agent: Agent) -> None:
        monkeypatch.setattr(hostseald._mounts, "milliseconds", lambda: two_hours_later)
        assert agent.mounts._wipe_expired() is None

    for step in stage.crashes(lambda agent: agent.mounts.mount("prod.db", USER), wipe):
        stage.do(wipe)
        assert stage.seen() == {}, step
        assert stage.volume.is_dir()
        stage.do(lambda agent: agent.mounts.unmount("prod.db", USER))
        assert not stage.volume.exists()


def test_deliver_while_live(stage: Stage) -> None:
    outcomes = set()
    for step in stage.crashes(
        lambda agent: agent.mounts.mount("prod.db", USER), lambda agent: deliver(agent, stage.new)
    ):
        status = stage.do(lambda agent: agent.status.read(docker=False))
        held = status["mounts"][0]
        assert held["valid"], step
        assert held["users"] == 1
        seen = stage.seen()
        assert seen == (OLD if held["issued_at"] == stage.prod.issued_at - 1 else NEW), step
        outcomes.add(seen["key"])
        receipt = stage.do(lambda agent: deliver(agent, stage.new))
        assert receipt["live"]
        assert stage.seen() == NEW
        stage.do(lambda agent: agent.mounts.unmount("prod.db", USER))
        assert not stage.volume.exists()
    assert outcomes == {b"old", b"new"}


def test_deliver_several_at_once(stage: Stage, bare: RunningAgent) -> None:
    volumes = ["prod.db", "prod.web"]
    before, after = {"key": b"old"}, {"key": b"new"}
    old = {volume: stage.prod.envelope(volume[5:], before) for volume in volumes}
    new = {volume: stage.prod.envelope(volume[5:], after) for volume in volumes}
    stage.old = old["prod.db"]

    def prepare(agent: Agent) -> None:
        agent.deliveries.deliver(old)
        for volume in volumes:
            agent.mounts.mount(volume, USER)

    outcomes = set()
    for step in stage.crashes(prepare, lambda agent: agent.deliveries.deliver(new)):
        mounts = stage.do(lambda agent: agent.status.read(docker=False))["mounts"]
        assert [mount["volume"] for mount in mounts if mount["valid"]] == volumes, step
        for volume in volumes:
            text = (bare.state / "mounts" / volume).read_text()
            assert text in (old[volume], new[volume]), step
            assert stage.seen(volume) == (before if text == old[volume] else after), step
        outcomes.add(tuple(stage.seen(volume)["key"] for volume in volumes))
        assert all(receipt["live"] for receipt in stage.do(lambda agent: agent.deliveries.deliver(new)).values())
        assert [stage.seen(volume) for volume in volumes] == [after, after]
        stage.do(lambda agent: [agent.mounts.unmount(volume, USER) for volume in volumes])
        assert not any((bare.volumes / volume).exists() for volume in volumes)
    assert {(b"old", b"old"), (b"new", b"new")} <= outcomes


def test_mount(stage: Stage) -> None:
    for step in stage.crashes(nothing, lambda agent: agent.mounts.mount("prod.db", USER)):
        users = stage.do(stage.users)
        assert len(users) <= 1
        assert stage.seen() == (OLD if users else {}), step
        # Docker asks again, since it got no answer.
        stage.do(lambda agent: agent.mounts.mount("prod.db", USER))
        assert stage.seen() == OLD
        for _use in range(len(users) + 1):
            stage.do(lambda agent: agent.mounts.unmount("prod.db", USER))
        assert not stage.volume.exists()


def test_unmount(stage: Stage) -> None:
    for step in stage.crashes(
        lambda agent: agent.mounts.mount("prod.db", USER), lambda agent: agent.mounts.unmount("prod.db", USER)
    ):
        users = stage.do(stage.users)
        assert stage.seen() == (OLD if users else {}), step
        stage.do(lambda agent: agent.mounts.unmount("prod.db", USER))
        assert not stage.volume.exists()


@pytest.mark.parametrize("live", [False, True])
def test_remove(stage: Stage, live: bool) -> None:
    prepare = (lambda agent: agent.mounts.mount("prod.db", USER)) if live else nothing
    for step in stage.crashes(prepare, lambda agent: agent.deliveries.remove("prod.db")):
        status = stage.do(lambda agent: agent.status.read(docker=False))
        assert status["marks"] == {"prod.db": stage.prod.issued_at - 1}, step
        if status["mounts"]:
            assert stage.seen() == (OLD if live else {}), step
        stage.do(lambda agent: agent.deliveries.remove("prod.db"))
        assert stage.seen() == {}
        assert stage.do(lambda agent: agent.status.read(docker=False))["mounts"] == []
        stage.do(lambda agent: deliver(agent, stage.new))


def test_pin(stage: Stage) -> None:
    def pin(agent: Agent) -> Any:
        return agent.keys.pin("prod", stage.prod.key_set(5000), False)

    for _step in stage.crashes(nothing, pin):
        status = stage.do(lambda agent: agent.status.read(docker=False))
        assert status["environments"]["prod"]["issued_at"] in (1000, 5000)
        assert status["mounts"][0]["valid"]
        assert stage.do(pin)["changed"] is False


def test_a_full_disk_refuses_and_leaves_the_good_one(stage: Stage, bare: RunningAgent) -> None:
    import subprocess

    bare.state.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", bare.state], check=True)
    try:
        stage.reset()
        stage.do(lambda agent: agent.mounts.mount("prod.db", USER))
        large = stage.prod.envelope(files={"key": os.urandom(100_000)})

        both = {"prod.db": large, "prod.small": stage.prod.envelope("small", {"key": b"small"})}
        outcomes = stage.do(lambda agent: agent.deliveries.deliver(both))
        assert "No space left" in outcomes["prod.db"]["reason"]
        assert outcomes["prod.small"]["changed"]
        assert stage.seen() == OLD
        assert sorted(path.name for path in (bare.state / "mounts").iterdir()) == ["prod.db", "prod.small"]
        stage.do(lambda agent: deliver(agent, stage.prod.envelope(files=NEW)))
        assert stage.seen() == NEW
    finally:
        subprocess.run(["umount", "-l", bare.state], check=True)
