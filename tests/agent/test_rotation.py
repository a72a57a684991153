# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A host's key is rotated: two keys open, the old one vouches for the new one, and goes when nothing needs it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils._agent_client import AgentClient, AgentError
from ansible_collections.hostseal.secrets.plugins.module_utils._jose import dump_host_keys, load_host_keys, new_host_key
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.module_utils._proof import new_challenge, read_proof
from ansible_collections.hostseal.secrets.plugins.modules.host import prove
from ansible_collections.hostseal.secrets.plugins.modules.host_identity import Identity, ensure
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK

from tests.agent.harness import Environment, RunningAgent

NEW = new_host_key()
CHANGES = ("open", "write", "fsync", "fchmod", "link", "rename", "unlink", "makedirs")


@pytest.fixture
def client(agent: RunningAgent) -> AgentClient:
    return AgentClient(str(agent.control_socket))


def rotate(agent: RunningAgent, prod: Environment) -> JWK:
    """Start AGENT anew with another key beside the present one, which is the answer. PROD seals for the old one."""
    old = agent.host_key
    agent.kill()
    agent.older_keys = [old, *agent.older_keys]
    agent.host_key = NEW
    agent.save_identity()
    agent.start()
    assert prod.host_key is old
    return old


def test_key_files() -> None:
    keys = [new_host_key() for _number in range(3)]
    for some in (keys, keys[:1]):
        assert [key.thumbprint() for key in load_host_keys(dump_host_keys(some))] == [key.thumbprint() for key in some]
    public = keys[0].export_public()
    for text in ('{"keys": []}', '{"keys": 1}', '{"keys": [' + ",".join([keys[0].export_private()] * 9) + "]}", public):
        with pytest.raises(HostsealError):
            load_host_keys(text)


def test_both_keys_open_until_nothing_needs_the_old_one(
    agent: RunningAgent, prod: Environment, client: AgentClient
) -> None:
    agent.deliver(prod.envelope())
    agent.deliver(prod.envelope("web"), "prod.web")
    old = rotate(agent, prod)
    kid = old.thumbprint()
    assert agent.status()["kid"] == NEW.thumbprint()
    assert agent.status()["older_keys"] == [{"kid": kid, "needed": True}]
    assert (agent.mount() / "db_password").read_bytes() == b"s3cret"
    # Who has not enrolled it anew yet still delivers under the old key.
    agent.deliver(prod.envelope(files={"db_password": b"under the old key"}))
    assert (agent.published / "prod.db/db_password").read_bytes() == b"under the old key"
    prod.host_key = NEW
    agent.deliver(prod.envelope(files={"db_password": b"under the new key"}))
    assert (agent.published / "prod.db/db_password").read_bytes() == b"under the new key"
    with pytest.raises(AgentError, match="still needed"):
        client.forget_key(kid)
    with pytest.raises(AgentError, match="not an older one"):
        client.forget_key(NEW.thumbprint())
    agent.deliver(prod.envelope("web"), "prod.web")
    assert agent.status()["older_keys"] == [{"kid": kid, "needed": False}]
    assert client.forget_key(kid) == {"changed": True}
    assert client.forget_key(kid) == {"changed": False}
    assert agent.status()["older_keys"] == []
    assert [(line["kid"], line["present"]) for line in agent.audit() if line["event"] == "key_destroyed"] == [
        (kid, NEW.thumbprint())
    ]
    prod.host_key = old
    assert "another key than this host's" in agent.refused(prod.envelope())
    assert agent.status()["mounts"][0]["valid"]


def test_a_key_that_nobody_was_told_of_does_not_replace_one(
    agent: RunningAgent, prod: Environment, client: AgentClient
) -> None:
    """With no mounts at all: only the first envelope under the new key shows that the host was enrolled with it."""
    old = rotate(agent, prod)
    assert agent.status()["older_keys"] == [{"kid": old.thumbprint(), "needed": True}]
    with pytest.raises(AgentError, match="still needed"):
        client.forget_key(old.thumbprint())


class TestProof:
    """What a control node learns from the answer to a challenge."""

    def test_the_holder_of_the_old_key_vouches(
        self, agent: RunningAgent, prod: Environment, client: AgentClient
    ) -> None:
        old = rotate(agent, prod)
        challenge, secret = new_challenge("db1", JWK(**old.export_public(as_dict=True)))
        proof = prove(client, {old.thumbprint(): challenge})[old.thumbprint()]
        assert read_proof(proof, "db1", secret).thumbprint() == NEW.thumbprint()
        assert agent.audit()[-1]["event"] == "proof"
        for host, key in (("db2", secret), ("db1", JWK.generate(kty="oct", size=256))):
            with pytest.raises(HostsealError):
                read_proof(proof, host, key)
        head, body, tail = proof.split(".")
        for edited in (f"{head}.{body[:-4]}AAAA.{tail}", f"{head}.{body}.{tail[::-1]}", "", "a.b.c", proof + "."):
            with pytest.raises(HostsealError):
                read_proof(edited, "db1", secret)

    def test_nobody_else_does(self, agent: RunningAgent, prod: Environment, client: AgentClient) -> None:
        other = new_host_key()
        elsewhere, _secret = new_challenge("db2", agent.host_key)
        unknown, _secret = new_challenge("db1", other)
        files = prod.envelope().split("\n")[1]  # an envelope's ciphertext is no challenge
        for text in (elsewhere, unknown, files, "", "x", "a.b.c.d.e", elsewhere[:-5], "x" * 5000):
            with pytest.raises(AgentError, match="gives no proof") as refused:
                client.prove(text)
            assert refused.value.status == 409
        assert prove(client, {"1": unknown}) == {}
        assert "s3cret" not in agent.log

    def test_only_what_calls_itself_a_challenge_is_one(self, agent: RunningAgent, client: AgentClient) -> None:
        """The payload alone does not make it one: what is encrypted to the host for another purpose is not answered."""
        header = {"alg": "ECDH-ES+A256KW", "enc": "A256GCM", "kid": agent.host_key.thumbprint()}
        payload = json.dumps({"format": 1, "host": "db1", "k": "A" * 43})
        for more in ({}, {"typ": "hostseal-files+json"}, {"typ": "hostseal-challenge+json", "zip": "DEF"}):
            token = JWE(payload, protected=json.dumps({**header, **more}))
            token.add_recipient(JWK(**agent.host_key.export_public(as_dict=True)))
            with pytest.raises(AgentError, match="gives no proof"):
                client.prove(token.serialize(compact=True))

    def test_a_challenge_is_no_envelope(self, agent: RunningAgent, prod: Environment) -> None:
        challenge, _secret = new_challenge("db1", agent.host_key)
        statement = prod.envelope().split("\n")[0]
        assert "not the one that was signed" in agent.refused(f"{statement}\n{challenge}\n")


class FakeAgent:
    """What the module asks of an agent; the real one is in the tests above and on real hosts."""

    def __init__(self, kid: str, needed: dict[str, bool]) -> None:
        self.kid = kid
        self.needed = needed
        self.forgotten: list[str] = []

    def status(self) -> dict[str, Any]:
        older = [{"kid": kid, "needed": needed} for kid, needed in self.needed.items()]
        return {"host": "db1", "kid": self.kid, "older_keys": older}

    def forget_key(self, kid: str) -> dict[str, Any]:
        self.forgotten.append(kid)
        return {"changed": True}


class TestModule:
    """host_identity with state: rotated, and the run after it."""

    @pytest.fixture
    def identity(self, tmp_path: Path) -> Identity:
        identity = Identity(str(tmp_path / "etc"))
        ensure(identity, "db1", rename=False, check=False)
        return identity

    @staticmethod
    def kids(identity: Identity) -> list[str]:
        return [key.thumbprint() for key in identity.load_keys()]

    def test_rotation_and_the_end_of_the_old_key(self, identity: Identity) -> None:
        (old,) = self.kids(identity)
        predicted = ensure(identity, "db1", rename=False, check=True, rotate=True)
        assert predicted["changed"]
        assert self.kids(identity) == [old]
        result = ensure(identity, "db1", rename=False, check=False, rotate=True, client=FakeAgent(old, {}))
        new, still = self.kids(identity)
        assert (still, result["public_key"]["kid"], result["older_keys"]) == (old, new, [old])
        assert result["restart_needed"]
        assert "d" not in result["public_key"]
        # The agent does not know the new key, then needs the old one, then is not there.
        for client in (FakeAgent(old, {}), FakeAgent(new, {old: True}), None):
            result = ensure(identity, "db1", rename=False, check=False, client=client)
            assert (result["changed"], result["destroyed_keys"], self.kids(identity)) == (False, [], [new, old])
        with Path(identity.key_path).open("rb") as file:
            text = file.read()
            agent = FakeAgent(new, {old: False})
            predicted = ensure(identity, "db1", rename=False, check=True, client=agent)
            assert (predicted["changed"], predicted["destroyed_keys"], agent.forgotten) == (True, [old], [])
            result = ensure(identity, "db1", rename=False, check=False, client=agent)
            assert (result["changed"], result["destroyed_keys"], agent.forgotten) == (True, [old], [old])
            assert result["restart_needed"]
            assert self.kids(identity) == [new]
            file.seek(0)
            assert file.read() == bytes(len(text))  # what lay on the disk was overwritten
        assert sorted(os.listdir(identity.folder)) == ["host.json", "host.key"]
        again = ensure(identity, "db1", rename=False, check=False, client=FakeAgent(new, {}))
        assert (again["changed"], again["restart_needed"]) == (False, False)

    def test_another_rotation_before_the_first_has_ended(self, identity: Identity) -> None:
        for _number in range(7):
            ensure(identity, "db1", rename=False, check=False, rotate=True)
        assert len(self.kids(identity)) == 8
        with pytest.raises(HostsealError, match="has 8 keys already"):
            ensure(identity, "db1", rename=False, check=False, rotate=True)
        newest, *older = self.kids(identity)
        agent = FakeAgent(newest, dict.fromkeys(older, False) | {older[-1]: True})
        assert ensure(identity, "db1", rename=False, check=False, client=agent)["destroyed_keys"] == older[:-1]
        assert self.kids(identity) == [newest, older[-1]]

    @pytest.mark.parametrize("rotated", [True, False])
    def test_killed_at_every_step(self, tmp_path: Path, rotated: bool) -> None:
        for step in range(1, 100):
            identity = Identity(str(tmp_path / str(step)))
            ensure(identity, "db1", rename=False, check=False)
            if not rotated:
                ensure(identity, "db1", rename=False, check=False, rotate=True)
            before = self.kids(identity)
            secrets = {key.thumbprint(): key.export_private(as_dict=True)["d"] for key in identity.load_keys()}
            agent = FakeAgent(before[0], dict.fromkeys(before[1:], False))
            status = _apart(lambda i=identity, a=agent: _run(i, rotated, a), step)
            after = self.kids(identity)
            assert after in (before, [after[0], *before] if rotated else before[:1])
            result = ensure(identity, "db1", rename=False, check=False, client=agent)
            assert sorted(os.listdir(identity.folder)) == ["host.json", "host.key"], step
            assert self.kids(identity) == (after if rotated else before[:1]), step
            if not rotated:
                assert result["public_key"]["kid"] == before[0]
                assert secrets[before[1]] not in Path(identity.key_path).read_text()
            if status == 0:
                assert step > 8
                return
            assert status == 9
        raise AssertionError("it never came to an end")


def _run(identity: Identity, rotated: bool, agent: FakeAgent) -> None:
    ensure(identity, "db1", rename=False, check=False, rotate=rotated, client=None if rotated else agent)


def _apart(work: Callable[[], None], step: int) -> int:
    """WORK in a process of its own, which dies before the STEPth change of a file: its exit status."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = [step]

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **options: Any) -> Any:
            left[0] -= function.__name__ != "open" or bool(arguments[1] & (os.O_CREAT | os.O_WRONLY))
            if left[0] == 0:
                os._exit(9)
            return function(*arguments, **options)

        return wrapper

    try:
        for name in CHANGES:
            setattr(os, name, wrap(getattr(os, name)))
        work()
        os._exit(0)
    finally:
        os._exit(1)
