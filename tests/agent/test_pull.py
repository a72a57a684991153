# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pull mode on the host: a real agent process, the real fetcher, and a real HTTPS server."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils import _manifest as manifests
from ansible_collections.hostseal.secrets.plugins.modules.agent_info import problems_of
from hostseald import _fetch
from hostseald._model import HostsealError
from jwcrypto.jwk import JWK

from tests.agent.harness import Environment, RunningAgent, request
from tests.agent.test_expiry import until
from tests.rig import certificates
from tests.rig.web import Instead, WebServer

DAY = 86_400_000


def now() -> int:
    return int(time.time() * 1000)


class Publisher:
    """What the module seal does with publish_to, for one host."""

    def __init__(self, environment: Environment, web: Path) -> None:
        self.environment = environment
        self.folder = web / environment.host / environment.name
        self.folder.mkdir(parents=True)
        self.issued_at = now()
        self.envelopes: dict[str, tuple[str, int]] = {}

    def seal(self, name: str = "db", value: bytes = b"s3cret", **more: Any) -> str:
        """An envelope that is in manifests from now on."""
        self.environment.issued_at += 1
        issued_at = self.environment.issued_at
        text = self.environment.envelope(name, {"db_password": value}, issued_at=issued_at, **more)
        self.envelopes[name] = (text, issued_at)
        return text

    def manifest(
        self,
        *,
        expires_at: int | None = None,
        host: str | None = None,
        by: JWK | None = None,
        key_set: str | None = None,
    ) -> str:
        """A manifest that is newer than the one before."""
        self.issued_at = max(self.issued_at + 1, now())
        payload = manifests.manifest_payload(
            manifests.Manifest(
                self.environment.name,
                host or self.environment.host,
                self.issued_at,
                expires_at or self.issued_at + DAY,
                {
                    name: manifests.Listed(issued_at, manifests.envelope_name(text))
                    for name, (text, issued_at) in self.envelopes.items()
                },
            )
        )
        signed = self.environment.sign(manifests.MANIFEST, payload, by)
        return manifests.manifest_text(signed, key_set or self.environment.key_set())

    def publish(self, **more: Any) -> str:
        for text, _issued_at in self.envelopes.values():
            (self.folder / manifests.envelope_name(text)).write_text(text)
        text = self.manifest(**more)
        (self.folder / "manifest").write_text(text)
        return text


@pytest.fixture
def agent(bare: RunningAgent) -> RunningAgent:
    """One that a fetcher may talk to, with metrics and alerts."""
    (bare.root / "run/hostseal/fetch").mkdir()
    bare.arguments = ["--fetch", "--metrics", "--metrics-interval", "0.05", "--alerts"]
    return bare.start()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[WebServer]:
    (tmp_path / "web").mkdir()
    with WebServer(tmp_path / "web", tmp_path) as server:
        yield server


@pytest.fixture
def publisher(prod: Environment, web: WebServer) -> Publisher:
    return Publisher(prod, web.root)


def fetch_socket(agent: RunningAgent) -> Path:
    return agent.root / "run/hostseal/fetch/agent.sock"


class Host:
    """The fetcher's files, and runs of it."""

    def __init__(self, agent: RunningAgent, web: WebServer, folder: Path, url: str | None = None) -> None:
        self.agent = agent
        self.folder = folder
        for name in ("credentials", "state"):
            (folder / name).mkdir(parents=True)
        settings = {"url": url or web.url, "interval": 60}
        (folder / "credentials/fetch.json").write_text(json.dumps(settings))
        (folder / "credentials/fetch-ca.pem").write_bytes(web.authority.cert.read_bytes())

    def fetch(self, is_timed: bool = False) -> None:
        places = [str(self.folder / name) for name in ("credentials", "state")]
        _fetch.load_fetcher(str(fetch_socket(self.agent)), *places).run(is_timed)

    def failed(self, is_timed: bool = False) -> str:
        with pytest.raises(HostsealError) as caught:
            self.fetch(is_timed)
        return str(caught.value)

    def pull(self) -> dict[str, Any]:
        source: dict[str, Any] = self.agent.status()["pull"]["prod"]
        return source

    def problems(self) -> list[str]:
        """As the module tells them, without what is not about fetching."""
        found = problems_of({**self.agent.status(), "docker": {"ok": True, "shadowed": []}})
        return [problem for problem in found if "fetch" in problem or "manifest" in problem]


@pytest.fixture
def host(agent: RunningAgent, web: WebServer, tmp_path: Path) -> Host:
    return Host(agent, web, tmp_path / "fetcher")


def lines(agent: RunningAgent, event: str, **members: Any) -> list[dict[str, Any]]:
    found = [line for line in agent.audit() if line["event"] == event]
    return [line for line in found if members.items() <= line.items()]


def test_first_fetch_then_nothing_new(agent: RunningAgent, publisher: Publisher, web: WebServer, host: Host) -> None:
    name = manifests.envelope_name(publisher.seal())
    publisher.publish()
    host.fetch()
    assert web.take_seen() == [("db1/prod/manifest", 200), (f"db1/prod/{name}", 200)]
    assert (agent.mount() / "db_password").read_bytes() == b"s3cret"
    for _time in range(2):
        host.fetch()
        assert web.take_seen() == [("db1/prod/manifest", 304)]
    pull = host.pull()
    assert (pull["issued_at"], pull["missing"], pull["reason"], pull["expired"]) == (
        publisher.issued_at,
        [],
        None,
        False,
    )
    assert abs(pull["fetched_at"] - now()) < 60_000
    assert host.problems() == []
    assert [line["mounts"] for line in lines(agent, "manifest")] == [["db"]]


def test_new_bytes_come_live_and_what_is_gone_is_wiped(
    agent: RunningAgent, publisher: Publisher, web: WebServer, host: Host
) -> None:
    publisher.seal()
    publisher.seal("web")
    publisher.publish()
    host.fetch()
    folder, other = agent.mount(), agent.mount("prod.web")
    publisher.seal(value=b"new")
    publisher.publish()
    web.take_seen()
    host.fetch()
    assert [status for _path, status in web.take_seen()] == [200, 200]  # the manifest and one envelope
    assert (folder / "db_password").read_bytes() == b"new"
    del publisher.envelopes["web"]
    publisher.publish()
    host.fetch()
    assert list(other.iterdir()) == []
    assert [mount["volume"] for mount in agent.status()["mounts"]] == ["prod.db"]
    assert "has no mount" in agent.refused_mount("prod.web")


def test_what_came_another_way_after_the_manifest_stays(
    agent: RunningAgent, publisher: Publisher, prod: Environment, host: Host
) -> None:
    publisher.seal()
    agent.deliver(prod.envelope("older", issued_at=now() - 1000), "prod.older")
    publisher.publish()
    agent.deliver(prod.envelope("newer", issued_at=publisher.issued_at + 1000), "prod.newer")
    staging = Environment("staging", host_key=agent.host_key)
    agent.pin(staging)
    agent.deliver(staging.envelope(issued_at=1), "staging.db")
    host.fetch()
    assert [mount["volume"] for mount in agent.status()["mounts"]] == ["prod.db", "prod.newer", "staging.db"]
    # One that was taken away here is not brought back by the manifest of before, and is not told as missing.
    agent.control("DELETE", "/v1/mounts/prod.db")
    host.fetch()
    assert [mount["volume"] for mount in agent.status()["mounts"]] == ["prod.newer", "staging.db"]
    assert (host.pull()["missing"], host.problems()) == ([], [])


def test_old_manifest_is_refused_also_after_a_restart(agent: RunningAgent, publisher: Publisher, host: Host) -> None:
    publisher.seal()
    publisher.seal("web")
    old = publisher.publish()
    host.fetch()
    del publisher.envelopes["web"]
    new = publisher.publish()
    host.fetch()
    agent.kill()
    agent.start()
    (publisher.folder / "manifest").write_text(old)
    assert "is not after" in host.failed()
    assert [mount["volume"] for mount in agent.status()["mounts"]] == ["prod.db"]
    assert "the server has an old copy" in host.pull()["reason"]
    assert "the server has an old copy" in host.problems()[0]
    host.failed()
    assert len(lines(agent, "refusal", what="manifest")) == 1  # told once, not with each try
    (publisher.folder / "manifest").write_text(new)
    host.fetch()
    assert host.problems() == []
    # Another one with the same time of issue is none of ours either.
    forged = publisher.environment.sign(
        manifests.MANIFEST,
        manifests.manifest_payload(manifests.Manifest("prod", "db1", host.pull()["issued_at"], now() + DAY, {})),
    )
    (publisher.folder / "manifest").write_text(manifests.manifest_text(forged, publisher.environment.key_set()))
    assert "is not after" in host.failed()


def test_expired_manifest_is_told_and_wipes_nothing(agent: RunningAgent, publisher: Publisher, host: Host) -> None:
    publisher.seal()
    publisher.seal("web")
    publisher.publish(expires_at=now() + 2000)
    host.fetch()
    assert host.problems() == []
    until(lambda: lines(agent, "alert", what="expired"), 20)
    assert host.pull()["expired"]
    assert "the manifest of environment 'prod' has expired" in host.problems()[0]
    assert "hostseal_problems 1\n" in _metrics(agent)
    # A newer one that has expired already is refused, whatever it leaves out.
    del publisher.envelopes["web"]
    publisher.publish(expires_at=now() - 1)
    assert "it expired at" in host.failed()
    assert [mount["volume"] for mount in agent.status()["mounts"]] == ["prod.db", "prod.web"]
    assert (agent.mount() / "db_password").exists()
    assert len(lines(agent, "alert", what="expired")) == 1
    publisher.publish()
    host.fetch()
    assert host.problems() == []
    assert [mount["volume"] for mount in agent.status()["mounts"]] == ["prod.db"]


def _metrics(agent: RunningAgent) -> str:
    path = agent.root / "run/hostseal/metrics/hostseal.prom"
    begin = time.time()
    until(lambda: path.exists() and path.stat().st_mtime > begin)
    return path.read_text()


def test_withheld_envelope_is_told_and_others_come(
    agent: RunningAgent, publisher: Publisher, web: WebServer, host: Host
) -> None:
    publisher.seal()
    publisher.publish()
    host.fetch()
    name = manifests.envelope_name(publisher.seal(value=b"new"))
    publisher.seal("web")
    publisher.publish()
    (publisher.folder / name).rename(publisher.folder / "aside")
    text = host.failed()
    assert "the envelope of mount 'prod.db' is withheld: the server at" in text
    assert f"answers 404 for /db1/prod/{name}" in text
    assert [mount["volume"] for mount in agent.status()["mounts"]] == ["prod.db", "prod.web"]
    assert (agent.mount() / "db_password").read_bytes() == b"s3cret"
    assert host.pull()["missing"] == ["prod.db"]
    assert "is withheld" in host.problems()[0]
    assert 'hostseal_manifest_missing{environment="prod"} 1\n' in _metrics(agent)
    host.failed()
    assert len(lines(agent, "refusal", what="fetch")) == 1
    # Another text under its name is not taken either, however good it is.
    (publisher.folder / name).write_text(publisher.seal("db", b"another"))
    assert "is not the one that the manifest names" in host.failed()
    (publisher.folder / "aside").rename(publisher.folder / name)
    web.take_seen()
    host.fetch()
    assert [status for _path, status in web.take_seen()] == [304, 200]
    assert (agent.published / "prod.db/db_password").read_bytes() == b"new"
    assert host.problems() == []


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"host": "db2"}, "is for another environment or host"),
        ({"by": JWK.generate(kty="OKP", crv="Ed25519")}, "signed by a key that is not pinned"),
        ({"key_set": "x"}, "it is not a JWS"),
    ],
)
def test_manifest_of_somebody_else_changes_nothing(
    agent: RunningAgent, publisher: Publisher, host: Host, more: dict[str, Any], words: str
) -> None:
    publisher.seal()
    publisher.publish()
    host.fetch()
    publisher.envelopes.clear()
    publisher.publish(**more)
    assert words in host.failed()
    assert [mount["volume"] for mount in agent.status()["mounts"]] == ["prod.db"]


def test_damaged_manifests(agent: RunningAgent, publisher: Publisher, host: Host) -> None:
    publisher.seal()
    text = publisher.publish()
    for damaged in ("", text[:-1], text.replace("\n", "", 1), "é" * 10, "x" * (manifests.MAX_MANIFEST_BYTES + 1)):
        (publisher.folder / "manifest").write_text(damaged)
        assert host.failed()
    assert agent.status()["mounts"] == []


def test_fetcher_may_do_nothing_else(agent: RunningAgent, publisher: Publisher, prod: Environment, host: Host) -> None:
    """Were it taken over: what it could hand over is what the environment signed for this host, in the newest manifest."""
    socket = fetch_socket(agent)
    assert stat.S_IMODE(socket.stat().st_mode) == 0o660
    publisher.seal()
    publisher.publish()
    host.fetch()
    for method, target in (
        ("GET", "/v1/status"),
        ("DELETE", "/v1/mounts/prod.db"),
        ("PUT", "/v1/environments/prod"),
        ("POST", "/v1/wipe"),
        ("POST", "/v1/proof"),
        ("PUT", "/v1/mounts/prod.db"),
    ):
        assert request(socket, method, target)[0] == 404
    good = prod.envelope(issued_at=now() + 5)
    status, answer = request(socket, "PUT", "/v1/mounts", json.dumps({"prod.db": good}))
    assert (status, answer) == (200, {"prod.db": {"reason": "no manifest names this envelope"}})
    assert request(socket, "PUT", "/v1/manifests/other", "x")[0] == 409
    assert request(socket, "PUT", "/v1/fetches/other", "{}")[0] == 409
    evil = "a\nb\x1b[31m" + "x" * 5000
    assert request(socket, "PUT", "/v1/fetches/prod", json.dumps({"reason": evil}))[0] == 200
    reason = host.pull()["reason"]
    assert len(reason) == 500
    assert reason.startswith("a?b?[31mx")
    assert (agent.mount() / "db_password").read_bytes() == b"s3cret"


def test_newer_keys_come_with_the_manifest(
    agent: RunningAgent, publisher: Publisher, prod: Environment, host: Host
) -> None:
    publisher.seal()
    publisher.publish()
    host.fetch()
    old, new = prod.signing_key, JWK.generate(kty="OKP", crv="Ed25519")
    both = prod.key_set(2000, [new, old], by=old)
    prod.signing_key = new
    publisher.seal(value=b"under the new key")
    publisher.publish(key_set=both)
    host.fetch()
    assert (agent.mount() / "db_password").read_bytes() == b"under the new key"
    publisher.publish(key_set=prod.key_set(3000, [new], by=new))
    host.fetch()
    assert agent.status()["environments"]["prod"] == {"kids": [new.thumbprint()], "issued_at": 3000}
    # Keys that nobody vouches for are not taken, and the manifest under them is not either.
    prod.signing_key = JWK.generate(kty="OKP", crv="Ed25519")
    publisher.publish(key_set=prod.key_set(4000))
    assert "not pinned" in host.failed()


def test_old_keys_go_when_all_is_under_the_new_ones(
    agent: RunningAgent, publisher: Publisher, prod: Environment, host: Host
) -> None:
    """Both in one manifest: while a mount is under the old key, the key stays; when it has come anew, the key goes."""
    new, old = JWK.generate(kty="OKP", crv="Ed25519"), prod.signing_key
    publisher.seal()
    publisher.publish(key_set=prod.key_set(2000, [new, old]))
    host.fetch()
    prod.signing_key = new
    publisher.seal(value=b"new")
    publisher.publish(key_set=prod.key_set(3000))
    host.fetch()
    assert agent.status()["environments"]["prod"]["kids"] == [new.thumbprint()]
    assert (agent.mount() / "db_password").read_bytes() == b"new"


def test_environment_that_comes_another_way_is_no_trouble(
    agent: RunningAgent, publisher: Publisher, host: Host
) -> None:
    staging = Environment("staging", host_key=agent.host_key)
    agent.pin(staging)
    publisher.seal()
    publisher.publish()
    host.fetch()
    assert agent.status()["pull"]["staging"]["reason"] is None
    # But what was there once is withheld when it is there no more.
    other = Publisher(staging, publisher.folder.parents[1])
    other.publish()
    host.fetch()
    (other.folder / "manifest").unlink()
    assert "answers 404 for /db1/staging/manifest" in host.failed()
    assert "answers 404" in agent.status()["pull"]["staging"]["reason"]
    other.publish()
    host.fetch()
    (publisher.folder / "manifest").unlink()
    assert "publish it with hostseal.secrets.seal, or check hostseal_pull_url" in host.failed()


@pytest.mark.parametrize(
    ("instead", "words"),
    [
        (Instead(301, b"", {"Location": "https://example.com/"}), "redirects are not followed, set hostseal_pull_url"),
        (Instead(403), "does not let this host in, check hostseal_pull_client_cert"),
        (Instead(404), "publish it with hostseal.secrets.seal"),
        (Instead(503), "it can't answer now"),
        (Instead(304), "redirects are not followed"),
        (Instead(200, b"x" * (manifests.MAX_MANIFEST_BYTES + 1)), "answers with more than"),
        (Instead(200, b"<html>"), "it is truncated or not a manifest"),
    ],
)
def test_answers_that_are_no_manifest(
    agent: RunningAgent, publisher: Publisher, web: WebServer, host: Host, instead: Instead, words: str
) -> None:
    publisher.seal()
    publisher.publish()
    web.instead["manifest"] = instead
    assert words in host.failed()
    assert words in host.pull()["reason"]
    assert agent.status()["mounts"] == []


def test_away_server_is_left_alone_for_longer_and_longer(
    agent: RunningAgent, publisher: Publisher, web: WebServer, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher.seal()
    publisher.publish()
    host.fetch()
    web.instead["manifest"] = Instead(503)
    clock = time.time()
    monkeypatch.setattr(_fetch.time, "time", lambda: clock)
    monkeypatch.setattr(_fetch.random, "uniform", lambda _low, high: high)
    web.take_seen()
    for pause in (120, 240, 480):
        host.failed(is_timed=True)
        clock += pause - 1
        host.fetch(is_timed=True)  # left out
        clock += 2
    assert len(web.take_seen()) == 3
    for _time in range(4):
        host.failed()
    memory = json.loads((host.folder / "state/memory.json").read_text())
    assert memory["not_before"] - clock == 3600
    # A person who runs it is not made to wait, and what is here stays.
    assert (agent.mount() / "db_password").read_bytes() == b"s3cret"
    web.instead["manifest"] = Instead(503, b"", {"Retry-After": "600"})
    (host.folder / "state/memory.json").unlink()
    host.failed()
    assert json.loads((host.folder / "state/memory.json").read_text())["not_before"] - clock == 600
    web.instead.clear()
    host.fetch()
    assert json.loads((host.folder / "state/memory.json").read_text())["not_before"] <= clock
    (host.folder / "state/memory.json").write_text("[]")
    host.fetch()


def test_server_that_is_not_to_be_trusted(
    agent: RunningAgent, publisher: Publisher, web: WebServer, tmp_path: Path
) -> None:
    publisher.seal()
    publisher.publish()
    other = Host(agent, web, tmp_path / "other")
    strange = certificates.authority(tmp_path, "strange")
    (other.folder / "credentials/fetch-ca.pem").write_bytes(strange.cert.read_bytes())
    assert "no trusted connection with the server at" in other.failed()
    gone = Host(agent, web, tmp_path / "gone", "https://127.0.0.1:1/x")
    assert "can't be reached: Connection refused" in gone.failed()
    for url in ("http://127.0.0.1/", "https://u:p@127.0.0.1/", "https://127.0.0.1:99999/", "https:///x"):
        bad = Host(agent, web, tmp_path / str(abs(hash(url))), url)
        assert "is not like https://" in bad.failed()


def test_client_certificate(agent: RunningAgent, prod: Environment, tmp_path: Path) -> None:
    (tmp_path / "web").mkdir()
    with WebServer(tmp_path / "web", tmp_path, clients=True) as web:
        publisher = Publisher(prod, web.root)
        publisher.seal()
        publisher.publish()
        host = Host(agent, web, tmp_path / "fetcher")
        host.failed()
        identity = certificates.issue(web.authority, tmp_path, "client", "db1", client=True)
        (host.folder / "credentials/fetch-client.pem").write_bytes(identity.cert.read_bytes())
        (host.folder / "credentials/fetch-client.key").write_bytes(identity.key.read_bytes())
        host.fetch()
    assert (agent.mount() / "db_password").exists()


def test_agent_without_fetcher_has_no_socket_for_it(bare: RunningAgent) -> None:
    bare.start()
    assert not fetch_socket(bare).exists()
    assert bare.status()["pull"] == {}


def test_wipe_forgets_manifests(agent: RunningAgent, publisher: Publisher, host: Host) -> None:
    publisher.seal()
    publisher.publish()
    host.fetch()
    assert agent.control("POST", "/v1/wipe")[1] == {"changed": True}
    assert agent.status()["pull"] == {}
    assert list((agent.state / "manifests").iterdir()) == []
