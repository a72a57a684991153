# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

# ruff: noqa: S608 - the SQL here is that of whoever edits the store
"""Sealing: what makes an envelope stale, how often the backend is called, and a store that somebody has edited."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils import _envelope as envelope
from ansible_collections.hostseal.secrets.plugins.module_utils import _jose
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError, Mount
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _sealing, _transaction
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends import Backend, Binding, localkey
from ansible_collections.hostseal.secrets.plugins.plugin_utils._records import Environment, Receipt, StoredEnvelope
from jwcrypto.jwk import JWK

from tests.unit.builders import Place

Sealed = dict[tuple[str, str], StoredEnvelope]


class CountingBackend(Backend):
    """The real backend, which writes down each call and the size of its batch."""

    def __init__(self, real: Backend, calls: list[tuple[str, int]]) -> None:
        self._real = real
        self._calls = calls
        calls.append(("open", 1))

    def encrypt(self, items: Sequence[tuple[Binding, bytes]]) -> list[str]:
        self._calls.append(("encrypt", len(items)))
        return self._real.encrypt(items)

    def decrypt(self, items: Sequence[tuple[Binding, str]]) -> list[bytes]:
        self._calls.append(("decrypt", len(items)))
        return self._real.decrypt(items)

    def rewrap(self, items: Sequence[tuple[Binding, str]]) -> list[str]:
        self._calls.append(("rewrap", len(items)))
        return self._real.rewrap(items)

    def fingerprint(self, items: Sequence[tuple[Binding, bytes]]) -> list[str]:
        self._calls.append(("fingerprint", len(items)))
        return self._real.fingerprint(items)

    def sign(self, payloads: Sequence[bytes]) -> list[bytes]:
        self._calls.append(("sign", len(payloads)))
        return self._real.sign(payloads)

    def verification_keys(self) -> list[JWK]:
        return self._real.verification_keys()


def mount(*secrets: Any, name: str = "db", environment: str = "prod", **options: Any) -> Mount:
    return Mount.from_options(
        {"environment": environment, "name": name, "secrets": list(secrets or ["password"]), **options}
    )


def seal(place: Place, *wanted: tuple[str, Mount], calls: list[tuple[str, int]] | None = None) -> Sealed:
    """What the module seal does; only what was sealed now is returned."""

    def open_backend(environment: Environment) -> Backend:
        return CountingBackend(localkey.LocalKey(place.keys, environment.key_name), [] if calls is None else calls)

    with place.store() as store:
        return _sealing.seal(store, open_backend, [plan for plan in _sealing.plan(store, wanted) if not plan.is_sealed])


def unseal(place: Place, sealed: StoredEnvelope, key: JWK) -> dict[str, bytes]:
    """What the host does: the files by target."""
    keys = place.backend(sealed.environment).verification_keys()
    statement = envelope.read_statement(sealed.text, keys)
    assert (statement.environment, statement.host, statement.mount) == (sealed.environment, sealed.host, sealed.mount)
    assert (statement.issued_at, statement.expires_at) == (sealed.issued_at, sealed.expires_at)
    assert statement.state_digest == sealed.state_digest
    return {file.target: file.data for file in envelope.decrypt(sealed.text, statement, key)}


@pytest.fixture
def db1(prod: Place) -> JWK:
    """The key of a host that is enrolled in prod, where there is a secret."""
    prod.declare({"name": "password", "value": "hunter2"})
    return prod.enrol("db1")


# What is sealed, and when


def test_sealed_envelope_opens_on_its_host(prod: Place, db1: JWK) -> None:
    prod.declare({"name": "tls", "value_base64": "AP8="})
    wanted = mount("password", {"source": "tls", "target": "tls/key"})
    sealed = seal(prod, ("db1", wanted))
    assert unseal(prod, sealed["db1", "prod.db"], db1) == {"password": b"hunter2", "tls/key": b"\0\xff"}
    with prod.store() as store, store.transaction() as transaction:
        assert transaction.envelopes("prod", ["db1"]) == {("db1", "db"): sealed["db1", "prod.db"]}


def test_mount_with_a_token_alone_is_sealed(prod: Place, db1: JWK) -> None:
    wanted = mount({"vault_token": {"role": "web"}})
    sealed = seal(prod, ("db1", wanted))
    assert unseal(prod, sealed["db1", "prod.db"], db1) == {}
    with prod.store() as store:
        assert _sealing.plan(store, [("db1", wanted)])[0].is_sealed
        other = mount({"vault_token": {"role": "web", "wrap_ttl": "2m"}})
        assert not _sealing.plan(store, [("db1", other)])[0].is_sealed


@pytest.mark.usefixtures("db1")
def test_unchanged_state_calls_no_backend(prod: Place) -> None:
    assert seal(prod, ("db1", mount()))
    calls: list[tuple[str, int]] = []
    assert seal(prod, ("db1", mount()), calls=calls) == {}
    assert calls == []


def test_one_decrypt_and_one_sign_for_many_hosts(prod: Place) -> None:
    prod.declare(*({"name": f"s{number}", "value": f"{number}"} for number in range(5)))
    keys = {host: prod.enrol(host) for host in (f"h{number}" for number in range(30))}
    mounts = [mount("s0", "s1", name="db"), mount("s1", "s2", "s3", name="web"), mount("s4", name="x")]
    calls: list[tuple[str, int]] = []
    sealed = seal(prod, *((host, one) for host in keys for one in mounts), calls=calls)
    assert calls == [("open", 1), ("decrypt", 5), ("sign", 90)]
    assert len(sealed) == 90
    assert unseal(prod, sealed["h7", "prod.web"], keys["h7"]) == {"s1": b"1", "s2": b"2", "s3": b"3"}
    with pytest.raises(_jose.EnvelopeError, match="another key than this host's"):
        unseal(prod, sealed["h7", "prod.web"], keys["h8"])


def test_one_batch_per_environment(prod: Place, db1: JWK) -> None:
    prod.declare_environment("staging")
    prod.declare({"name": "password", "value": "other"}, environment="staging")
    prod.enrol("db1", db1, "staging")
    calls: list[tuple[str, int]] = []
    sealed = seal(prod, ("db1", mount()), ("db1", mount(environment="staging")), calls=calls)
    assert calls == [("open", 1), ("decrypt", 1), ("sign", 1)] * 2
    assert unseal(prod, sealed["db1", "prod.db"], db1) == {"password": b"hunter2"}
    assert unseal(prod, sealed["db1", "staging.db"], db1) == {"password": b"other"}


def _rotate(place: Place, _key: JWK) -> Mount:
    place.declare({"name": "password", "value": "new", "on_difference": "rotate"})
    return mount()


def _delete_and_remake(place: Place, _key: JWK) -> Mount:
    place.declare({"name": "password", "state": "absent"})
    place.declare({"name": "password", "value": "new"})
    return mount()


def _rebuild_store(place: Place, key: JWK) -> Mount:
    """The same names, numbers, key and host, but other versions."""
    place.path.unlink()
    place.declare_environment("prod")
    place.declare({"name": "password", "value": "new"})
    place.enrol("db1", key)
    return mount()


def _new_host_key(place: Place, _key: JWK) -> Mount:
    place.enrol("db1")
    return mount()


def _other_options(_place: Place, _key: JWK) -> Mount:
    return mount(change_mode="restart")


def _other_mode(_place: Place, _key: JWK) -> Mount:
    return mount({"source": "password", "mode": "0400"})


@pytest.mark.parametrize(
    "change", [_rotate, _delete_and_remake, _rebuild_store, _new_host_key, _other_options, _other_mode]
)
def test_what_changes_the_digest(prod: Place, db1: JWK, change: Callable[[Place, JWK], Mount]) -> None:
    before = seal(prod, ("db1", mount()))["db1", "prod.db"]
    after = seal(prod, ("db1", change(prod, db1)))["db1", "prod.db"]
    assert after.state_digest != before.state_digest
    assert after.issued_at > before.issued_at


def test_pinned_version_stays(prod: Place, db1: JWK) -> None:
    wanted = mount({"source": "password", "version": 1}, {"source": "password", "target": "newest"})
    assert seal(prod, ("db1", wanted))
    prod.declare({"name": "password", "value": "new", "on_difference": "rotate"})
    sealed = seal(prod, ("db1", wanted))["db1", "prod.db"]
    assert unseal(prod, sealed, db1) == {"password": b"hunter2", "newest": b"new"}
    assert seal(prod, ("db1", mount({"source": "password", "version": 2}, name="two")))
    with pytest.raises(
        HostsealError, match="mount 'prod.db': version 3 of secret 'password' is not in environment 'prod'"
    ):
        seal(prod, ("db1", mount({"source": "password", "version": 3})))


@pytest.mark.usefixtures("db1")
def test_pinning_the_newest_version_changes_nothing(prod: Place) -> None:
    assert seal(prod, ("db1", mount()))
    assert not seal(prod, ("db1", mount({"source": "password", "version": 1})))


@pytest.mark.usefixtures("db1")
def test_envelope_is_renewed_at_half_of_its_life(prod: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def at(milliseconds: int) -> None:
        for module in (_sealing, _transaction):
            monkeypatch.setattr(module, "now_ms", lambda: milliseconds)

    start, hour = 1_790_000_000_000, 3_600_000
    wanted = ("db1", mount(expires_after="2h"))
    at(start)
    first = seal(prod, wanted)["db1", "prod.db"]
    assert (first.issued_at, first.expires_at) == (start, start + 2 * hour)
    at(start + hour)
    assert not seal(prod, wanted)
    at(start + hour + 1)
    second = seal(prod, wanted)["db1", "prod.db"]
    assert second.expires_at == start + 3 * hour + 1
    assert second.state_digest == first.state_digest


@pytest.mark.usefixtures("db1")
def test_issue_time_is_above_what_a_host_has_seen(prod: Place) -> None:
    future = 4_000_000_000_000
    with prod.store() as store:
        plans = _sealing.plan(store, [("db1", mount())])
        sealed = _sealing.seal(store, lambda _environment: prod.backend(), plans, {("db1", "prod.db"): future})
    assert sealed["db1", "prod.db"].issued_at == future + 1


def test_receipt_says_what_is_delivered(prod: Place, db1: JWK) -> None:
    def plan() -> _sealing.Plan:
        with prod.store() as store:
            return _sealing.plan(store, [("db1", mount())])[0]

    assert not plan().is_delivered
    sealed = seal(prod, ("db1", mount()))["db1", "prod.db"]
    assert plan().is_sealed
    assert not plan().is_delivered
    receipt = Receipt("prod", "db1", "db", sealed.issued_at, None, sealed.state_digest, [], 1, None)
    with prod.store() as store, store.transaction() as transaction:
        transaction.put_receipts([receipt])
    assert plan().is_delivered
    _rotate(prod, db1)
    assert not plan().is_delivered


def _delete(place: Place, _key: JWK) -> None:
    place.declare({"name": "password", "state": "absent"})


def _retire(place: Place, _key: JWK) -> None:
    with place.store() as store, store.transaction() as transaction:
        transaction.remove_host("prod", "db1")


@pytest.mark.parametrize("meanwhile", [_rotate, _delete, _delete_and_remake, _new_host_key, _retire])
def test_run_that_was_overtaken_seals_nothing(prod: Place, db1: JWK, meanwhile: Callable[[Place, JWK], object]) -> None:
    """Else its older versions would get a newer time than what the other run has delivered."""
    with prod.store() as store:
        plans = _sealing.plan(store, [("db1", mount())])
        meanwhile(prod, db1)
        with pytest.raises(HostsealError, match="by another run while mount 'prod.db' was being sealed: run again"):
            _sealing.seal(store, lambda _environment: prod.backend(), plans)
        with store.transaction() as transaction:
            assert transaction.envelopes("prod", ["db1"]) == {}


def test_other_changes_meanwhile_do_not_matter(prod: Place, db1: JWK) -> None:
    with prod.store() as store:
        plans = _sealing.plan(store, [("db1", mount({"source": "password", "version": 1}))])
        prod.declare({"name": "password", "value": "new", "on_difference": "rotate"}, {"name": "other", "value": "x"})
        sealed = _sealing.seal(store, lambda _environment: prod.backend(), plans)
    assert unseal(prod, sealed["db1", "prod.db"], db1) == {"password": b"hunter2"}


# What is refused before any backend is called


@pytest.mark.parametrize(
    ("host", "wanted", "reason"),
    [
        ("db1", mount(environment="prd"), r"environment 'prd' is not in store .* \(there: prod\): declare it"),
        ("db2", mount(), "host 'db2' is not enrolled in environment 'prod': enrol it"),
        ("db1", mount("passwort"), "mount 'prod.db': secret 'passwort' is not in environment 'prod': declare it"),
    ],
)
@pytest.mark.usefixtures("db1")
def test_unknown_things_are_named(prod: Place, host: str, wanted: Mount, reason: str) -> None:
    calls: list[tuple[str, int]] = []
    with pytest.raises(HostsealError, match=reason):
        seal(prod, ("db1", mount(name="good")), (host, wanted), calls=calls)
    assert calls == []


@pytest.mark.usefixtures("db1")
def test_all_hosts_that_are_missing_are_counted(prod: Place) -> None:
    with pytest.raises(HostsealError, match=r"host 'h0' is not enrolled in environment 'prod' \(nor are 4 more\)"):
        seal(prod, *((f"h{number}", mount()) for number in range(5)))


@pytest.mark.usefixtures("db1")
def test_mount_listed_twice_for_one_host(prod: Place) -> None:
    with pytest.raises(HostsealError, match="mount 'prod.db' is listed twice for host 'db1'"):
        seal(prod, ("db1", mount()), ("db1", mount(splay="1s")))


@pytest.mark.usefixtures("db1")
def test_plan_for_check_says_what_is_missing(prod: Place) -> None:
    wanted = [("db1", mount()), ("db1", mount("nope", name="web")), ("db2", mount())]
    with prod.store() as store:
        plans, missing = _sealing.plan_for_check(store, wanted)
    assert [(plan.host, plan.mount.volume) for plan in plans] == [("db1", "prod.db")]
    assert set(missing) == {("db1", "prod.web"), ("db2", "prod.db")}
    assert "secret 'nope' is not in environment" in missing["db1", "prod.web"]


def test_mount_over_the_limit_of_all_files(prod: Place) -> None:
    names = [f"s{number}" for number in range(9)]
    prod.declare(*({"name": name, "value": "x" * 1_000_000} for name in names))
    prod.enrol("db1")
    with pytest.raises(HostsealError, match="mount 'prod.db' has 9000000 bytes, at most 8388608"):
        seal(prod, ("db1", mount(*names)))
    with prod.store() as store, store.transaction() as transaction:
        assert transaction.envelopes("prod", ["db1"]) == {}


# A store that somebody has edited


@pytest.fixture
def edited(prod: Place) -> Place:
    """Two environments with two secrets each, of two versions each, and two hosts."""
    prod.declare_environment("staging")
    for name in ("prod", "staging"):
        for value in ("old", "new"):
            secrets = ({"name": secret, "value": f"{name} {secret} {value}"} for secret in ("password", "key"))
            prod.declare(*({**secret, "on_difference": "rotate"} for secret in secrets), environment=name)
        for host in ("db1", "db2"):
            prod.enrol(host, environment=name)
    return prod


_COPY = "UPDATE {table} SET {column} = (SELECT {column} FROM {table} WHERE {source}) WHERE {target}"
_PASSWORD = "environment = 'prod' AND name = 'password' AND number = 2"
_DB1 = "environment = 'prod' AND name = 'db1'"


def _copied(table: str, column: str, source: str, target: str) -> str:
    return _COPY.format(table=table, column=column, source=source, target=target)


_VERSION = "UPDATE secret_version SET {} WHERE environment = 'prod' AND name = 'password' AND number = {}"
_ENVIRONMENT = "UPDATE environment SET {} WHERE name = 'prod'"
_OTHER_KEY = "it is the key of something else, or the store was edited"
_NOT_TRUSTED = "record of host 'db1' in environment 'prod' is not to be trusted: "


def _ciphertext(environment: str, name: str, number: int) -> str:
    """The newest version of prod's password gets the ciphertext of another row."""
    source = f"environment = '{environment}' AND name = '{name}' AND number = {number}"
    return _copied("secret_version", "ciphertext", source, _PASSWORD)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (_ciphertext("prod", "key", 2), "secret 'password' version 2 of environment 'prod': .* edited or moved"),
        (_ciphertext("prod", "password", 1), "secret 'password' version 2 of environment 'prod': .* edited or moved"),
        (_ciphertext("staging", "password", 2), "edited or moved"),
        (_VERSION.format("number = 3", 1), "version 3 .* edited or moved"),
        (
            "UPDATE secret_version SET name = 'password', number = 3"
            " WHERE environment = 'prod' AND name = 'key' AND number = 2",
            "version 3 .* edited or moved",
        ),
        (_VERSION.format("ciphertext = 'hunter2'", 2), "is not one of the localkey backend"),
        (_VERSION.format("ciphertext = ''", 2), "is not one of the localkey backend"),
        (_VERSION.format("ciphertext = substr(ciphertext, 1, 40)", 2), "edited or moved|is not one"),
        (
            _copied("host", "record", "environment = 'prod' AND name = 'db2'", _DB1),
            _NOT_TRUSTED + "the host record is for another environment or host",
        ),
        (
            _copied("host", "record", "environment = 'staging' AND name = 'db1'", _DB1),
            _NOT_TRUSTED + "it is signed by a key that is not pinned",
        ),
        ("UPDATE host SET kid = 'x' WHERE " + _DB1, _NOT_TRUSTED + "its thumbprint is another"),
        (
            _copied("host", "kid", "environment = 'prod' AND name = 'db2'", _DB1),
            _NOT_TRUSTED + "its thumbprint is another",
        ),
        ("UPDATE host SET record = '' WHERE " + _DB1, _NOT_TRUSTED + "it is not a JWS"),
        (_ENVIRONMENT.format("signing_kid = 'x'"), "was declared with the signing key x, its backend has"),
        (_copied("environment", "signing_key", "name = 'staging'", "name = 'prod'"), _OTHER_KEY),
        (_ENVIRONMENT.format("signing_key = '{}'"), "the key is not a public Ed25519 JWK"),
        (_ENVIRONMENT.format("key_name = 'staging'"), _OTHER_KEY),
        (_ENVIRONMENT.format("key_name = '../keys/staging'"), "key name '../keys/staging' is not allowed"),
    ],
)
def test_edited_row_is_refused(edited: Place, statement: str, reason: str) -> None:
    edited.edit(statement)
    with pytest.raises(HostsealError, match=reason):
        seal(edited, ("db1", mount()))
    with edited.store() as store, store.transaction() as transaction:
        assert transaction.envelopes("prod", ["db1"]) == {}


def test_record_of_another_key_is_refused(edited: Place) -> None:
    """The whole enrolment made anew by somebody who does not have the environment's key."""
    stranger = _jose.new_host_key()
    with edited.store() as store, store.transaction() as transaction:
        record = transaction.hosts("prod", ["db1"])["db1"].record
    header, _payload, signature = record.split(".")
    payload = envelope.base64url_encode(json.dumps(envelope.host_record("prod", "db1", stranger)))
    edited.edit(
        f"UPDATE host SET record = ?, kid = ? WHERE {_DB1}",
        f"{header}.{payload}.{signature}",
        stranger.thumbprint(),
    )
    with pytest.raises(HostsealError, match="is not to be trusted: the signature does not match"):
        seal(edited, ("db1", mount()))


def test_environment_moved_onto_another_environments_key(edited: Place) -> None:
    """All of prod's row but its name from staging: hosts of prod were not enrolled by that key."""
    for column in ("key_name", "signing_key", "signing_kid", "key_set"):
        edited.edit(_copied("environment", column, "name = 'staging'", "name = 'prod'"))
    with pytest.raises(HostsealError, match="is not to be trusted"):
        seal(edited, ("db1", mount()))


def test_versions_with_one_id_do_not_take_each_others_value(edited: Place) -> None:
    """An id is random and unique by the schema, but whoever edits the store may drop that rule."""
    with contextlib.closing(sqlite3.connect(edited.path, isolation_level=None)) as connection:
        connection.execute("CREATE TABLE copy AS SELECT * FROM secret_version")
        connection.execute("DROP TABLE secret_version")
        connection.execute("ALTER TABLE copy RENAME TO secret_version")
        connection.execute("UPDATE secret_version SET id = 'same' WHERE environment = 'prod'")
    db, web = edited.enrol("db1"), edited.enrol("web1")
    sealed = seal(edited, ("db1", mount("password")), ("web1", mount("key", name="web")))
    assert unseal(edited, sealed["db1", "prod.db"], db) == {"password": b"prod password new"}
    assert unseal(edited, sealed["web1", "prod.web"], web) == {"key": b"prod key new"}


def test_envelope_of_the_store_is_not_read_again(edited: Place) -> None:
    """An edited envelope is the host's to refuse; here it must not be what decides."""
    assert seal(edited, ("db1", mount()))
    edited.edit("UPDATE envelope SET text = 'x'")
    with edited.store() as store:
        [plan] = _sealing.plan(store, [("db1", mount())])
    assert plan.envelope
    assert plan.envelope.text == "x"
    with pytest.raises(_jose.EnvelopeError, match="truncated or not an envelope"):
        envelope.read_statement(plan.envelope.text, edited.backend().verification_keys())
