# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The modules that run on a host, and the file that they install there."""

from __future__ import annotations

import json
import os
import stat
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.hostseal.secrets.plugins.module_utils._agent_client import (
    AgentClient,
    AgentError,
    AgentMissing,
)
from ansible_collections.hostseal.secrets.plugins.module_utils._jose import load_host_key
from ansible_collections.hostseal.secrets.plugins.module_utils._model import MAX_ENVELOPES, HostsealError
from ansible_collections.hostseal.secrets.plugins.modules.agent_info import gather, protection
from ansible_collections.hostseal.secrets.plugins.modules.host import pin
from ansible_collections.hostseal.secrets.plugins.modules.host_identity import Identity, ensure
from ansible_collections.hostseal.secrets.plugins.modules.mount import deliver
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _zipapp
from hostseald import VERSION
from jwcrypto.jwk import JWK

from tests.agent.harness import CHECKOUT, Environment, RunningAgent


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return Identity(str(tmp_path / "etc"))


def made(identity: Identity) -> Path:
    ensure(identity, "db1", rename=False, check=False)
    return Path(identity.key_path)


def test_a_key_pair_is_made_once(identity: Identity) -> None:
    predicted = ensure(identity, "db1", rename=False, check=True)
    assert (predicted["changed"], predicted["public_key"]) == (True, None)
    assert not Path(identity.folder).exists()
    first = ensure(identity, "db1", rename=False, check=False)
    assert first["changed"]
    assert "d" not in first["public_key"]
    key = load_host_key(Path(identity.key_path).read_text(), private=True)
    assert first["public_key"] == key.export_public(as_dict=True)
    assert first["public_key"]["kid"] == key.thumbprint()
    assert stat.S_IMODE(os.stat(identity.key_path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(identity.name_path).st_mode) == 0o644
    assert json.loads(Path(identity.name_path).read_text()) == {"host": "db1", "jwk": first["public_key"]}
    before = os.stat(identity.key_path)
    for check in (True, False):
        again = ensure(identity, "db1", rename=False, check=check)
        assert (again["changed"], again["public_key"]) == (False, first["public_key"])
    after = os.stat(identity.key_path)
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert sorted(os.listdir(identity.folder)) == ["host.json", "host.key"]


def test_another_name_is_an_error_unless_told(identity: Identity) -> None:
    made(identity)
    with pytest.raises(HostsealError, match="rename: true"):
        ensure(identity, "db2", rename=False, check=False)
    renamed = ensure(identity, "db2", rename=True, check=False)
    assert (renamed["changed"], renamed["host"]) == (True, "db2")
    assert not ensure(identity, "db2", rename=False, check=False)["changed"]


def test_a_lost_or_edited_name_file_is_made_anew(identity: Identity) -> None:
    key = made(identity).read_bytes()
    for content in (None, "{", '{"host": "db1"}'):
        Path(identity.name_path).unlink()
        if content is not None:
            Path(identity.name_path).write_text(content)
        assert ensure(identity, "db1", rename=False, check=False)["changed"]
        assert not ensure(identity, "db1", rename=False, check=False)["changed"]
    assert Path(identity.key_path).read_bytes() == key


def loose(path: Path) -> None:
    path.chmod(0o640)


def linked(path: Path) -> None:
    path.rename(path.with_suffix(".x"))
    path.symlink_to(path.with_suffix(".x"))


def foreign(path: Path) -> None:
    os.chown(path, 65534, 65534)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:30])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def binary(path: Path) -> None:
    path.write_bytes(b"\xff" * 100)


def other_kind(path: Path) -> None:
    path.write_text(Environment().signing_key.export_private())


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path, 0o600)


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir(0o700)


@pytest.mark.parametrize(
    "damage", [loose, linked, foreign, truncated, emptied, binary, other_kind, a_fifo, a_directory]
)
def test_a_key_file_that_is_not_to_be_trusted(identity: Identity, damage: Callable[[Path], None]) -> None:
    path = made(identity)
    secret = json.loads(path.read_text())["d"]
    damage(path)
    before = os.lstat(path)
    for check in (True, False):
        with pytest.raises(HostsealError, match=r"host\.key") as caught:
            ensure(identity, "db1", rename=False, check=check)
        assert secret[:10] not in str(caught.value)
    assert os.lstat(path).st_ino == before.st_ino


def test_the_client(agent: RunningAgent) -> None:
    client = AgentClient(str(agent.control_socket))
    prod = Environment(host_key=agent.host_key)
    assert client.pin("prod", prod.key_set()) == {"changed": True, "kids": [prod.kid]}
    assert client.deliver({"prod.db": prod.envelope()})["prod.db"]["changed"]
    many = {f"prod.m{number}": prod.envelope(f"m{number}") for number in range(MAX_ENVELOPES + 1)}
    large = {f"prod.large{number}": prod.envelope(f"large{number}", {"a": b"x" * 400_000}) for number in range(4)}
    outcomes = client.deliver({**many, **large})
    assert {volume: outcome["changed"] for volume, outcome in outcomes.items()} == dict.fromkeys(
        {**many, **large}, True
    )
    for volume in outcomes:
        assert client.remove(volume) == {"changed": True}
    assert client.status()["mounts"][0]["valid"]
    assert "for host 'other'" in client.deliver({"prod.db": prod.envelope(host="other")})["prod.db"]["reason"]
    info = gather(client)
    assert info["agent"]["installed"]
    assert [mount["volume"] for mount in info["mounts"]] == ["prod.db"]
    assert len(info["problems"]) == 1 + (not info["agent"]["tmpfs"]["noswap"])  # no helper here
    assert client.remove("prod.db") == {"changed": True}
    assert client.wipe() == {"changed": False}


class TestKeySets:
    """What the modules host and mount do on a host with the key sets that their action plugins hand over."""

    @pytest.fixture
    def new(self) -> JWK:
        return JWK.generate(kty="OKP", crv="Ed25519")

    @staticmethod
    def sets(prod: Environment, new: JWK) -> tuple[str, str]:
        keys = [new, prod.signing_key]
        return "\n".join(prod.key_set(2000, keys, by=key) for key in keys), prod.key_set(3000, [new], by=new)

    @staticmethod
    def deliver(
        agent: RunningAgent, key_set: tuple[str, int, str], *envelopes: tuple[str, str], check: bool = False
    ) -> dict[str, Any]:
        mounts = [
            {"volume": volume, "state_digest": "0" * 64, "renew_before": 0, "envelope": text}
            for volume, text in envelopes
        ]
        request = {"host": "db1", "key_sets": {"prod": key_set}, "mounts": mounts, "remove": [], "purge": None}
        answer: dict[str, Any] = deliver(AgentClient(str(agent.control_socket)), request, check)
        return answer

    def test_mount_brings_what_an_older_key_vouches_for(self, agent: RunningAgent, prod: Environment, new: JWK) -> None:
        agent.deliver(prod.envelope())
        both, alone = self.sets(prod, new)
        first = (new.thumbprint(), 2000, both)
        assert self.deliver(agent, first, check=True)["pinned"] == {"prod": True}
        assert agent.status()["environments"]["prod"]["kids"] == [prod.kid]
        assert self.deliver(agent, first)["pinned"] == {"prod": True}
        assert self.deliver(agent, first)["pinned"] == {"prod": False}
        assert self.deliver(agent, first, check=True)["pinned"] == {"prod": False}
        # The same keys, but newer: what is retired has to go.
        last = (new.thumbprint(), 3000, alone)
        with pytest.raises(AgentError, match=r"mount 'prod\.db' is still sealed under a key that the set leaves out"):
            self.deliver(agent, last)
        prod.signing_key = new
        answer = self.deliver(agent, first, ("prod.db", prod.envelope()))
        assert [entry["action"] for entry in answer["results"]] == ["delivered"]
        assert self.deliver(agent, last)["pinned"] == {"prod": True}
        assert agent.status()["environments"]["prod"] == {"kids": [new.thumbprint()], "issued_at": 3000}
        # A restored backup of the store has an older set, which the host is past.
        assert self.deliver(agent, first)["pinned"] == {"prod": False}

    def test_mount_pins_nothing_first(self, agent: RunningAgent, new: JWK) -> None:
        prod = Environment(host_key=agent.host_key)
        key_set = (prod.kid, 2000, self.sets(prod, new)[0])
        with pytest.raises(AgentError, match="enrol it"):
            self.deliver(agent, key_set)
        assert self.deliver(agent, key_set, check=True)["pinned"] == {"prod": True}
        assert agent.status()["environments"] == {}

    def test_host_brings_them_too(self, agent: RunningAgent, prod: Environment, new: JWK) -> None:
        both, alone = self.sets(prod, new)
        client = AgentClient(str(agent.control_socket))

        def bring(text: str, issued_at: int, check: bool = False, replace_key: bool = False) -> dict[str, bool]:
            key_sets = {"prod": (new.thumbprint(), issued_at, text)}
            request = {"host": "db1", "kid": agent.host_key.thumbprint(), "replace_key": replace_key}
            return dict(pin(client, {**request, "key_sets": key_sets}, check))

        agent.deliver(prod.envelope())
        with pytest.raises(AgentError, match="not pinned"):
            bring(alone, 3000)
        assert [bring(both, 2000, check) for check in (True, False, False)] == [
            {"prod": True},
            {"prod": True},
            {"prod": False},
        ]
        with pytest.raises(AgentError, match="is still sealed under a key that the set leaves out"):
            bring(alone, 3000)
        assert bring(alone, 3000, replace_key=True) == {"prod": True}
        assert agent.status()["environments"]["prod"]["issued_at"] == 3000


def test_the_client_without_an_agent(tmp_path: Path) -> None:
    client = AgentClient(str(tmp_path / "nothing"))
    with pytest.raises(AgentMissing, match="host_agent") as missing:
        client.status()
    assert missing.value.status is None
    assert gather(client) == {"agent": {"installed": False}, "problems": []}


def test_equal_sources_give_equal_bytes() -> None:
    sources = _zipapp.agent_sources(CHECKOUT)
    first = _zipapp.build(sources)
    assert first == _zipapp.build(dict(reversed(sources.items())))
    with zipfile.ZipFile(BytesIO(first)) as archive:
        names = archive.namelist()
        assert names == sorted(names)
        assert {"__main__.py", "hostseald/_model.py", "hostseald/_envelope.py", "hostseald/__main__.py"} <= set(names)
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_the_agent_has_the_collections_version() -> None:
    assert yaml.safe_load((CHECKOUT / "galaxy.yml").read_text())["version"] == VERSION


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        # The second is the beginning of the example in systemd's own documentation, systemd.io/CREDENTIALS.
        ("Whxqht+dQJax1aZeCGLxmgAAAAABAAAADAAAABAAAAA=", "host"),
        ("k6iUCUh0RJCQyvL8k8q1UyAAAAABAAAADAAAABAAAAC1", "host+tpm2"),
        ("DHzAexF2RZGcSwvqCLwg/gAAAAABAAAADAAAABAAAAC1", "tpm2"),
        ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", "systemd-creds"),
        ("", "systemd-creds"),
        (None, "systemd-creds"),
    ],
)
def test_what_a_key_is_encrypted_by(tmp_path: Path, content: str | None, kind: str) -> None:
    path = tmp_path / "host.key.cred"
    if content is not None:
        path.write_text(content)
    assert protection("systemd-creds", str(path)) == kind
    assert protection("file", str(path)) == "file"
