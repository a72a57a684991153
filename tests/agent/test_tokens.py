# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Tokens for containers, with a Docker helper and a bridge that say what the test wants. The real ones: tests/integration/bridge."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from hostseald._http import Handler, HttpError, Request, Server, Service

from tests.agent.harness import Environment, RunningAgent

TOKEN = {"vault_token": {"role": "web", "wrap_ttl": 60}, "target": "token", "uid": 33, "mode": "0400"}
FIRST, SECOND = "a" * 64, "b" * 64


def container(state: str, name: str = "web", image: str = "app:1", **labels: str) -> dict[str, Any]:
    """One of the helper's list."""
    known = {"id": name.ljust(64, "0"), "name": name, "state": state, "labels": labels}
    return {**known, "image": image, "image_id": "sha256:" + "1" * 64}


class Around:
    """What the agent speaks to: `containers` use every volume; a bridge whose tokens are t1, t2, …"""

    def __init__(self, agent: RunningAgent) -> None:
        self.folder = agent.root / "run/hostseal"
        self.containers = [container("created")]
        self.booting = False
        self.refusal: str | None = None
        self.ends = True
        self.seconds = 60.0
        self.used: set[str] = set()
        self.issued: list[dict[str, Any]] = []
        self.ended: list[str] = []
        self.hold: threading.Event | None = None

    def helper(self, request: Request) -> tuple[int, dict[str, Any]]:
        if self.booting:
            raise HttpError(503, "Docker did not answer (TimeoutError)")
        return 200, {"users": dict.fromkeys(request.json()["volumes"], self.containers)}

    def bridge(self, request: Request) -> tuple[int, dict[str, Any]]:
        asked = request.json()
        if self.hold is not None:
            self.hold.wait(20)
        if self.refusal is not None:
            raise HttpError(503, self.refusal)
        if request.path == "/v1/lookup":
            return 200, {"used": asked["token"] in self.used}
        if request.path == "/v1/end":
            if not self.ends:
                raise HttpError(503, "Vault is slow")
            self.ended.append(asked["accessor"])
            return 200, {}
        self.issued.append(asked)
        number = len(self.issued)
        return 200, {"token": f"t{number}", "accessor": f"a{number}", "seconds": self.seconds}


@contextmanager
def serving(path: Path, handler: Handler) -> Iterator[None]:
    """HANDLER at the Unix socket PATH."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(16)
        listener.setblocking(False)
        server = Server([Service(listener, handler, 1 << 20, most=8)])
        thread = threading.Thread(target=server.run, args=(lambda: None, None))
        thread.start()
        yield
        server.stop()
        thread.join()


@pytest.fixture
def around(bare: RunningAgent) -> Iterator[Around]:
    bare.arguments = ["--alerts"]
    made = Around(bare)
    with ExitStack() as stack:
        stack.enter_context(serving(made.folder / "docker.sock", made.helper))
        stack.enter_context(serving(made.folder / "bridge.sock", made.bridge))
        yield made


def eventually(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return result


def alerts(agent: RunningAgent) -> list[str]:
    return [line["what"] for line in agent.audit() if line["event"] == "alert"]


def deliver(agent: RunningAgent, prod: Environment, **options: Any) -> None:
    token = options.pop("token", TOKEN)
    agent.deliver(prod.envelope(files={"a": b"1"}, options=options, token=token))


def mount_error(agent: RunningAgent, user: str = SECOND) -> str:
    answer = agent.plugin("VolumeDriver.Mount", Name="prod.db", ID=user)
    assert "Mountpoint" not in answer
    return str(answer["Err"])


def running(around: Around, **more: Any) -> None:
    around.containers = [container("running", **more)]


def test_a_start_gets_a_token_which_ends_with_it(around: Around, agent: RunningAgent, prod: Environment) -> None:
    deliver(agent, prod)
    folder = agent.mount()
    details = (folder / "token").stat()
    assert (folder / "token").read_text() == "t1"
    assert (details.st_uid, stat.S_IMODE(details.st_mode)) == (33, 0o400)
    assert (folder / "a").read_bytes() == b"1"
    assert around.issued == [{"environment": "prod", "mount": "db", "role": "web", "wrap_ttl": 60}]
    assert agent.status()["mounts"][0]["vault_token"]["role"] == "web"
    running(around)
    agent.unmount()
    eventually(lambda: around.ended == ["a1"])
    assert list(agent.volumes.iterdir()) == [agent.volumes / ".tokens"]
    eventually(lambda: not os.listdir(agent.volumes / ".tokens"))
    around.containers = [container("exited")]
    assert (agent.mount(user=SECOND) / "token").read_text() == "t2"
    assert [line.get("container") for line in agent.audit() if line["event"] == "mount"] == ["web", "web"]
    assert "t1" not in agent.audit_file.read_text() + agent.log


def test_docker_cp_gets_no_new_token_and_a_second_user_nothing(
    around: Around, agent: RunningAgent, prod: Environment
) -> None:
    deliver(agent, prod)
    folder = agent.mount()
    running(around)
    agent.mount()
    agent.unmount()
    assert (folder / "token").read_text() == "t1"
    around.containers.append(container("created", "thief"))
    assert "one container alone" in mount_error(agent)
    assert len(around.issued) == 1
    assert alerts(agent) == ["several"]
    (alert,) = [json.loads(path.read_text()) for path in (around.folder / "alerts").iterdir()]
    assert (alert["alert"], alert["volume"], alert["host"]) == ("several", "prod.db", "db1")
    assert (folder / "token").read_text() == "t1"


def test_a_start_while_another_one_is_asked_for(around: Around, agent: RunningAgent, prod: Environment) -> None:
    deliver(agent, prod)
    around.hold = threading.Event()
    first = threading.Thread(target=agent.mount)
    first.start()
    time.sleep(0.3)
    assert "at this moment" in mount_error(agent)
    around.hold.set()
    first.join()
    assert len(around.issued) == 1


def test_an_envelope_that_comes_while_a_start_is_asked_for(
    around: Around, agent: RunningAgent, prod: Environment
) -> None:
    """What was asked for is no longer what would be shown."""
    deliver(agent, prod, match={"image": "app:1"})
    around.hold = threading.Event()
    reasons: list[str] = []
    start = threading.Thread(target=lambda: reasons.append(mount_error(agent)))
    start.start()
    time.sleep(0.3)
    deliver(agent, prod, match={"image": "app:2"})
    around.hold.set()
    start.join()
    assert "has changed while the container was being started" in reasons[0]
    eventually(lambda: around.ended == ["a1"])


def test_an_engine_that_was_killed_starts_the_container_again(
    around: Around, agent: RunningAgent, prod: Environment
) -> None:
    """It mounts with the same ID, or with another one and without an Unmount."""
    deliver(agent, prod)
    folder = agent.mount()
    around.containers = [container("exited")]
    agent.mount()
    assert (folder / "token").read_text() == "t2"
    agent.mount(user=SECOND)
    assert (folder / "token").read_text() == "t3"
    eventually(lambda: around.ended == ["a1", "a2"])
    agent.unmount(user=SECOND)
    assert agent.status()["mounts"][0]["users"] == 0
    eventually(lambda: around.ended == ["a1", "a2", "a3"])


@pytest.mark.parametrize(
    ("containers", "reason"),
    [
        ([], "no container that is being started"),
        ([container("running")], "no container that is being started"),
        ([container("created"), container("exited", "old")], "2 containers that it could be for (old, web)"),
        ([container("created", image="evil")], "its image is 'evil', not 'app:1'"),
        ([container("created", tier="b")], "its label 'tier' is not 'a'"),
    ],
)
def test_what_is_no_genuine_start(
    around: Around, agent: RunningAgent, prod: Environment, containers: list[dict[str, Any]], reason: str
) -> None:
    deliver(agent, prod, match={"image": "app:1", "labels": {"tier": "a"}})
    around.containers = containers
    assert reason in mount_error(agent)
    assert not around.issued
    assert list(agent.volumes.iterdir()) == []
    assert agent.audit()[-1]["event"] == "refusal"
    around.containers = [container("created", tier="a")]
    agent.mount()


def test_an_ordinary_mount_for_certain_containers(around: Around, agent: RunningAgent, prod: Environment) -> None:
    deliver(agent, prod, token=None, match={"image": "app:1"})
    agent.mount()
    around.containers = [container("running"), container("created", "two")]
    agent.mount(user=SECOND)
    around.containers = [container("running"), container("created", "evil", image="evil")]
    assert "container evil may not have it" in mount_error(agent, "c" * 64)
    assert agent.status()["mounts"][0]["users"] == 2
    assert not around.issued


def test_the_bridge_says_no_and_other_mounts_go_on(around: Around, agent: RunningAgent, prod: Environment) -> None:
    deliver(agent, prod)
    agent.deliver(prod.envelope("plain", {"b": b"2"}), "prod.plain")
    around.refusal = "Vault is sealed"
    assert mount_error(agent).endswith("is refused: Vault is sealed")
    assert (agent.mount("prod.plain") / "b").read_bytes() == b"2"
    (around.folder / "bridge.sock").unlink()
    assert "set hostseal_bridge_address" in mount_error(agent)
    assert agent.status()["mounts"][0]["users"] == 0


@pytest.mark.parametrize("token", [TOKEN, None])
def test_while_the_engine_boots(
    around: Around, agent: RunningAgent, prod: Environment, token: dict[str, Any] | None
) -> None:
    match = {"image": "app:1"}
    deliver(agent, prod, token=token, match=match)
    around.booting = True
    assert "Docker can't be asked" in mount_error(agent)
    deliver(agent, prod, token=token, match=match, while_booting="wait")
    folder = agent.mount()
    assert agent.status()["mounts"][0]["waiting"]
    deliver(agent, prod, token=token, match=match, while_booting="wait")
    agent.kill()
    agent.start()
    time.sleep(0.5)
    assert list(folder.iterdir()) == []
    around.containers = [container("running", image="evil")]
    around.booting = False
    eventually(lambda: any("its image is" in line.get("reason", "") for line in agent.audit()))
    assert list(folder.iterdir()) == []
    running(around)
    eventually((folder / "a").exists)
    assert (folder / "token").exists() == bool(token)
    assert not agent.status()["mounts"][0]["waiting"]
    assert len(around.issued) == bool(token)
    agent.mount()
    assert len(around.issued) == bool(token)


def test_those_that_wait_are_all_seen_before_one_gets_anything(
    around: Around, agent: RunningAgent, prod: Environment
) -> None:
    deliver(agent, prod, token=None, match={"image": "app:1"}, while_booting="wait")
    around.booting = True
    folder = agent.mount()
    agent.mount(user=SECOND)
    running(around)
    around.booting = False
    time.sleep(1.5)
    assert list(folder.iterdir()) == []
    around.containers.append(container("running", "other"))
    eventually((folder / "a").exists)


def test_docker_can_not_be_asked_while_a_container_runs(around: Around, agent: RunningAgent, prod: Environment) -> None:
    deliver(agent, prod, while_booting="wait")
    folder = agent.mount()
    running(around)
    around.booting = True
    agent.mount()  # docker cp
    agent.unmount()
    assert not agent.status()["mounts"][0]["waiting"]
    assert "Docker can't be asked" in mount_error(agent)
    assert (folder / "token").read_text() == "t1"
    assert len(around.issued) == 1


def test_a_token_that_can_not_be_kept_is_ended(around: Around, agent: RunningAgent, prod: Environment) -> None:
    deliver(agent, prod)
    with (agent.volumes / "fill").open("wb", buffering=0) as fill, suppress(OSError):
        while True:
            fill.write(bytes(1 << 20))
    while True:  # what is left of a page, for directories
        try:
            (agent.volumes / f"fill{len(list(agent.volumes.iterdir()))}").write_bytes(b"1")
        except OSError:
            break
    assert "No space left" in mount_error(agent)
    eventually(lambda: around.ended == ["a1"])


def test_an_agent_that_was_restarted_knows_its_tokens(around: Around, agent: RunningAgent, prod: Environment) -> None:
    around.refusal = None
    deliver(agent, prod)
    folder = agent.mount()
    running(around)
    agent.kill()
    agent.start()
    agent.mount()
    deliver(agent, prod)
    assert (folder / "token").read_text() == "t1"
    assert len(around.issued) == 1
    report(folder, b"used")
    eventually(lambda: alerts(agent) == ["used"])
    around.refusal = "Vault is down"
    agent.unmount()
    agent.unmount()
    eventually(lambda: any(line.get("what") == "token_end" for line in agent.audit()))
    agent.kill()
    around.refusal = None
    agent.start()
    eventually(lambda: around.ended == ["a1"])


def test_what_was_known_of_an_older_token(around: Around, agent: RunningAgent, prod: Environment) -> None:
    """Its alerts are no news of the next one's, and it is ended even by the next agent."""
    deliver(agent, prod)
    folder = agent.mount()
    report(folder, b"used")
    eventually(lambda: alerts(agent) == ["used"])
    around.containers = [container("exited")]
    around.ends = False
    agent.mount()
    assert (folder / "token").read_text() == "t2"
    report(folder, b"used")
    eventually(lambda: alerts(agent) == ["used", "used"])
    agent.kill()
    around.ends = True
    agent.start()
    eventually(lambda: around.ended == ["a1"])


def report(folder: Path, word: bytes) -> None:
    """What hostseal-unwrap does. By a descriptor: the path here may be longer than an address may be."""
    place = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.sendto(word, f"/proc/self/fd/{place}/..report")
    finally:
        os.close(place)


@pytest.mark.usefixtures("around")
def test_reports_are_taken_once_and_only_known_words(agent: RunningAgent, prod: Environment) -> None:
    deliver(agent, prod)
    folder = agent.mount()
    assert stat.S_IMODE((folder / "..report").stat().st_mode) == 0o666
    for word in (b"", b"x" * 5000, b"\xff", b"used", b"used", b"foreign"):
        report(folder, word)
    eventually(lambda: alerts(agent) == ["used", "foreign"])
    agent.unmount()
    assert not (folder / "..report").exists()


def test_alerts_are_in_the_metrics(around: Around, bare: RunningAgent) -> None:
    bare.arguments = ["--metrics", "--metrics-interval", "0.2"]
    bare.start()
    prod = Environment(host_key=bare.host_key)
    bare.pin(prod)
    deliver(bare, prod)
    report(bare.mount(), b"used")
    page = around.folder / "metrics/hostseal.prom"
    eventually(lambda: 'hostseal_alerts_total{what="used"} 1' in page.read_text().splitlines())
    assert not list((around.folder / "alerts").iterdir())


@pytest.mark.parametrize("used", [True, False])
def test_a_token_that_nobody_uses(around: Around, agent: RunningAgent, prod: Environment, used: bool) -> None:
    around.seconds = 2.0
    around.used = {"t1"} if used else set()
    deliver(agent, prod)
    folder = agent.mount()
    if not used:
        eventually(lambda: alerts(agent) == ["unused"])
        assert len(list((around.folder / "alerts").iterdir())) == 1
    time.sleep(2.2)
    report(folder, b"used")  # it is too late for the token, which is an alert only when somebody had used it
    eventually(lambda: alerts(agent) == (["used"] if used else ["unused"]))


def test_another_role_is_for_the_next_start(around: Around, agent: RunningAgent, prod: Environment) -> None:
    deliver(agent, prod)
    folder = agent.mount()
    running(around)
    deliver(agent, prod, token={"vault_token": {"role": "other"}, "target": "token"})
    assert not (folder / "token").exists()
    agent.control("DELETE", "/v1/mounts/prod.db")
    eventually(lambda: around.ended == ["a1"])
    assert list(folder.iterdir()) == []
