# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An envelope opens only for its host, from its environment, in its time; the store is not trusted. What is refused
leaves the good one in force: containers go on reading it."""

from __future__ import annotations

import base64
import json
import shutil
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils import _envelope as envelopes
from ansible_collections.hostseal.secrets.plugins.module_utils import _jose
from jwcrypto.jwk import JWK

from tests.integration.agent.conftest import AgentHost
from tests.integration.playbook import install
from tests.integration.promises.conftest import GOOD, forger

MINE = {"password": b"not the good value"}
WAIT_MS = 1500


def _held(prod: AgentHost, volume: str = "prod.db") -> str:
    return prod.host.run(["cat", f"/var/lib/hostseal/state/mounts/{volume}"]).stdout


def _signed_again(envelope: str, by: Any, **changes: Any) -> str:
    """The statement of a captured ENVELOPE, changed and signed by another environment, over the same ciphertext."""
    jws, jwe = envelope.splitlines()
    statement = json.loads(base64.urlsafe_b64decode(jws.split(".")[1] + "=="))
    return f"{by.sign(envelopes.STATEMENT, {**statement, **changes})}\n{jwe}\n"


def _flipped(text: str, place: int) -> str:
    return text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]


def _for_another_host(prod: AgentHost) -> str:
    return forger(prod).envelope(files=MINE, host="other")


def _for_another_key(prod: AgentHost) -> str:
    made = forger(prod)
    made.host_key = _jose.new_host_key()
    return made.envelope(files=MINE)


def _of_another_environment(prod: AgentHost) -> str:
    return forger(prod, "staging").envelope(files=MINE)


def _with_another_environments_signature(prod: AgentHost) -> str:
    made = forger(prod)
    made.signing_key = forger(prod, "staging").signing_key
    return made.envelope(files=MINE)


def _by_a_stranger(prod: AgentHost) -> str:
    made = forger(prod)
    made.signing_key = JWK.generate(kty="OKP", crv="Ed25519")
    return made.envelope(files=MINE)


def _of_another_mount(prod: AgentHost) -> str:
    return forger(prod).envelope("web", MINE)


def _renamed(prod: AgentHost) -> str:
    made = forger(prod)
    return _signed_again(made.envelope("web", MINE), made, mount="db")


def _older(prod: AgentHost) -> str:
    made = forger(prod)
    return made.envelope(files=MINE, issued_at=prod.mount_status()["issued_at"] - 1)


def _of_the_same_age(prod: AgentHost) -> str:
    return forger(prod).envelope(files=MINE, issued_at=prod.mount_status()["issued_at"])


def _expired(prod: AgentHost) -> str:
    text = forger(prod).envelope(files=MINE, options={"expires_after": "1s"})
    time.sleep(WAIT_MS / 1000)
    return text


def _truncated(prod: AgentHost) -> str:
    return forger(prod).envelope(files=MINE)[:-40]


def _half(prod: AgentHost) -> str:
    return forger(prod).envelope(files=MINE).splitlines()[0] + "\n"


def _edited_statement(prod: AgentHost) -> str:
    text = forger(prod).envelope(files=MINE)
    return _flipped(text, text.index(".") + 20)


def _edited_signature(prod: AgentHost) -> str:
    text = forger(prod).envelope(files=MINE)
    return _flipped(text, text.index("\n") - 20)


def _edited_ciphertext(prod: AgentHost) -> str:
    return _flipped(forger(prod).envelope(files=MINE), -60)


CASES: dict[str, tuple[Callable[[AgentHost], str], str]] = {
    "for another host": (_for_another_host, "it is for host 'other'"),
    "for another key": (_for_another_key, "it is encrypted to another key than this host's"),
    "of another environment": (_of_another_environment, "it is signed by a key that is not pinned"),
    "signed by another environment": (_with_another_environments_signature, "it is signed by a key that is not pinned"),
    "signed by a stranger": (_by_a_stranger, "it is signed by a key that is not pinned"),
    "of another mount": (_of_another_mount, "it is for mount 'prod.web'"),
    "renamed": (_renamed, "made for another environment, host, mount"),
    "older": (_older, "is not after"),
    "of the same age": (_of_the_same_age, "is not after"),
    "expired": (_expired, "it expired at"),
    "truncated": (_truncated, "it is truncated or not an envelope"),
    "half": (_half, "it is truncated or not an envelope"),
    "edited statement": (_edited_statement, "the signature does not match"),
    "edited signature": (_edited_signature, "the signature does not match"),
    "edited ciphertext": (_edited_ciphertext, "the ciphertext is not the one that was signed"),
}


def _run(volume: str, *command: str) -> list[str]:
    return ["run", "--rm", "-v", f"{volume}:/run/secrets", "--volume-driver", "hostseal", "busybox", *command]


def _refused(prod: AgentHost, envelope: str, words: str, volume: str = "prod.db") -> None:
    before = prod.mount_status()
    answer = prod.ask("PUT", f"/v1/mounts/{volume}", envelope)
    assert "changed" not in answer
    assert f"envelope for {volume!r} is refused by host {prod.host.name!r}: " in answer["reason"]
    assert words in answer["reason"]
    assert prod.mount_status() == before
    assert prod.read("reader") == GOOD
    told = [line for line in prod.audit() if line["event"] == "refusal"]
    assert told[-1]["reason"] == answer["reason"]


@pytest.mark.parametrize("case", CASES)
def test_a_bad_envelope_is_refused_and_the_good_one_stays(prod: AgentHost, case: str) -> None:
    make, words = CASES[case]
    _refused(prod, make(prod), words)


def test_a_good_envelope_of_the_forger_would_be_taken(prod: AgentHost) -> None:
    """Else the cases above might be refused for a reason of their own."""
    try:
        receipt = prod.ask("PUT", "/v1/mounts/prod.db", forger(prod).envelope(files=MINE))
        assert receipt["changed"]
        assert prod.read("reader") == MINE["password"].decode()
    finally:
        prod.deliver(GOOD)
    assert prod.read("reader") == GOOD


def test_another_environment_cannot_take_a_captured_envelope_for_its_own(prod: AgentHost) -> None:
    """It has a key that the host pinned, but could not read the ciphertext: the host must not read it for it."""
    stolen = _signed_again(_held(prod), forger(prod, "staging"), environment="staging", mount="stolen")
    answer = prod.ask("PUT", "/v1/mounts/staging.stolen", stolen)
    assert "made for another environment" in answer["reason"]
    names = [entry["volume"] for entry in prod.ask("GET", "/v1/status")["mounts"]]
    assert names == ["prod.db", "staging.db"]


def test_an_old_envelope_is_refused_after_removal_too(prod: AgentHost) -> None:
    made = forger(prod)
    old, new = made.envelope("old", MINE), made.envelope("old", MINE)
    assert prod.ask("PUT", "/v1/mounts/prod.old", new)["changed"]
    assert prod.ask("DELETE", "/v1/mounts/prod.old")["changed"]
    prod.host.sh("systemctl restart hostseald")
    _refused(prod, old, "is not after", "prod.old")
    _refused(prod, new, "is not after", "prod.old")


def test_an_expired_mount_starts_no_container(prod: AgentHost) -> None:
    text = forger(prod).envelope("brief", MINE, options={"expires_after": "2s"})
    assert prod.ask("PUT", "/v1/mounts/prod.brief", text)["changed"]
    time.sleep(2.1)
    done = prod.docker(*_run("prod.brief", "true"), check=False)
    assert done.returncode == 125
    assert "it expired at" in done.stderr
    prod.ask("DELETE", "/v1/mounts/prod.brief")


def test_a_strangers_keys_are_not_pinned(prod: AgentHost) -> None:
    stranger = forger(prod)
    stranger.signing_key = JWK.generate(kty="OKP", crv="Ed25519")
    text = stranger.key_set(issued_at=stranger.issued_at + 1000)
    before = prod.ask("GET", "/v1/status")["environments"]
    assert "are not changed on host" in prod.ask("PUT", "/v1/environments/prod", text)["reason"]
    assert prod.ask("GET", "/v1/status")["environments"] == before


# -- the store --------------------------------------------------------------------------------------------------------


def _ciphertext(rows: sqlite3.Connection, environment: str, name: str, number: int = 1) -> str:
    query = "SELECT ciphertext FROM secret_version WHERE environment = ? AND name = ? AND number = ?"
    return str(rows.execute(query, (environment, name, number)).fetchone()[0])


def _put(rows: sqlite3.Connection, ciphertext: str) -> None:
    """In the place of the newest version of the secret that the mount needs."""
    rows.execute(
        "UPDATE secret_version SET ciphertext = ? WHERE environment = 'prod' AND name = 'password_db' AND number ="
        " (SELECT max(number) FROM secret_version WHERE environment = 'prod' AND name = 'password_db')",
        (ciphertext,),
    )


def _take_record(rows: sqlite3.Connection, record: str, kid: str) -> None:
    rows.execute("UPDATE host SET record = ?, kid = ? WHERE environment = 'prod'", (record, kid))


def _record(prod: AgentHost, host: str, by: str = "prod", environment: str = "prod") -> tuple[str, str]:
    """A record of HOST with another key, as somebody with the keys of BY signs it."""
    key = _jose.new_host_key()
    payload = envelopes.host_record(environment, host, key)
    return forger(prod, by).sign(envelopes.HOST_RECORD, payload), str(key.thumbprint())


Tamper = Callable[[sqlite3.Connection, AgentHost], object]
SECRET = "secret 'password_db' version"
HOST = "the record of host"
TAMPERED: dict[str, tuple[Tamper, str]] = {
    "value of another secret": (lambda rows, _prod: _put(rows, _ciphertext(rows, "prod", "other")), SECRET),
    "value of an older version": (lambda rows, _prod: _put(rows, _ciphertext(rows, "prod", "password_db")), SECRET),
    "value of another environment": (
        lambda rows, _prod: _put(rows, _ciphertext(rows, "staging", "password_db")),
        SECRET,
    ),
    "edited value": (lambda rows, _prod: _put(rows, _flipped(_ciphertext(rows, "prod", "other"), 60)), SECRET),
    "no ciphertext": (lambda rows, _prod: _put(rows, "in clear"), SECRET),
    "renumbered": (
        lambda rows, _prod: rows.execute(
            "UPDATE secret_version SET number = 99 WHERE environment = 'prod' AND name = 'password_db' AND number > 1"
        ),
        SECRET,
    ),
    "renamed secret": (
        lambda rows, _prod: [
            rows.execute("DELETE FROM secret_version WHERE environment = 'prod' AND name = 'password_db'"),
            rows.execute(
                "UPDATE secret_version SET name = 'password_db' WHERE environment = 'prod' AND name = 'other'"
            ),
        ],
        SECRET,
    ),
    "host of another environment": (
        lambda rows, _prod: rows.execute(
            "UPDATE host SET record = (SELECT record FROM host WHERE environment = 'staging') WHERE environment = 'prod'"
        ),
        HOST,
    ),
    "record of another host": (lambda rows, prod: _take_record(rows, *_record(prod, "other")), HOST),
    "record by another environment": (
        lambda rows, prod: _take_record(rows, *_record(prod, prod.host.name, by="staging")),
        HOST,
    ),
    "edited thumbprint": (
        lambda rows, _prod: rows.execute("UPDATE host SET kid = 'x' || substr(kid, 2) WHERE environment = 'prod'"),
        HOST,
    ),
    "another signing key": (
        lambda rows, _prod: rows.execute(
            "UPDATE environment SET (signing_key, signing_kid, key_set) = (SELECT signing_key, signing_kid, key_set FROM"
            " environment WHERE name = 'staging') WHERE name = 'prod'"
        ),
        "environment 'prod'",
    ),
    "another key file": (
        lambda rows, _prod: rows.execute("UPDATE environment SET key_name = 'staging' WHERE name = 'prod'"),
        "environment 'prod'",
    ),
}


def _rotate(prod: AgentHost, value: str) -> None:
    """A new version in the store that the host does not have yet: the next mount has to seal."""
    secret = {"environment": "prod", "name": "password_db", "value": value, "on_difference": "rotate"}
    prod.control.tasks({"name": "Rotate", "hostseal.secrets.secret": secret}, hosts="localhost")


def _mount(name: str, **options: Any) -> dict[str, Any]:
    """A task that brings prod.db to the host, as AgentHost.deliver does."""
    secrets = [{"source": "password_db", "target": "password"}]
    return {
        "name": name,
        "hostseal.secrets.mount": {"environment": "prod", "name": "db", "secrets": secrets, **options},
    }


def _without_free_space(store: Path, name: str) -> Path:
    copy = store.with_name(f"{name.replace(' ', '-')}.db")
    source, target = sqlite3.connect(store), sqlite3.connect(copy)
    source.backup(target)
    source.close()
    target.close()
    copy.chmod(0o600)
    return copy


def test_edited_stores_are_refused_and_the_host_is_left_alone(prod: AgentHost, tmp_path: Path) -> None:
    _rotate(prod, "the next value")
    tasks = []
    for case, (tamper, _words) in TAMPERED.items():
        copy = _without_free_space(prod.control.store, case)
        with sqlite3.connect(copy) as rows:
            tamper(rows, prod)
            assert rows.total_changes > 0
        rows.close()
        tasks.append(_mount(case, store=str(copy)))
    # The key file swapped in place of the store's rows.
    keys = tmp_path / "keys"
    shutil.copytree(prod.control.keys, keys)
    swapped = json.loads((keys / "staging.jwks").read_text(encoding="utf-8"))
    (keys / "prod.jwks").write_text(json.dumps({**swapped, "name": "prod"}), encoding="utf-8")
    tasks.append(_mount("swapped key file", key_path=str(keys)))

    before = prod.mount_status()
    outcome = prod.control.tasks(*tasks, check=False)
    words = {case: words for case, (_tamper, words) in TAMPERED.items()} | {"swapped key file": "environment 'prod'"}
    wrong = {case: outcome.results[case].get("msg") for case in words if words[case] not in outcome.message(case)}
    assert wrong == {}
    assert prod.mount_status() == before
    assert prod.read("reader") == GOOD

    outcome = prod.control.tasks(_mount("untouched"))
    assert outcome.results["untouched"]["changed"]
    assert prod.read("reader") == "the next value"
    prod.deliver(GOOD)


def test_an_edited_envelope_of_the_store_is_sealed_anew(prod: AgentHost) -> None:
    _rotate(prod, "sealed before")
    options = _mount("x")["hostseal.secrets.mount"]
    prod.control.tasks(
        {
            "name": "Seal",
            "hostseal.secrets.seal": {"mounts": [options], "hosts": [prod.host.name]},
        },
        hosts="localhost",
    )
    with sqlite3.connect(prod.control.store) as rows:
        (text,) = rows.execute("SELECT text FROM envelope WHERE environment = 'prod' AND mount = 'db'").fetchone()
        rows.execute(
            "UPDATE envelope SET text = ? WHERE environment = 'prod' AND mount = 'db'",
            (_flipped(text, len(text) - 60),),
        )
    rows.close()
    assert prod.control.tasks(_mount("mended")).results["mended"]["changed"]
    assert "ciphertext" in [line for line in prod.audit() if line["event"] == "refusal"][-1]["reason"]
    assert prod.read("reader") == "sealed before"
    prod.deliver(GOOD)


def test_a_host_with_a_new_key_is_refused_until_it_is_said(prod: AgentHost) -> None:
    """The last one of this file that needs the old key."""
    prod.host.sh("rm /etc/hostseal/host.key")
    refused = prod.control.tasks(install("prod", "staging"), check=False)
    assert "now has" in refused.message("hostseal.secrets.host_agent : Enrol the host")
    done = prod.docker(*_run("prod.db", "true"), check=False)
    assert done.returncode == 125
    assert 'mount "prod.db"' in done.stderr
    assert not prod.mount_status()["valid"]
    assert prod.read("reader") == GOOD  # what runs goes on
    accepted = install("prod", "staging", hostseal_replace_key=True)
    delivered = prod.control.tasks(accepted, _mount("again"))
    assert delivered.results["again"]["changed"]
    assert prod.mount_status()["valid"]
    again = prod.docker(*_run("prod.db", "cat", "/run/secrets/password"))
    assert again.stdout == GOOD
    prod.control.tasks(_staging())


def _staging() -> dict[str, Any]:
    secrets = [{"source": "password_db"}]
    return {
        "name": "staging",
        "hostseal.secrets.mount": {"environment": "staging", "name": "db", "secrets": secrets},
    }
