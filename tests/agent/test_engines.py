# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Podman and services of the host as users of a mount, beside Docker. The real ones are tried on a host."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hostseald import _services
from hostseald._docker_helper import GoneError
from hostseald._http import HttpError, Request, Server, Service
from hostseald._podman_helper import PodmanHelper

from tests.agent.harness import AGENT, PODMAN_ID, Environment, RunningAgent

A_DOCKER_ID = "a" * 64


class FakePodman:
    """Podman's helper, to which Podman says what the test wants."""

    def __init__(self, path: Path) -> None:
        self.mounted = ["prod.db"]
        self.actions: list[tuple[str, str]] = []
        self.asked = 0
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(16)
        listener.setblocking(False)
        self._listener = listener
        self._server = Server([Service(listener, self._handle, 1 << 20, most=4)])
        self._thread = threading.Thread(target=self._server.run, args=(lambda: None, None))
        self._thread.start()

    def _handle(self, request: Request) -> tuple[int, dict[str, Any]]:
        asked = request.json()
        if request.path == "/v1/mounted":
            self.asked += 1
            return 200, {"mounted": [volume for volume in asked["volumes"] if volume in self.mounted]}
        if request.path == "/v1/users":
            container = {"id": "3" * 64, "name": "pod", "state": "running"}
            return 200, {"users": {volume: [container] for volume in asked["volumes"]}}
        if request.path == "/v1/shadowed":
            return 200, {"shadowed": []}
        self.actions.append((request.path, asked["container"]))
        return 200, {}

    def close(self) -> None:
        self._server.stop()
        self._thread.join()
        self._listener.close()


@pytest.fixture
def podman(bare: RunningAgent) -> Iterator[FakePodman]:
    fake = FakePodman(bare.root / "run/hostseal/podman.sock")
    yield fake
    fake.close()


@pytest.fixture
def both(bare: RunningAgent, podman: FakePodman) -> RunningAgent:
    """An agent for Docker, whose helper does not answer, and Podman; it reconciles after a second of quiet."""
    bare.arguments = ["--engines", "docker", "podman", "--quiet", "1", "--gap", "0.5"]
    bare.start()
    assert podman.asked == 0
    return bare


@pytest.fixture
def prod(both: RunningAgent) -> Environment:
    environment = Environment(host_key=both.host_key)
    both.pin(environment)
    return environment


def eventually(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)
    return result


def users(agent: RunningAgent, volume: str = "prod.db") -> dict[str, int]:
    try:
        return dict(json.loads((agent.root / f"run/hostseal/users/{volume}").read_text())["ids"])
    except FileNotFoundError:
        return {}


def test_podman_is_one_user_however_often_it_mounts(both: RunningAgent, prod: Environment) -> None:
    both.deliver(prod.envelope())
    for _time in range(2):  # it forgot the first one, and counts by itself
        assert both.podman("VolumeDriver.Mount", Name="prod.db")[0] == 200
    both.mount(user=A_DOCKER_ID)
    assert users(both) == {"podman": 1, A_DOCKER_ID: 1}
    assert both.podman("VolumeDriver.Unmount", Name="prod.db") == (200, {"Err": ""})
    assert (both.published / "prod.db/db_password").exists()
    both.unmount(user=A_DOCKER_ID)
    assert list(both.volumes.iterdir()) == []


def test_podman_sees_a_refusal_as_one(both: RunningAgent, prod: Environment) -> None:
    for method in ("Create", "Get", "Mount"):
        status, answer = both.podman(f"VolumeDriver.{method}", Name="prod.nope")
        assert (status, "Err" in answer) == (500, True)
    both.deliver(prod.envelope())
    status, answer = both.podman("VolumeDriver.Create", Name="prod.db", Opts={"o": "size=1"})
    assert (status, answer["Err"]) == (500, "hostseal: volumes of this driver take no options")


def test_podman_is_refused_at_dockers_socket(both: RunningAgent, prod: Environment) -> None:
    both.deliver(prod.envelope())
    answer = both.plugin("VolumeDriver.Mount", Name="prod.db", ID=PODMAN_ID)
    assert "hostseal_engines" in answer["Err"]
    assert users(both) == {}


@pytest.mark.parametrize("how", ["podman", "hold"])
def test_what_is_for_certain_containers_is_refused(both: RunningAgent, prod: Environment, how: str) -> None:
    both.deliver(prod.envelope(options={"match": {"image": "app"}}))
    if how == "podman":
        status, answer = both.podman("VolumeDriver.Mount", Name="prod.db")
        assert status == 500
    else:
        status, answer = both.control("PUT", "/v1/holds/prod.db")
        assert status == 409
    assert "only Docker can tell apart" in answer.get("Err", answer.get("reason"))
    assert list(both.volumes.iterdir()) == []


def test_dockers_answer_says_nothing_of_podman(both: RunningAgent, prod: Environment, podman: FakePodman) -> None:
    both.deliver(prod.envelope())
    both.podman("VolumeDriver.Mount", Name="prod.db")
    eventually(lambda: podman.asked >= 3)
    assert users(both) == {"podman": 1}


def test_what_podman_has_mounted_no_more_is_wiped(both: RunningAgent, prod: Environment, podman: FakePodman) -> None:
    both.deliver(prod.envelope())
    both.podman("VolumeDriver.Mount", Name="prod.db")
    both.mount(user=A_DOCKER_ID)
    podman.mounted = []
    eventually(lambda: users(both) == {A_DOCKER_ID: 1})
    # Docker's helper does not answer: its user stays.
    time.sleep(2.5)
    assert users(both) == {A_DOCKER_ID: 1}
    assert (both.published / "prod.db/db_password").exists()


def test_counts_stay_while_podman_does_not_answer(both: RunningAgent, prod: Environment, podman: FakePodman) -> None:
    both.deliver(prod.envelope())
    both.podman("VolumeDriver.Mount", Name="prod.db")
    (both.root / "run/hostseal/podman.sock").unlink()
    podman.mounted = []
    time.sleep(3.0)
    assert users(both) == {"podman": 1}


def test_a_change_reaches_podman_while_docker_is_down(
    both: RunningAgent, prod: Environment, podman: FakePodman
) -> None:
    both.deliver(prod.envelope(options={"change_mode": "restart"}))
    both.podman("VolumeDriver.Mount", Name="prod.db")
    both.deliver(prod.envelope(files={"db_password": b"2"}, options={"change_mode": "restart"}))
    eventually(lambda: podman.actions)
    pending = eventually(lambda: both.status()["mounts"][0]["pending"])
    assert pending[0]["mode"] == "restart"  # Docker is asked again
    assert podman.actions == [("/v1/restart", "3" * 64)]
    told = both.status(docker=True)
    assert (told["podman"]["users"], told["docker"]["ok"]) == ({"prod.db": ["pod"]}, False)


def hold(agent: RunningAgent, program: str, volume: str = "prod.db") -> subprocess.CompletedProcess[str]:
    """What the unit's commands do; the agent's socket is where systemd has it."""
    place = agent.root / "run/hostseal/agent.sock"
    if not place.is_symlink():
        place.symlink_to(agent.control_socket)
    command = [sys.executable, "-I", str(AGENT), program, volume, "--root", str(agent.root)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_hold_is_a_user_until_it_is_released(agent: RunningAgent) -> None:
    prod = Environment(host_key=agent.host_key)
    agent.pin(prod)
    agent.deliver(prod.envelope())
    for _time in range(2):
        assert hold(agent, "hold").returncode == 0
    assert agent.status()["mounts"][0]["held_for_services"]
    agent.kill()
    agent.start()
    assert (agent.published / "prod.db/db_password").read_bytes() == b"s3cret"
    agent.deliver(prod.envelope(files={"db_password": b"newer"}))
    assert (agent.published / "prod.db/db_password").read_bytes() == b"newer"
    assert hold(agent, "release").returncode == 0
    assert list(agent.volumes.iterdir()) == []
    assert hold(agent, "release").returncode == 0  # again, as a unit may that failed before
    assert not agent.status()["mounts"][0]["held_for_services"]


def test_a_hold_that_is_refused_says_why(agent: RunningAgent) -> None:
    for volume, reason in (("prod.nope", "deliver it with"), ("../etc", "environment name is empty")):
        done = hold(agent, "hold", volume)
        assert (done.returncode, reason in done.stderr) == (1, True), done.stderr
    agent.kill()
    agent.control_socket.unlink()
    assert "the agent did not answer" in hold(agent, "hold").stderr


def test_services_are_told_once(agent: RunningAgent) -> None:
    prod = Environment(host_key=agent.host_key)
    agent.pin(prod)
    options = {"change_mode": "signal", "change_signal": "SIGUSR1"}
    agent.deliver(prod.envelope(options=options))
    hold(agent, "hold")
    agent.deliver(prod.envelope(files={"db_password": b"2"}, options=options))
    word = agent.root / "run/hostseal/services/prod.db"
    eventually(word.exists)
    assert json.loads(word.read_text()) == {"mode": "signal", "signal": "SIGUSR1"}
    word.unlink()
    # Docker, which would have to be asked as well, is down: what is tried again is not this.
    eventually(lambda: (agent.status()["mounts"][0]["pending"] or [{"tries": 0}])[0]["tries"] >= 2)
    assert not word.exists()


@pytest.fixture
def systemctl(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The commands; unit web needs the hold and runs, unit batch does not run."""
    commands: list[tuple[str, ...]] = []
    answers = {
        "RequiredBy,BoundBy": "web.service batch.service\n",
        "web.service": "active\n",
        "batch.service": "dead\n",
    }

    def answer(*arguments: str) -> str:
        commands.append(arguments)
        if arguments[0] != "show":
            return ""
        return answers.get(arguments[1].partition("=")[2], answers.get(arguments[-1], ""))

    monkeypatch.setattr(_services, "_systemctl", answer)
    return commands


def test_running_services_that_need_the_hold_are_signalled(tmp_path: Path, systemctl: list[tuple[str, ...]]) -> None:
    (tmp_path / "prod.db").write_text(json.dumps({"mode": "signal", "signal": "SIGHUP"}))
    (tmp_path / "prod.web").write_text(json.dumps({"mode": "restart", "signal": None}))
    _services.change_services(str(tmp_path))
    assert [command for command in systemctl if command[0] != "show"] == [
        ("kill", "--kill-who=main", "--signal=SIGHUP", "web.service"),
        ("try-restart", "--no-block", "web.service"),
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("etc", {"mode": "restart"}),
        ("prod.db", {"mode": "poweroff"}),
        ("prod.db", {"mode": "signal", "signal": "--all"}),
        ("prod.db", ["restart"]),
    ],
)
def test_words_that_are_not_the_agents_are_dropped(
    tmp_path: Path, systemctl: list[tuple[str, ...]], name: str, content: object
) -> None:
    (tmp_path / name).write_text(json.dumps(content))
    _services.change_services(str(tmp_path))
    assert (systemctl, list(tmp_path.iterdir())) == ([], [])


def test_a_link_in_the_place_of_a_word_is_not_followed(tmp_path: Path, systemctl: list[tuple[str, ...]]) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(json.dumps({"mode": "restart", "signal": None}))
    folder = tmp_path / "services"
    folder.mkdir()
    (folder / "prod.db").symlink_to(elsewhere)
    _services.change_services(str(folder))
    assert (systemctl, list(folder.iterdir()), elsewhere.exists()) == ([], [], True)


@pytest.mark.parametrize(("counts", "mounted"), [({"prod.a": 2, "prod.b": 0}, ["prod.a"]), ({}, [])])
def test_the_helper_reads_podmans_own_counts(
    monkeypatch: pytest.MonkeyPatch, counts: dict[str, int], mounted: list[str]
) -> None:
    helper = PodmanHelper("/nowhere")

    def ask(_method: str, target: str, _seconds: float) -> Any:
        volume = target.split("/")[-2]
        if volume not in counts:
            raise GoneError(409, "gone")
        return {"MountCount": counts[volume]}

    monkeypatch.setattr(helper, "_ask", ask)
    asked = Request("POST", "/v1/mounted", {}, json.dumps({"volumes": ["prod.a", "prod.b"]}).encode())
    assert helper.handle(asked) == (200, {"mounted": mounted})


def test_podman_that_does_not_answer_is_no_empty_answer() -> None:
    helper = PodmanHelper("/nowhere")
    with pytest.raises(HttpError, match="Podman did not answer"):
        helper.handle(Request("POST", "/v1/mounted", {}, b'{"volumes": ["prod.a"]}'))
