# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The control socket of a real agent process: what is accepted, what is refused, and that the good one stays."""

from __future__ import annotations

import json
import threading
import time

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils._envelope import unverified_statement
from ansible_collections.hostseal.secrets.plugins.module_utils._jose import new_host_key
from jwcrypto.jwk import JWK

from tests.agent.harness import Environment, RunningAgent


def test_a_receipt_says_what_is_held(agent: RunningAgent, prod: Environment) -> None:
    envelope = prod.envelope(files={"b": b"1", "a": b"2"}, version=3)
    before = int(time.time() * 1000)
    receipt = agent.deliver(envelope)
    assert before <= receipt.pop("accepted_at") <= int(time.time() * 1000)
    status = agent.status()
    digest = status["mounts"][0]["state_digest"]
    assert receipt == {
        "volume": "prod.db",
        "environment": "prod",
        "mount": "db",
        "host": "db1",
        "issued_at": prod.issued_at,
        "state_digest": digest,
        "live": False,
        "users": 0,
        "changed": True,
        "secrets": [{"name": "b", "version": 3}, {"name": "a", "version": 3}],
    }
    assert (agent.state / "mounts/prod.db").read_text() == envelope
    assert status["mounts"][0]["valid"]
    assert status["marks"] == {"prod.db": prod.issued_at}
    assert status["environments"]["prod"]["kids"] == [prod.kid]
    assert status["kid"] == agent.host_key.thumbprint()


def test_the_same_envelope_again_changes_nothing(agent: RunningAgent, prod: Environment) -> None:
    envelope = prod.envelope()
    agent.deliver(envelope)
    assert agent.deliver(envelope)["changed"] is False


def refused_and_unharmed(agent: RunningAgent, envelope: str | bytes, why: str, volume: str = "prod.db") -> None:
    before = (agent.state / "mounts/prod.db").read_bytes()
    reason = agent.refused(envelope, volume)
    assert why in reason
    assert volume in reason
    assert (agent.state / "mounts/prod.db").read_bytes() == before
    assert (agent.mount() / "db_password").read_bytes() == b"s3cret"
    agent.unmount()
    assert agent.audit()[-4]["event"] == "refusal"


def test_what_is_not_for_this_host_or_mount_or_time(agent: RunningAgent, prod: Environment) -> None:
    agent.deliver(prod.envelope())
    refused_and_unharmed(agent, prod.envelope(host="db2"), "for host 'db2'")
    refused_and_unharmed(agent, prod.envelope("web"), "for mount 'prod.web'")
    refused_and_unharmed(agent, prod.envelope(issued_at=prod.issued_at - 5), "not after")
    # As old as the held one, but another one.
    held = agent.status()["mounts"][0]["issued_at"]
    refused_and_unharmed(agent, prod.envelope(issued_at=held), "not after")
    other = Environment("prod", host_key=agent.host_key)
    other.issued_at = prod.issued_at + 10
    refused_and_unharmed(agent, other.envelope(), "not pinned")
    wrong_key = Environment("prod")
    wrong_key.signing_key = prod.signing_key
    wrong_key.issued_at = prod.issued_at + 10
    refused_and_unharmed(agent, wrong_key.envelope(), "another key than this host's")
    staging = Environment("staging", host_key=agent.host_key)
    assert "enrol it" in agent.refused(staging.envelope(), "staging.db")


def test_expired_envelopes_are_refused_at_delivery_and_at_mount(agent: RunningAgent, prod: Environment) -> None:
    now = int(time.time() * 1000)
    old = prod.envelope(issued_at=now - 5_000, options={"expires_after": 3})
    assert "it expired at" in agent.refused(old)
    agent.deliver(prod.envelope(issued_at=now - 1_000, options={"expires_after": 2}))
    folder = agent.mount()
    time.sleep(1.2)
    assert "it expired at" in agent.refused_mount()
    status = agent.status()["mounts"][0]
    assert not status["valid"]
    assert "it expired at" in status["reason"]
    assert (folder / "db_password").exists()
    agent.unmount()
    assert "it expired at" in agent.refused_mount()


def test_damaged_envelopes(agent: RunningAgent, prod: Environment) -> None:
    agent.deliver(prod.envelope())
    good = prod.envelope()
    for length in (0, 1, len(good) // 3, len(good) - 1):
        assert agent.refused(good[:length])
    for place in range(0, len(good), 37):
        flipped = bytearray(good.encode())
        flipped[place] ^= 1
        assert agent.refused(bytes(flipped))
    refused_and_unharmed(agent, b"\xff" * 100, "not an envelope")
    agent.deliver(good)


def test_the_mark_outlives_removal_and_restart(agent: RunningAgent, prod: Environment) -> None:
    old = prod.envelope()
    agent.deliver(old)
    newest = prod.envelope()
    agent.deliver(newest)
    agent.control("DELETE", "/v1/mounts/prod.db")
    for envelope in (old, newest):
        assert "not after" in agent.refused(envelope)
    assert agent.status()["marks"] == {"prod.db": prod.issued_at}
    agent.kill()
    agent.start()
    for envelope in (old, newest):
        assert "not after" in agent.refused(envelope)
    agent.deliver(prod.envelope())


def test_several_at_once(agent: RunningAgent, prod: Environment) -> None:
    """Each is taken or refused by itself."""
    held = prod.envelope("held")
    agent.deliver(held, "prod.held")
    agent.deliver(prod.envelope("live", {"a": b"old"}), "prod.live")
    folder = agent.mount("prod.live")
    sent = {
        "prod.other": prod.envelope("other", host="db2"),
        "prod.held": held,
        "prod.live": prod.envelope("live", {"a": b"new"}),
        "prod.new": prod.envelope("new"),
        "prod.torn": prod.envelope("torn")[:-3],
        "prod.swapped": prod.envelope("elsewhere"),
        "staging.db": Environment("staging", host_key=agent.host_key).envelope(),
    }
    status, outcomes = agent.control("PUT", "/v1/mounts", json.dumps(sent))
    assert status == 200
    assert {volume: outcome.get("changed") for volume, outcome in outcomes.items()} == {
        "prod.other": None,
        "prod.held": False,
        "prod.live": True,
        "prod.new": True,
        "prod.torn": None,
        "prod.swapped": None,
        "staging.db": None,
    }
    assert {volume: outcome.get("live") for volume, outcome in outcomes.items() if "live" in outcome} == {
        "prod.held": False,
        "prod.live": True,
        "prod.new": False,
    }
    for volume, why in (("prod.other", "for host 'db2'"), ("prod.swapped", "for mount 'prod.elsewhere'")):
        assert why in outcomes[volume]["reason"]
    assert (folder / "a").read_bytes() == b"new"
    assert [mount["volume"] for mount in agent.status()["mounts"]] == ["prod.held", "prod.live", "prod.new"]
    told = {line["volume"]: line for line in agent.audit() if line["event"] in ("deliver", "refusal")}
    assert {volume: line["event"] for volume, line in told.items()} == {
        volume: "deliver" if "changed" in outcome else "refusal" for volume, outcome in outcomes.items()
    }
    # Refused or not, the control node's log has the same id.
    for volume, line in told.items():
        issued_at = unverified_statement(sent[volume]).issued_at if volume != "prod.torn" else None
        assert line.get("delivery") == (issued_at and f"db1/{volume}/{issued_at}")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"[]", "not a JSON object"),
        (b"{", "not JSON"),
        (b'{"prod.db": 5}', "not a text"),
        (b'{"../../db": "x"}', "environment name is empty"),
        (json.dumps({f"prod.m{number}": "x" for number in range(129)}).encode(), "at most 128"),
    ],
)
def test_what_is_no_delivery(agent: RunningAgent, body: bytes, why: str) -> None:
    status, answer = agent.control("PUT", "/v1/mounts", body)
    assert status in (400, 409, 413)
    assert why in answer["reason"]


def test_too_long_a_body(agent: RunningAgent, prod: Environment) -> None:
    status, answer = agent.control("PUT", "/v1/mounts/prod.db", b"x" * (20 << 20))
    assert status == 413
    assert "at most" in answer["reason"]
    del prod


def test_the_largest_mount_passes(bare: RunningAgent) -> None:
    agent = bare.start()
    prod = Environment(host_key=agent.host_key)
    agent.pin(prod)
    files = {f"f{number}": bytes([number]) * (1 << 20) for number in range(8)}
    agent.deliver(prod.envelope(files=files))
    folder = agent.mount()
    assert all((folder / name).read_bytes() == data for name, data in files.items())
    assert agent.deliver(prod.envelope(files=files))["live"]


def test_bad_volume_names(agent: RunningAgent, prod: Environment) -> None:
    for name in ("../x", "prod", "prod.", ".db", "prod./x", "prod.%00", "a" * 64 + ".db"):
        status, answer = agent.control("PUT", f"/v1/mounts/{name}", prod.envelope())
        assert (status, bool(answer["reason"])) in ((409, True), (404, True)), name
        for call in ("Create", "Mount", "Unmount"):
            answer = agent.plugin(f"VolumeDriver.{call}", Name=name.replace("%00", "\0"), ID="a")
            assert answer["Err"], (call, name)
    assert list(agent.volumes.iterdir()) == []


class TestPinning:
    def test_a_pinned_key_vouches_for_the_next(self, agent: RunningAgent, prod: Environment) -> None:
        old, new = prod.signing_key, JWK.generate(kty="OKP", crv="Ed25519")
        both = prod.key_set(2000, [old, new])
        assert agent.pin(prod, both)[1] == {"changed": True, "kids": sorted([old.thumbprint(), new.thumbprint()])}
        assert agent.pin(prod, both)[1]["changed"] is False
        assert agent.pin(prod, prod.key_set(3000, [new], by=old))[1]["kids"] == [new.thumbprint()]
        assert "not pinned" in agent.refused(prod.envelope())
        prod.signing_key = new
        agent.deliver(prod.envelope())

    def test_a_stranger_is_refused_unless_told(self, agent: RunningAgent, prod: Environment) -> None:
        agent.deliver(prod.envelope())
        stranger = Environment("prod", host_key=agent.host_key)
        status, answer = agent.pin(stranger, stranger.key_set(9000))
        assert status == 409
        assert "not pinned" in answer["reason"]
        assert agent.status()["mounts"][0]["valid"]
        status, answer = agent.pin(stranger, stranger.key_set(9000), replace_key=True)
        assert (status, answer["kids"]) == (200, [stranger.kid])
        mount = agent.status()["mounts"][0]
        assert not mount["valid"]
        assert "not pinned" in mount["reason"]
        assert "not pinned" in agent.refused_mount()
        assert agent.audit()[-2]["replaced"] is True

    def test_an_older_set_is_refused(self, agent: RunningAgent, prod: Environment) -> None:
        agent.pin(prod, prod.key_set(5000))
        status, answer = agent.pin(prod, prod.key_set(4000))
        assert status == 409
        assert "newer one" in answer["reason"]
        other = JWK.generate(kty="OKP", crv="Ed25519")
        assert agent.pin(prod, prod.key_set(5000, [prod.signing_key, other]))[0] == 409

    def test_another_environments_set_is_refused(self, agent: RunningAgent, prod: Environment) -> None:
        status, answer = agent.control("PUT", "/v1/environments/staging", prod.key_set())
        assert status == 409
        assert "for environment 'prod'" in answer["reason"]

    def test_an_envelope_is_no_key_set(self, agent: RunningAgent, prod: Environment) -> None:
        assert agent.pin(Environment("staging"), prod.envelope().split("\n")[0])[0] == 409

    def test_pins_survive_a_kill(self, agent: RunningAgent, prod: Environment) -> None:
        agent.deliver(prod.envelope())
        agent.kill()
        agent.start()
        assert agent.status()["environments"]["prod"]["kids"] == [prod.kid]
        agent.mount()


def both(prod: Environment, new: JWK, issued_at: int = 2000) -> str:
    """A key set with the present key and a NEW one, signed by both."""
    keys = [new, prod.signing_key]
    return "\n".join(prod.key_set(issued_at, keys, by=key) for key in keys)


class TestRollover:
    @pytest.fixture
    def new(self) -> JWK:
        return JWK.generate(kty="OKP", crv="Ed25519")

    def test_the_whole_way(self, agent: RunningAgent, prod: Environment, new: JWK) -> None:
        agent.deliver(prod.envelope())
        folder = agent.mount()
        text = both(prod, new)
        kids = sorted([prod.kid, new.thumbprint()])
        assert agent.pin(prod, text) == (200, {"changed": True, "kids": kids})
        assert agent.pin(prod, text)[1] == {"changed": False, "kids": kids}
        # Both are good for envelopes, held ones and new ones.
        assert agent.status()["mounts"][0]["valid"]
        agent.deliver(prod.envelope(files={"db_password": b"by the old key"}))
        old, prod.signing_key = prod.signing_key, new
        agent.deliver(prod.envelope(files={"db_password": b"by the new key"}))
        assert (folder / "db_password").read_bytes() == b"by the new key"
        assert agent.pin(prod, prod.key_set(3000))[1] == {"changed": True, "kids": [new.thumbprint()]}
        prod.signing_key = old
        assert "not pinned" in agent.refused(prod.envelope())
        agent.kill()
        agent.start()
        assert agent.status()["environments"]["prod"] == {"kids": [new.thumbprint()], "issued_at": 3000}
        assert (agent.mount() / "db_password").read_bytes() == b"by the new key"

    def test_a_new_host_pins_what_both_have_signed(self, agent: RunningAgent, new: JWK) -> None:
        prod = Environment(host_key=agent.host_key)
        text = both(prod, new)
        assert agent.pin(prod, text)[0] == 200
        agent.kill()
        agent.start()
        assert agent.pin(prod, text)[1] == {"changed": False, "kids": sorted([prod.kid, new.thumbprint()])}
        agent.deliver(prod.envelope())
        prod.signing_key = new
        agent.deliver(prod.envelope())

    def test_the_order_of_the_lines_does_not_matter(self, agent: RunningAgent, prod: Environment, new: JWK) -> None:
        assert agent.pin(prod, "\n".join(reversed(both(prod, new).split("\n"))))[0] == 200

    def test_an_attackers_line_is_refused(self, agent: RunningAgent, prod: Environment, new: JWK) -> None:
        stranger = Environment(host_key=agent.host_key)
        theirs = stranger.key_set(9000)
        good = both(prod, new)
        bare = Environment("bare", host_key=agent.host_key)
        for text in (f"{good}\n{theirs}", f"{theirs}\n{good}", f"{good.split(chr(10), maxsplit=1)[0]}\n{theirs}"):
            for environment in (prod, bare):
                for replace_key in (False, True):
                    status, answer = agent.pin(environment, text, replace_key=replace_key)
                    assert (status, "not over the same keys" in answer["reason"]) == (409, True)
        assert list(agent.status()["environments"].items()) == [("prod", {"kids": [prod.kid], "issued_at": 1000})]

    def test_a_set_that_would_strand_a_mount_is_refused(self, agent: RunningAgent, prod: Environment, new: JWK) -> None:
        agent.deliver(prod.envelope())
        agent.deliver(prod.envelope("web"), "prod.web")
        agent.pin(prod, both(prod, new))
        pinned = (agent.state / "environments/prod.json").read_bytes()
        alone = prod.key_set(3000, [new], by=new)

        def refused(volume: str) -> None:
            status, answer = agent.pin(prod, alone)
            assert status == 409
            assert f"mount '{volume}' is still sealed under a key that the set leaves out" in answer["reason"]
            assert (agent.state / "environments/prod.json").read_bytes() == pinned
            assert all(mount["valid"] for mount in agent.status()["mounts"])
            line = next(line for line in reversed(agent.audit()) if line["event"] == "refusal")
            assert (line["what"], line["environment"]) == ("pin", "prod")

        refused("prod.db")
        prod.signing_key = new
        agent.deliver(prod.envelope())
        refused("prod.web")
        agent.kill()
        agent.start()
        refused("prod.web")
        # A mount that is taken away needs no key.
        agent.control("DELETE", "/v1/mounts/prod.web")
        assert agent.pin(prod, alone)[1] == {"changed": True, "kids": [new.thumbprint()]}
        assert agent.status()["mounts"][0]["valid"]

    def test_stranding_what_opens_for_nobody_anyway(self, agent: RunningAgent, prod: Environment, new: JWK) -> None:
        staging = Environment("staging", host_key=agent.host_key)
        agent.pin(staging)
        agent.deliver(staging.envelope(), "staging.db")
        agent.deliver(prod.envelope())
        agent.pin(prod, both(prod, new))
        agent.stop()
        (agent.state / "mounts/prod.db").write_text("broken")
        agent.start()
        assert agent.pin(prod, prod.key_set(3000, [new], by=new))[0] == 200

    def test_replace_key_strands(self, agent: RunningAgent, prod: Environment, new: JWK) -> None:
        agent.deliver(prod.envelope())
        assert agent.pin(prod, prod.key_set(3000, [new], by=new), replace_key=True)[0] == 200
        assert "not pinned" in agent.refused_mount()
        prod.signing_key = new
        agent.deliver(prod.envelope())
        agent.mount()

    def test_a_mount_that_is_taken_away_meanwhile_is_no_error(
        self, agent: RunningAgent, prod: Environment, new: JWK
    ) -> None:
        agent.pin(prod, both(prod, new))
        for number in range(20):
            agent.deliver(prod.envelope(f"m{number}"), f"prod.m{number}")
        stopped = threading.Event()
        statuses: list[int] = []

        def pin() -> None:
            while not stopped.is_set():
                statuses.append(agent.pin(prod, prod.key_set(3000, [new], by=new))[0])

        other = threading.Thread(target=pin)
        other.start()
        for number in range(19):
            agent.control("DELETE", f"/v1/mounts/prod.m{number}")
        stopped.set()
        other.join()
        assert set(statuses) == {409}


def test_a_new_host_key_makes_old_envelopes_invalid(agent: RunningAgent, prod: Environment) -> None:
    agent.deliver(prod.envelope())
    agent.stop()
    agent.host_key = new_host_key()
    agent.save_identity()
    agent.start()
    mount = agent.status()["mounts"][0]
    assert not mount["valid"]
    assert "another key" in mount["reason"]
    prod.host_key = agent.host_key
    agent.deliver(prod.envelope())
    agent.mount()


def test_a_damaged_file_on_disk_is_told_and_replaced(agent: RunningAgent, prod: Environment) -> None:
    agent.deliver(prod.envelope())
    agent.stop()
    (agent.state / "mounts/prod.db").write_text("broken")
    agent.start()
    mount = agent.status()["mounts"][0]
    assert (mount["valid"], mount["issued_at"]) == (False, None)
    assert "truncated" in agent.refused_mount()
    assert agent.plugin("VolumeDriver.Get", Name="prod.db")["Volume"]["Status"] == {"damaged": True}
    agent.deliver(prod.envelope())
    agent.mount()


def test_no_value_is_ever_told(agent: RunningAgent, prod: Environment) -> None:
    marker = b"MARKER-5d2c71"
    agent.deliver(prod.envelope(files={"a": marker}))
    agent.mount()
    agent.deliver(prod.envelope(files={"a": marker + b"2"}))
    agent.unmount()
    agent.refused(prod.envelope(host="other", files={"a": marker}))
    agent.stop()
    for path in [*agent.state.rglob("*"), agent.audit_file, agent.root / "log"]:
        if path.is_file():
            assert marker not in path.read_bytes()
