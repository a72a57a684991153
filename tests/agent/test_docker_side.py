# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changes and reconciliation, against a Docker helper that says what the test wants. The real one is tried on a host."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hostseald._http import HttpError, Request, Server, Service

from tests.agent.harness import Environment, RunningAgent

RUNNING = "1" * 64
STOPPED = "2" * 64


class FakeHelper:
    """Answers at the helper's socket: `containers` use every volume; `actions` is what was asked for."""

    def __init__(self, agent: RunningAgent) -> None:
        self.path = agent.root / "run/hostseal/docker.sock"
        self.containers = [
            {"id": RUNNING, "name": "db", "state": "running"},
            {"id": STOPPED, "name": "old", "state": "exited"},
        ]
        self.actions: list[tuple[str, str, str]] = []
        self.trouble: int | None = None
        self.listings = 0

    def handle(self, request: Request) -> tuple[int, dict[str, Any]]:
        asked = request.json()
        if request.path == "/v1/users":
            self.listings += 1
            return 200, {"users": dict.fromkeys(asked["volumes"], self.containers)}
        if request.path == "/v1/shadowed":
            return 200, {"shadowed": asked["volumes"][:1]}
        self.actions.append((request.path, asked["container"], asked.get("signal", "")))
        if self.trouble:
            raise HttpError(self.trouble, "Docker did not answer")
        return 200, {}


@pytest.fixture
def helper(bare: RunningAgent) -> Iterator[FakeHelper]:
    fake = FakeHelper(bare)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(fake.path))
    listener.listen(16)
    listener.setblocking(False)
    server = Server([Service(listener, fake.handle, 1 << 20, most=4)])
    thread = threading.Thread(target=server.run, args=(lambda: None, None))
    thread.start()
    yield fake
    server.stop()
    thread.join()
    listener.close()


def eventually(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return result


def deliver(agent: RunningAgent, prod: Environment, mode: str, value: bytes, splay: int = 0) -> None:
    options = {"change_mode": mode, "change_signal": "SIGUSR1", "splay": splay}
    agent.deliver(prod.envelope(files={"a": value}, options=options))


def last_change(agent: RunningAgent) -> Any:
    return agent.status()["mounts"][0]["last_change"]


def test_a_signal_goes_to_running_users_only(helper: FakeHelper, agent: RunningAgent, prod: Environment) -> None:
    deliver(agent, prod, "signal", b"1")
    agent.mount()
    time.sleep(0.2)
    assert helper.actions == []
    deliver(agent, prod, "signal", b"2")
    last = eventually(lambda: last_change(agent))
    assert helper.actions == [("/v1/signal", RUNNING, "SIGUSR1")]
    assert (last["mode"], last["containers"], last["reason"]) == ("signal", ["db"], None)
    assert agent.status()["mounts"][0]["pending"] == []
    assert [line["containers"] for line in agent.audit() if line["event"] == "change"] == [["db"]]


def test_nothing_happens_without_a_change_or_users(helper: FakeHelper, agent: RunningAgent, prod: Environment) -> None:
    deliver(agent, prod, "signal", b"1")
    deliver(agent, prod, "signal", b"2")
    agent.mount()
    envelope = prod.envelope(files={"a": b"2"}, options={"change_mode": "noop"})
    agent.deliver(envelope)
    agent.deliver(envelope)
    time.sleep(0.3)
    assert helper.actions == []


def test_a_signal_is_repeated_until_docker_took_it(helper: FakeHelper, agent: RunningAgent, prod: Environment) -> None:
    deliver(agent, prod, "signal", b"1")
    agent.mount()
    helper.trouble = 503
    deliver(agent, prod, "signal", b"2")
    eventually(lambda: helper.actions)
    pending = eventually(lambda: (last_change(agent) or {}).get("reason") and agent.status()["mounts"][0]["pending"])
    assert pending[0]["mode"] == "signal"
    agent.kill()
    helper.trouble = None
    agent.start()
    eventually(lambda: not agent.status()["mounts"][0]["pending"])
    assert set(helper.actions) == {("/v1/signal", RUNNING, "SIGUSR1")}
    assert len(helper.actions) >= 2
    assert last_change(agent)["containers"] == ["db"]


def test_a_restart_is_tried_once_even_when_the_agent_dies(
    helper: FakeHelper, agent: RunningAgent, prod: Environment
) -> None:
    deliver(agent, prod, "restart", b"1")
    agent.mount()
    helper.trouble = 503
    deliver(agent, prod, "restart", b"2")
    eventually(lambda: helper.actions)
    agent.kill()
    agent.start()
    eventually(lambda: not agent.status()["mounts"][0]["pending"])
    time.sleep(0.3)
    assert helper.actions == [("/v1/restart", RUNNING, "")]


def test_splay_waits_and_the_newest_wins(helper: FakeHelper, agent: RunningAgent, prod: Environment) -> None:
    deliver(agent, prod, "signal", b"1")
    agent.mount()
    deliver(agent, prod, "signal", b"2", splay=100_000)
    assert agent.status()["mounts"][0]["pending"][0]["in"] <= 100_000
    deliver(agent, prod, "restart", b"3")
    eventually(lambda: helper.actions == [("/v1/restart", RUNNING, "")])
    eventually(lambda: not agent.status()["mounts"][0]["pending"])


def test_a_container_that_has_gone_is_passed_over(helper: FakeHelper, agent: RunningAgent, prod: Environment) -> None:
    deliver(agent, prod, "signal", b"1")
    agent.mount()
    helper.trouble = 409
    deliver(agent, prod, "signal", b"2")
    last = eventually(lambda: last_change(agent))
    assert (last["containers"], last["reason"]) == ([], None)


def test_status_with_docker(helper: FakeHelper, agent: RunningAgent, prod: Environment) -> None:
    agent.deliver(prod.envelope())
    assert "docker" not in agent.status()
    assert agent.status(docker=True)["docker"] == {
        "ok": True,
        "reason": None,
        "users": {"prod.db": ["db"]},
        "shadowed": ["prod.db"],
    }
    assert helper.listings == 1


def test_status_without_a_helper(agent: RunningAgent, prod: Environment) -> None:
    agent.deliver(prod.envelope())
    docker = agent.status(docker=True)["docker"]
    assert docker["ok"] is False
    assert "FileNotFoundError" in docker["reason"]


@pytest.fixture
def hasty(helper: FakeHelper, bare: RunningAgent) -> tuple[RunningAgent, Environment, FakeHelper]:
    """An agent that reconciles after 1 s of quiet, twice with 0.5 s between."""
    bare.arguments = ["--quiet", "1", "--gap", "0.5"]
    bare.start()
    prod = Environment(host_key=bare.host_key)
    bare.pin(prod)
    bare.deliver(prod.envelope())
    return bare, prod, helper


def test_leaked_counts_are_dropped_when_docker_knows_no_user(
    hasty: tuple[RunningAgent, Environment, FakeHelper],
) -> None:
    agent, _prod, helper = hasty
    agent.mount()
    agent.mount()
    helper.containers = [{"id": STOPPED, "name": "old", "state": "exited"}]
    eventually(lambda: agent.status()["mounts"][0]["users"] == 0)
    assert helper.listings >= 2
    assert list(agent.volumes.iterdir()) == []
    assert any(line["event"] == "reconcile" for line in agent.audit())


def test_counts_stay_while_a_container_is_there_in_any_state(
    hasty: tuple[RunningAgent, Environment, FakeHelper],
) -> None:
    agent, _prod, helper = hasty
    agent.mount()
    helper.containers = [{"id": RUNNING, "name": "db", "state": "created"}]
    eventually(lambda: helper.listings >= 2)
    assert agent.status()["mounts"][0]["users"] == 1


def test_counts_stay_while_docker_does_not_answer(hasty: tuple[RunningAgent, Environment, FakeHelper]) -> None:
    agent, _prod, helper = hasty
    agent.mount()
    helper.path.unlink()
    time.sleep(3.5)
    assert agent.status()["mounts"][0]["users"] == 1


def test_counts_stay_for_ids_that_are_not_dockers(hasty: tuple[RunningAgent, Environment, FakeHelper]) -> None:
    agent, _prod, helper = hasty
    agent.mount(user="whoever")
    helper.containers = []
    time.sleep(3.0)
    assert agent.status()["mounts"][0]["users"] == 1


def test_a_container_that_starts_in_between_is_never_wiped(hasty: tuple[RunningAgent, Environment, FakeHelper]) -> None:
    agent, _prod, helper = hasty
    agent.mount()
    helper.containers = []
    for number in range(12):
        time.sleep(0.3)
        agent.mount(user=f"{number:064x}")
        assert (agent.published / "prod.db/db_password").exists()
    assert agent.status()["mounts"][0]["users"] == 13
