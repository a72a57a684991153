# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""New keys for what is stored: everything is there afterwards, or nothing has changed, whatever comes between."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils._envelope import read_host_record, read_key_set
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError, Mount
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _migrating, _sealing
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends import (
    Backend,
    Binding,
    key_version,
    localkey,
)
from ansible_collections.hostseal.secrets.plugins.plugin_utils._declaring import Declaration, declare
from ansible_collections.hostseal.secrets.plugins.plugin_utils._records import Environment, Receipt, Version
from ansible_collections.hostseal.secrets.plugins.plugin_utils._transaction import Transaction
from jwcrypto.jwk import JWK

from tests.unit.builders import Place, in_processes

Meanwhile = Callable[[str, int], None]


class Watched(Backend):
    """A real backend. MEANWHILE is told each call's name and number before it is made, and MADE collects the calls."""

    def __init__(self, real: Backend, meanwhile: Meanwhile = lambda _name, _number: None) -> None:
        self._real = real
        self._meanwhile = meanwhile
        self.made: list[tuple[str, int]] = []

    def _call(self, name: str, items: Sequence[Any]) -> Any:
        self._meanwhile(name, len(self.made))
        self.made.append((name, len(items)))
        return getattr(self._real, name)(items)

    def encrypt(self, items: Sequence[tuple[Binding, bytes]]) -> list[str]:
        return list(self._call("encrypt", items))

    def decrypt(self, items: Sequence[tuple[Binding, str]]) -> list[bytes]:
        return list(self._call("decrypt", items))

    def rewrap(self, items: Sequence[tuple[Binding, str]]) -> list[str]:
        return list(self._call("rewrap", items))

    def fingerprint(self, items: Sequence[tuple[Binding, bytes]]) -> list[str]:
        return list(self._call("fingerprint", items))

    def sign(self, payloads: Sequence[bytes]) -> list[bytes]:
        return list(self._call("sign", payloads))

    def verification_keys(self) -> list[JWK]:
        return self._real.verification_keys()


def dies_at(call: int) -> Meanwhile:
    def die(_name: str, number: int) -> None:
        if number == call:
            os.kill(os.getpid(), signal.SIGKILL)

    return die


def versions(place: Place) -> list[Version]:
    with place.store() as store, store.transaction() as transaction:
        return transaction.versions("prod")


def record(place: Place) -> Environment:
    with place.store() as store, store.transaction() as transaction:
        return transaction.environment("prod")


def opened(place: Place) -> dict[tuple[str, int], bytes]:
    """Every stored value, opened with the key that the environment's record names."""
    found = versions(place)
    items = [(Binding("prod", one.name, one.number), one.ciphertext) for one in found]
    values = place.backend(record(place).key_name).decrypt(items)
    return {(one.name, one.number): value for one, value in zip(found, values, strict=True)}


def key_versions(place: Place) -> set[int]:
    return {key_version(one.ciphertext) for one in versions(place)}


def untouched(found: Sequence[Version]) -> list[tuple[Any, ...]]:
    """What new keys leave as it is, fingerprints excepted."""
    return [(one.environment, one.name, one.number, one.id, one.created_at) for one in found]


def secrets(value: str = "") -> list[dict[str, Any]]:
    return [{"name": f"s{number}", "value": f"value {number}{value}"} for number in range(5)]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_migrating, "CHUNK", 3)


@pytest.fixture
def full(prod: Place) -> Place:
    """Five secrets with two versions each; the older ones under the key's version 1, some of the newer ones under 2."""
    prod.declare(*secrets())
    prod.declare(*[{**secret, "on_difference": "rotate"} for secret in secrets("!")[:3]])
    localkey.rotate(prod.keys, "prod")
    prod.declare(*[{**secret, "on_difference": "rotate"} for secret in secrets("!")[3:]])
    assert key_versions(prod) == {1, 2}
    return prod


def rewrap(
    place: Place,
    backend: Backend | None = None,
    progress: Callable[[int, int], None] = lambda _done, _whole: None,
    check: bool = False,
) -> tuple[int, int | None]:
    with place.store() as store:
        return _migrating.rewrap(
            store, "prod", lambda environment: backend or place.backend(environment.key_name), progress, check
        )


# Under the newest version


def test_rewrap_takes_every_version_and_changes_nothing_else(full: Place) -> None:
    localkey.rotate(full.keys, "prod")
    before, values = versions(full), opened(full)
    assert rewrap(full) == (10, 3)
    after = versions(full)
    assert opened(full) == values
    assert untouched(after) == untouched(before)
    assert [one.fingerprint for one in after] == [one.fingerprint for one in before]
    assert key_versions(full) == {3}
    stored = full.content()
    assert rewrap(full) == (0, 3)
    assert full.content() == stored
    assert localkey.retire(full.keys, "prod", 3) == [1, 2]
    assert opened(full) == values
    assert [outcome.changed for outcome in full.declare(*secrets("!"))] == [False] * 5
    with pytest.raises(HostsealError, match="on_difference"):
        full.declare({"name": "s0", "value": "another"})


def test_rewrap_of_nothing(prod: Place) -> None:
    assert rewrap(prod) == (0, None)


def test_rewrap_in_check_mode(full: Place) -> None:
    before = full.content()
    assert rewrap(full, check=True) == (8, 2)
    assert full.content() == before
    assert rewrap(full) == (8, 2)


@pytest.mark.usefixtures("small_parts")
def test_rewrap_tells_how_far_it_is(full: Place) -> None:
    told: list[tuple[int, int]] = []
    rewrap(full, progress=lambda done, whole: told.append((done, whole)))
    assert told == [(3, 8), (6, 8), (8, 8)]
    rewrap(full, progress=lambda done, whole: told.append((done, whole)))
    assert len(told) == 3


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("call", [0, 1, 2, 3])
def test_killed_rewrap_goes_on_where_it_was(full: Place, call: int) -> None:
    values = opened(full)
    assert in_processes(1, lambda _number: rewrap(full, Watched(full.backend(), dies_at(call)))) == [-signal.SIGKILL]
    assert opened(full) == values
    done = 3 * max(call - 1, 0)
    backend = Watched(full.backend())
    assert rewrap(full, backend) == (8 - done, 2)
    # The first call only asks for the newest version.
    assert sum(count for _name, count in backend.made[1:]) == 8 - done
    assert (opened(full), key_versions(full)) == (values, {2})


@pytest.mark.usefixtures("small_parts")
def test_rewrap_killed_while_it_writes_keeps_the_part_whole(full: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    before = versions(full)

    def work(_number: int) -> None:
        real = Transaction.replace_ciphertexts

        def die(transaction: Transaction, replaced: Sequence[tuple[Version, Version]]) -> int:
            real(transaction, replaced[:2])
            os.kill(os.getpid(), signal.SIGKILL)
            return 0

        monkeypatch.setattr(Transaction, "replace_ciphertexts", die)
        rewrap(full)

    assert in_processes(1, work) == [-signal.SIGKILL]
    assert versions(full) == before
    assert rewrap(full) == (8, 2)


@pytest.mark.usefixtures("small_parts")
def test_what_others_change_during_a_rewrap_stays_changed(full: Place) -> None:
    def meanwhile(_name: str, number: int) -> None:
        if number == 1:
            full.declare({"name": "s0", "value": "rotated", "on_difference": "rotate"})
            full.declare({"name": "s1", "state": "absent"}, {"name": "s4", "state": "absent"})
            full.declare({"name": "s1", "value": "made again"})
            localkey.rotate(full.keys, "prod")
            full.declare({"name": "s2", "value": "under version 3", "on_difference": "rotate"})

    values = opened(full)
    assert rewrap(full, Watched(full.backend(), meanwhile))[1] == 2
    values = {place: value for place, value in values.items() if place[0] not in ("s1", "s4")}
    values |= {("s0", 3): b"rotated", ("s1", 3): b"made again", ("s2", 3): b"under version 3"}
    assert opened(full) == values
    rewrap(full)
    assert (opened(full), key_versions(full)) == (values, {3})


def test_many_at_once(full: Place) -> None:
    localkey.rotate(full.keys, "prod")
    values = opened(full)

    def work(number: int) -> None:
        if number % 2:
            rewrap(full)
        else:
            full.declare(
                {"name": f"n{number}", "value": "x"}, {"name": "s0", "value": f"{number}", "on_difference": "rotate"}
            )

    assert in_processes(6, work) == [0] * 6
    after = opened(full)
    assert {place: after[place] for place in values} == values
    assert len(after) == len(values) + 6
    assert key_versions(full) == {3}


def test_rewrap_of_an_environment_that_got_another_key_meanwhile(full: Place) -> None:
    localkey.create(full.keys, "other")

    def meanwhile(_name: str, number: int) -> None:
        if number == 1:
            migrate(full)

    values = opened(full)
    with pytest.raises(HostsealError, match="'prod' was given another key by another run meanwhile: run again"):
        rewrap(full, Watched(full.backend(), meanwhile))
    assert opened(full) == values
    assert rewrap(full) == (0, 1)


def test_rewrap_of_an_edited_row_names_it(full: Place) -> None:
    full.sql("UPDATE secret_version SET ciphertext = replace(ciphertext, ':v1:', ':v1:AAAA') WHERE name = 's1'")
    before = full.content()
    with pytest.raises(HostsealError, match="secret 's1' version 1 of environment 'prod'.*does not open"):
        rewrap(full)
    assert full.content() == before


@pytest.mark.parametrize("text", ["", "x", "localkey:v0:AAAA", "localkey:vx:", "v1:AAAA", "localkey:v9999999999:A"])
def test_a_ciphertext_without_a_version(full: Place, text: str) -> None:
    full.sql("UPDATE secret_version SET ciphertext = ? WHERE name = 's0'", text)
    with pytest.raises(HostsealError, match="names no key version"):
        rewrap(full)


def test_key_versions_in_use(full: Place) -> None:
    full.declare_environment("staging")
    with full.store() as store, store.transaction() as transaction:
        transaction.put_environment(replace(transaction.environment("staging"), key_name="prod"))
    full.declare({"name": "a", "value": "x"}, environment="prod")

    def used(key: str = "prod", backend: str = "localkey", engine: str | None = None) -> dict[int, str]:
        with full.store() as store, store.transaction() as transaction:
            return _migrating.key_versions_in_use(transaction, backend, key, engine)

    assert used() == {1: "prod", 2: "prod"}
    assert used("staging") == used("prod", "vault", "transit") == used("prod", "localkey", "transit") == {}
    rewrap(full)
    assert used() == {2: "prod"}
    # Of the two that use the key, the one with something older is told.
    with full.store() as store, store.transaction() as transaction:
        transaction.add_versions([Version("staging", "b", 1, "id", "localkey:v1:AAAA", "f", 1)])
    assert used() == {1: "staging", 2: "prod"}


# Under another key


def migrate(
    place: Place,
    key: str = "other",
    old: Backend | None = None,
    new: Backend | None = None,
    progress: Callable[[int, int], None] = lambda _done, _whole: None,
) -> Environment:
    with place.store() as store, store.transaction() as transaction:
        before = transaction.environment("prod")
        after = replace(before, key_name=key)
        return _migrating.migrate(
            transaction, before, old or place.backend(before.key_name), after, new or place.backend(key), progress
        )


def retire(place: Place) -> Environment:
    with place.store() as store, store.transaction() as transaction:
        before = transaction.environment("prod")
        return _migrating.retire_old_keys(transaction, before, place.backend(before.key_name))


def rollover(place: Place) -> _migrating.Rollover:
    with place.store() as store, store.transaction() as transaction:
        return _migrating.rollover(transaction, transaction.environment("prod"))


@pytest.fixture
def ready(full: Place) -> Place:
    """The same with two hosts, and the key "other" to go to."""
    localkey.create(full.keys, "other")
    full.enrol("db1")
    full.enrol("db2")
    return full


def whole_state(place: Place) -> str:
    with place.store() as store, store.transaction() as transaction:
        return repr([transaction.environments(), transaction.versions("prod"), transaction.hosts("prod")])


@pytest.mark.usefixtures("small_parts")
def test_migration_brings_everything(ready: Place) -> None:
    before, values, old = versions(ready), opened(ready), record(ready)
    with ready.store() as store, store.transaction() as transaction:
        hosts = transaction.hosts("prod")
        transaction.confirm_key_set("prod", "db1", 77)
    told: list[tuple[int, int]] = []
    after = migrate(ready, progress=lambda done, whole: told.append((done, whole)))
    assert told == [(3, 10), (6, 10), (9, 10), (10, 10)]
    # The old key is not needed any more.
    (ready.keys / "prod.jwks").unlink()
    assert record(ready) == after
    assert (after.key_name, after.signing_kid != old.signing_kid) == ("other", True)
    assert opened(ready) == values
    assert untouched(versions(ready)) == untouched(before)
    assert not {one.fingerprint for one in versions(ready)} & {one.fingerprint for one in before}
    backend = ready.backend("other")
    keys = backend.verification_keys()
    with ready.store() as store, store.transaction() as transaction:
        moved = transaction.hosts("prod")
    assert {name: host.kid for name, host in moved.items()} == {name: host.kid for name, host in hosts.items()}
    assert {name: host.pinned_at for name, host in moved.items()} == {"db1": 77, "db2": None}
    for host in moved.values():
        assert read_host_record(host.record, "prod", host.name, keys).thumbprint() == host.kid
    assert [key.thumbprint() for key in read_key_set(after.key_set, keys).keys] == [after.signing_kid, old.signing_kid]
    assert rollover(ready).retiring == (old.signing_kid,)
    # The same values are the same under the new key's fingerprints.
    with ready.store() as store, store.transaction() as transaction:
        for version in transaction.current_versions("prod").values():
            [label] = backend.fingerprint([(Binding("prod", version.name, 9), values[version.name, version.number])])
            assert label == version.fingerprint


def test_key_set_of_a_migration_is_vouched_for_by_both_keys(ready: Place) -> None:
    old, old_keys = record(ready), ready.backend().verification_keys()
    after = migrate(ready)
    new_keys = ready.backend("other").verification_keys()
    sets = [read_key_set(after.key_set, keys) for keys in (old_keys, new_keys, None)]
    assert len({(one.issued_at, tuple(key.thumbprint() for key in one.keys)) for one in sets}) == 1
    assert sets[0].issued_at > read_key_set(old.key_set, None).issued_at
    last = retire(ready)
    assert [key.thumbprint() for key in read_key_set(last.key_set, new_keys).keys] == [after.signing_kid]
    assert read_key_set(last.key_set, new_keys).issued_at > sets[0].issued_at
    with pytest.raises(HostsealError, match="not pinned"):
        read_key_set(last.key_set, old_keys)
    assert rollover(ready) == _migrating.Rollover((), ())


def test_key_set_times_grow_when_the_clock_went_back(ready: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    times = [read_key_set(record(ready).key_set, None).issued_at]
    monkeypatch.setattr(_migrating, "now_ms", lambda: 1000)
    for act in (migrate, retire):
        times.append(read_key_set(act(ready).key_set, None).issued_at)
    assert times == [times[0], times[0] + 1, times[0] + 2]


def test_third_key_leaves_the_first_one_out(ready: Place) -> None:
    first = record(ready)
    second = migrate(ready)
    localkey.create(ready.keys, "third")
    third = migrate(ready, "third")
    kids = [key.thumbprint() for key in read_key_set(third.key_set, None).keys]
    assert kids == [third.signing_kid, second.signing_kid]
    back = migrate(ready, "prod")
    assert back.signing_kid == first.signing_kid
    assert rollover(ready).retiring == (third.signing_kid,)
    assert len(opened(ready)) == 10


def _as(place: Place, name: str, content: dict[str, Any]) -> None:
    path = place.keys / f"{name}.jwks"
    path.write_text(json.dumps({**content, "name": name}), encoding="ascii")
    path.chmod(0o600)


def test_the_same_signing_key_elsewhere_needs_no_new_pins(ready: Place) -> None:
    _as(ready, "copy", json.loads((ready.keys / "prod.jwks").read_text(encoding="ascii")))
    before, values = record(ready), opened(ready)
    after = migrate(ready, "copy")
    assert after == replace(before, key_name="copy")
    assert opened(ready) == values
    assert key_versions(ready) == {2}
    assert rollover(ready) == _migrating.Rollover((), ())


def _forged(place: Place) -> None:
    """db2's record from another key."""
    localkey.create(place.keys, "forger")
    kept = place.keys / "prod.kept"
    (place.keys / "prod.jwks").rename(kept)
    _as(place, "prod", json.loads((place.keys / "forger.jwks").read_text(encoding="ascii")))
    place.enrol("db2")
    kept.rename(place.keys / "prod.jwks")


def _swapped(place: Place) -> None:
    place.sql("UPDATE host SET record = (SELECT record FROM host WHERE name = 'db1') WHERE name = 'db2'")


def _other_kid(place: Place) -> None:
    place.sql("UPDATE host SET kid = (SELECT kid FROM host WHERE name = 'db1') WHERE name = 'db2'")


def _broken_record(place: Place) -> None:
    place.sql("UPDATE host SET record = 'x' || record WHERE name = 'db2'")


HOSTS = r"the record of host 'db2' in environment 'prod' is not to be trusted"


def _edited_ciphertext(place: Place) -> None:
    [[text]] = place.sql("SELECT ciphertext FROM secret_version WHERE name = 's4' AND number = 1")
    edited = text[:-6] + ("A" if text[-6] != "A" else "B") + text[-5:]
    place.sql("UPDATE secret_version SET ciphertext = ? WHERE ciphertext = ?", edited, text)


def _moved_ciphertext(place: Place) -> None:
    query = "(SELECT ciphertext FROM secret_version WHERE name = 's3' AND number = 1)"
    place.sql(f"UPDATE secret_version SET ciphertext = {query} WHERE name = 's4' AND number = 1")  # noqa: S608


def _foreign_ciphertext(place: Place) -> None:
    place.sql("UPDATE secret_version SET ciphertext = 'vault:v1:AAAA' WHERE name = 's4' AND number = 1")


VALUE = "secret 's4' version 1 of environment 'prod'"


def _wrong_old_key(place: Place) -> None:
    (place.keys / "prod.jwks").unlink()
    localkey.create(place.keys, "prod")


def _old_key_gone(place: Place) -> None:
    (place.keys / "prod.jwks").unlink()


def _old_version_gone(place: Place) -> None:
    localkey.retire(place.keys, "prod", 2)


def _edited_signing_key(place: Place) -> None:
    key = place.backend("other").verification_keys()[0]
    place.sql("UPDATE environment SET signing_key = ?", key.export_public())


def _edited_key_set(place: Place) -> None:
    other = _migrating.new_record("prod", "localkey", "other", None, place.backend("other"))
    place.sql("UPDATE environment SET key_set = ?", other.key_set)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_forged, HOSTS),
        (_swapped, HOSTS),
        (_other_kid, HOSTS),
        (_broken_record, HOSTS),
        (_edited_ciphertext, f"{VALUE}.*does not open"),
        (_moved_ciphertext, f"{VALUE}.*does not open"),
        (_foreign_ciphertext, f"{VALUE}.*is not one of the localkey backend"),
        (_wrong_old_key, "'prod' was declared with the signing key .*its backend has"),
        (_old_key_gone, r"key file .*prod\.jwks does not exist"),
        (_old_version_gone, "is encrypted under version 1, which key file .* does not have"),
        (_edited_signing_key, "the store was edited"),
        (_edited_key_set, "not pinned"),
    ],
)
def test_what_is_not_as_it_was_left_ends_the_migration(
    ready: Place, damage: Callable[[Place], None], reason: str
) -> None:
    damage(ready)
    before = ready.content()
    with pytest.raises(HostsealError, match=reason):
        migrate(ready)
    assert ready.content() == before


class Forgetful(Watched):
    """Makes ciphertexts that open to something else."""

    def decrypt(self, items: Sequence[tuple[Binding, str]]) -> list[bytes]:
        return [*super().decrypt(items)[:-1], b"something else"]


def test_every_value_is_looked_at_before_it_is_done(ready: Place) -> None:
    before = ready.content()
    with pytest.raises(HostsealError, match="does not come back from the new key as it went in. Nothing was changed"):
        migrate(ready, new=Forgetful(ready.backend("other")))
    assert ready.content() == before


def test_kill_at_each_call_of_a_backend_leaves_the_old_state(ready: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_migrating, "CHUNK", 6)
    before, values = whole_state(ready), opened(ready)
    old, new = Watched(ready.backend()), Watched(ready.backend("other"))
    with ready.store() as store, pytest.raises(ZeroDivisionError), store.transaction() as transaction:
        found = transaction.environment("prod")
        _migrating.migrate(transaction, found, old, replace(found, key_name="other"), new, lambda _done, _whole: None)
        raise ZeroDivisionError
    assert (len(old.made), len(new.made)) == (3, 8)

    calls_of_old, calls_of_new = len(old.made), len(new.made)
    for call in range(calls_of_old):
        old = Watched(ready.backend(), dies_at(call))
        assert in_processes(1, lambda _number, old=old: migrate(ready, old=old)) == [-signal.SIGKILL]
        assert whole_state(ready) == before
    for call in range(calls_of_new):
        new = Watched(ready.backend("other"), dies_at(call))
        assert in_processes(1, lambda _number, new=new: migrate(ready, new=new)) == [-signal.SIGKILL]
        assert whole_state(ready) == before
    assert migrate(ready).key_name == "other"
    assert opened(ready) == values
    if ready.path.exists():
        assert ready.sql("PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("method", ["replace_ciphertexts", "put_host", "put_environment"])
def test_kill_after_each_kind_of_write_leaves_the_old_state(
    ready: Place, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    # More than the page cache holds: part of the new state is in the file already.
    ready.declare(*[{"name": f"large{number}", "value": "x" * 400_000} for number in range(8)])
    before = whole_state(ready)

    def work(_number: int) -> None:
        real = getattr(Transaction, method)

        def die(transaction: Transaction, *arguments: Any) -> None:
            real(transaction, *arguments)
            os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr(Transaction, method, die)
        migrate(ready)

    stored = ready.path.read_bytes() if ready.path.exists() else b""
    assert in_processes(1, work) == [-signal.SIGKILL]
    if stored:
        assert ready.path.read_bytes() != stored, "the test is too weak: nothing had been written yet"
    assert whole_state(ready) == before
    migrate(ready)
    assert len(opened(ready)) == 18


@pytest.fixture
def on_small_disk(small_disk: Path, tmp_path: Path) -> Place:
    place = Place(small_disk / "store.db", tmp_path / "keys")
    place.declare_environment("prod")
    localkey.create(place.keys, "other")
    return place


def test_full_disk(on_small_disk: Place) -> None:
    place = on_small_disk
    place.declare(*[{"name": f"s{number}", "value": "x" * 10_000} for number in range(14)])
    before, values = whole_state(place), opened(place)
    filler = place.path.with_name("filler")
    filler.write_bytes(b"x" * 220_000)
    with pytest.raises(HostsealError, match="the disk is full"):
        migrate(place)
    assert whole_state(place) == before
    filler.unlink()
    migrate(place)
    assert opened(place) == values


def test_declarations_wait_for_a_migration_and_go_to_the_new_key(ready: Place) -> None:
    """Six at once; whoever comes after the migration finds and uses the new key, whoever came before is migrated."""

    def work(number: int) -> None:
        if number == 3:
            migrate(ready)
            return
        options = {"state": "present", "on_difference": "fail", "name": f"n{number}", "value": "x"}
        with ready.store() as store, store.transaction() as transaction:
            found = transaction.environment("prod")
            declare(
                transaction,
                "prod",
                lambda: ready.backend(found.key_name),
                [Declaration.from_options(options)],
                False,
            )

    values = opened(ready)
    assert in_processes(6, work) == [0] * 6
    expected = {**values, **{(f"n{number}", 1): b"x" for number in (0, 1, 2, 4, 5)}}
    assert opened(ready) == expected


def test_two_migrations_at_once_do_one(ready: Place) -> None:
    values = opened(ready)

    def work(_number: int) -> None:
        with ready.store() as store, store.transaction() as transaction:
            before = transaction.environment("prod")
            if before.key_name == "other":
                os._exit(7)
            after = replace(before, key_name="other")
            _migrating.migrate(
                transaction, before, ready.backend(), after, ready.backend("other"), lambda _done, _whole: None
            )

    assert sorted(in_processes(2, work)) == [0, 7]
    assert opened(ready) == values
    assert len(read_key_set(record(ready).key_set, None).keys) == 2


WANTED = Mount.from_options({"environment": "prod", "name": "db", "secrets": [{"source": "s0"}]})


@pytest.mark.parametrize("call", [0, 1])
def test_sealing_that_a_migration_overtakes_is_refused(ready: Place, call: int) -> None:
    def meanwhile(_name: str, number: int) -> None:
        if number == call and record(ready).key_name == "prod":
            migrate(ready)

    with ready.store() as store:
        plans = _sealing.plan(store, [("db1", WANTED)])
        backend = Watched(ready.backend(), meanwhile)
        if call == 0:
            with pytest.raises(HostsealError, match="given other keys by another run: run again"):
                _sealing.seal(store, lambda _environment: backend, plans)
        else:
            # The issue time was taken before: the envelope is one of the old key, which hosts still accept.
            _sealing.seal(store, lambda _environment: backend, plans)
        again = _sealing.plan(store, [("db1", WANTED)])
        assert not again[0].is_sealed
        sealed = _sealing.seal(store, lambda environment: ready.backend(environment.key_name), again)
        assert sealed["db1", "prod.db"].issued_at > 0
        assert _sealing.plan(store, [("db1", WANTED)])[0].is_sealed


# Retiring the old signing key


def confirm(place: Place, host: str, mount: str | None = None) -> None:
    """HOST has pinned the newest key set, and has MOUNT under the newest key."""
    with place.store() as store:
        found = record(place)
        _sealing.confirm_key_sets(store, host, {"prod": read_key_set(found.key_set, None).issued_at})
        if mount:
            deliver(place, host, mount)


def deliver(place: Place, host: str, mount: str) -> None:
    with place.store() as store, store.transaction() as transaction:
        kid = transaction.environment("prod").signing_kid
        transaction.put_receipts([Receipt("prod", host, mount, 5, None, "d", [], 6, kid)])


def test_behind_names_every_host_and_mount(ready: Place) -> None:
    assert rollover(ready) == _migrating.Rollover((), ())
    confirm(ready, "db1", "db")
    confirm(ready, "db2", "web")
    migrate(ready)
    expected = [
        "host 'db1' has not pinned the new key",
        "host 'db2' has not pinned the new key",
        "host 'db1' has mount 'db' under the old key",
        "host 'db2' has mount 'web' under the old key",
    ]
    assert list(rollover(ready).behind) == expected
    confirm(ready, "db1")
    assert list(rollover(ready).behind) == expected[1:]
    deliver(ready, "db1", "db")
    assert list(rollover(ready).behind) == [expected[1], expected[3]]
    confirm(ready, "db2", "web")
    assert rollover(ready).behind == ()
    assert rollover(ready).retiring
    retire(ready)
    assert rollover(ready) == _migrating.Rollover((), ())


def test_retired_host_is_not_waited_for(ready: Place) -> None:
    confirm(ready, "db1", "db")
    confirm(ready, "db2", "web")
    migrate(ready)
    confirm(ready, "db1", "db")
    with ready.store() as store, store.transaction() as transaction:
        transaction.remove_host("prod", "db2")
    assert rollover(ready).behind == ()


def test_an_edited_key_set_is_not_retired(ready: Place) -> None:
    migrate(ready)
    forged = _migrating.new_record("prod", "localkey", "prod", None, ready.backend("prod"))
    ready.sql("UPDATE environment SET key_set = ?", forged.key_set)
    before = ready.content()
    with pytest.raises(HostsealError, match="not pinned"):
        retire(ready)
    assert ready.content() == before
