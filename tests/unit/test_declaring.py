# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Declaring secrets: every state against every store, on a real backend."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _declaring
from ansible_collections.hostseal.secrets.plugins.plugin_utils._declaring import Declaration, Outcome
from ansible_collections.hostseal.secrets.plugins.plugin_utils._records import Receipt

from tests.unit.builders import Place

MIB = 1 << 20


def _one(place: Place, **options: Any) -> tuple[str, int | None, int | None]:
    [outcome] = place.declare({"name": "a", **options})
    return outcome.action, outcome.before, outcome.version


def test_states_one_after_another(prod: Place) -> None:
    assert _one(prod, value="x") == ("created", None, 1)
    assert _one(prod, value="x") == ("unchanged", 1, 1)
    assert _one(prod, value="y", on_difference="keep") == ("unchanged", 1, 1)
    assert prod.values() == {"a": b"x"}
    assert _one(prod, value="y", on_difference="rotate") == ("rotated", 1, 2)
    assert _one(prod, value="y", on_difference="rotate") == ("unchanged", 2, 2)
    assert _one(prod, value="y", state="rotated") == ("rotated", 2, 3)
    assert _one(prod, generate={}) == ("unchanged", 3, 3)
    assert prod.values() == {"a": b"y"}
    assert _one(prod, generate={}, state="rotated") == ("rotated", 3, 4)
    assert _one(prod, state="absent") == ("deleted", 4, None)
    assert _one(prod, state="absent") == ("unchanged", None, None)
    assert prod.values() == {}
    assert _one(prod, value="x") == ("created", None, 5)


def test_rotating_what_is_not_there_creates_it(prod: Place) -> None:
    assert _one(prod, value="x", state="rotated") == ("created", None, 1)


def test_difference_fails_and_changes_nothing_of_the_whole_call(prod: Place) -> None:
    prod.declare({"name": "a", "value": "x"})
    with pytest.raises(HostsealError, match="secret 'a' has another value than its version 1 in the store") as caught:
        prod.declare({"name": "new", "value": "1"}, {"name": "a", "value": "geheim"}, {"name": "b", "value": "2"})
    assert "geheim" not in str(caught.value)
    assert prod.values() == {"a": b"x"}


def test_value_of_an_older_version_differs_from_the_newest(prod: Place) -> None:
    for value in ("x", "y"):
        prod.declare({"name": "a", "value": value, "on_difference": "rotate"})
    assert _one(prod, value="x", on_difference="rotate") == ("rotated", 2, 3)


@pytest.mark.parametrize(
    "options",
    [
        {"value": "x"},
        {"generate": {}},
        {"value": "x", "state": "rotated"},
        {"state": "absent"},
        {"value": "y", "on_difference": "rotate"},
    ],
)
@pytest.mark.parametrize("exists", [True, False])
def test_check_mode_predicts_and_changes_nothing(prod: Place, options: dict[str, Any], exists: bool) -> None:
    if exists:
        prod.declare({"name": "a", "value": "x"})
    before = prod.content()
    predicted = prod.declare({"name": "a", **options}, check=True)
    assert prod.content() == before
    assert prod.declare({"name": "a", **options}) == predicted


@pytest.mark.parametrize(
    "value",
    [
        b"\0",
        b"aGVsbG8=",
        b"\xff\xfe\x00",
        b"line\n",
        b"\r\n\r\n",
        b" {{ x }} ",
        bytes(range(256)),
        os.urandom(5000),
        "schön".encode(),
    ],
)
def test_values_are_stored_byte_for_byte(prod: Place, tmp_path: Path, value: bytes) -> None:
    (tmp_path / "value").write_bytes(value)
    secrets = [
        {"name": "base64", "value_base64": base64.b64encode(value).decode()},
        {"name": "file", "value_file": str(tmp_path / "value")},
    ]
    try:
        secrets.append({"name": "text", "value": value.decode()})
    except UnicodeDecodeError:
        pass
    assert [outcome.action for outcome in prod.declare(*secrets)] == ["created"] * len(secrets)
    assert prod.values() == {secret["name"]: value for secret in secrets}
    assert {outcome.action for outcome in prod.declare(*secrets)} == {"unchanged"}


@pytest.mark.parametrize("source", ["value", "value_base64", "value_file"])
def test_an_empty_value_is_refused(prod: Place, source: str) -> None:
    with pytest.raises(HostsealError, match=f"{source} is empty"):
        prod.declare({"name": "a", source: os.devnull if source == "value_file" else ""})
    assert prod.values() == {}


def test_base64_may_be_wrapped(prod: Place) -> None:
    value = os.urandom(200)
    assert _one(prod, value_base64=base64.encodebytes(value).decode()) == ("created", None, 1)
    assert prod.values() == {"a": value}


@pytest.mark.parametrize("text", ["geheim!", "Z", "Zg", "Zg=", "Zg===", "é", "Z-_w"])
def test_bad_base64(text: str) -> None:
    with pytest.raises(HostsealError, match="secret 'a': value_base64 is not base64") as caught:
        Declaration.from_options({"name": "a", "state": "present", "on_difference": "fail", "value_base64": text})
    assert text not in str(caught.value)


def test_largest_value(prod: Place, tmp_path: Path) -> None:
    (tmp_path / "value").write_bytes(b"x" * MIB)
    assert _one(prod, value_file=str(tmp_path / "value")) == ("created", None, 1)
    assert len(prod.values()["a"]) == MIB


def test_value_over_the_limit(prod: Place, tmp_path: Path) -> None:
    (tmp_path / "value").write_bytes(b"x" * (MIB + 1))
    for options in (
        {"value": "x" * (MIB + 1)},
        {"value": "é" * (MIB // 2 + 1)},
        {"value_base64": base64.b64encode(b"x" * (MIB + 1)).decode()},
        {"value_file": str(tmp_path / "value")},
        {"value_file": "/dev/zero"},
    ):
        with pytest.raises(
            HostsealError, match=r"secret 'a': value\w* has \d+ bytes, at most 1048576 are allowed"
        ) as caught:
            _one(prod, **options)
        assert "xxxx" not in str(caught.value)


def _checked(**options: Any) -> Declaration:
    return Declaration.from_options({"name": "a", "state": "present", "on_difference": "fail", **options})


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, "give exactly one of value, value_base64, value_file, generate"),
        ({"state": "rotated"}, "give exactly one of"),
        ({"value": "geheim", "generate": {}}, "not value and generate"),
        ({"value": "geheim", "value_base64": "geheim"}, "not value and value_base64"),
        ({"value": "geheim", "state": "absent"}, "state absent goes without value"),
        ({"generate": {}, "state": "absent"}, "state absent goes without generate"),
        ({"value": "geheim", "rotate_after": "1d"}, "rotate_after needs generate"),
        ({"generate": {}, "rotate_after": "soon"}, "rotate_after 'soon' is not a duration"),
        ({"generate": {"length": 0}}, "length 0 is outside 1 to 1048576"),
        ({"generate": {"length": MIB + 1}}, "length 1048577 is outside"),
        ({"generate": {"alphabet": ""}}, "needs two or more characters"),
        ({"generate": {"alphabet": "a"}}, "needs two or more characters"),
        ({"generate": {"alphabet": "aab"}}, "each of them once"),
        ({"generate": {"length": MIB, "alphabet": "éa"}}, "may have more than 1048576 bytes"),
        ({"generate": {"alphabet": "a\ud800"}}, "alphabet"),
        ({"value_file": "/nowhere/file"}, "/nowhere/file can't be read on the control node: No such file"),
        ({"value_file": "/"}, "can't be read on the control node: Is a directory"),
        ({"value_file": "/tmp/a\0b"}, "can't be read on the control node"),
        ({"value": "geheim\ud800"}, "value is not valid Unicode"),
        ({"name": "../x", "value": "geheim"}, "secret name '../x'"),
        ({"name": None, "value": "geheim"}, "secret name is missing"),
    ],
)
def test_bad_declaration(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(HostsealError) as caught:
        _checked(**options)
    assert reason in str(caught.value)
    assert "geheim" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_repr_shows_no_value() -> None:
    assert "geheim" not in repr(_checked(value="geheim"))


def test_secret_declared_twice_in_one_call(prod: Place) -> None:
    with pytest.raises(HostsealError, match="secret 'a' is declared twice in one task"):
        prod.declare({"name": "a", "value": "x"}, {"name": "b", "value": "x"}, {"name": "a", "value": "x"})
    assert prod.values() == {}


def test_many_in_one_call_keep_their_order(prod: Place) -> None:
    names = [f"s{number}" for number in range(600)]
    outcomes = prod.declare(*({"name": name, "value": name} for name in names))
    assert outcomes == [Outcome(name, "created", None, 1) for name in names]
    assert prod.values() == {name: name.encode() for name in names}
    mixed = prod.declare(
        {"name": "s0", "state": "absent"},
        {"name": "s1", "value": "new", "on_difference": "rotate"},
        {"name": "s2", "value": "s2"},
        {"name": "t", "generate": {}},
    )
    assert mixed == [
        Outcome("s0", "deleted", 1, None),
        Outcome("s1", "rotated", 1, 2),
        Outcome("s2", "unchanged", 1, 1),
        Outcome("t", "created", None, 1),
    ]


# Generated values


def test_generated_value(prod: Place) -> None:
    prod.declare(
        {"name": "a", "generate": {}},
        {"name": "b", "generate": {"length": 64, "alphabet": "01"}},
        {"name": "c", "generate": {"length": 10, "alphabet": "äöü"}},
        {"name": "d", "generate": {"length": 32, "alphabet": None}},
    )
    values = {name: value.decode() for name, value in prod.values().items()}
    assert len(values["a"]) == len(values["d"]) == 32
    assert set(values["a"]) <= set(_declaring.ALPHABET)
    assert len(values["b"]) == 64
    assert set(values["b"]) == set("01")
    assert len(values["c"]) == 10
    assert set(values["c"]) <= set("äöü")
    assert values["a"] != values["d"]


def test_existing_secret_is_not_generated_again(prod: Place) -> None:
    prod.declare({"name": "a", "generate": {}})
    before = prod.values()
    assert _one(prod, generate={"length": 99}) == ("unchanged", 1, 1)
    assert prod.values() == before


def test_rotation_by_age(prod: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    start = 1_790_000_000_000
    day = 86_400_000
    ages = [
        (0, "created"),
        (day, "unchanged"),
        (2 * day - 1, "unchanged"),
        (2 * day, "rotated"),
        (3 * day, "unchanged"),
        (4 * day, "rotated"),
        (-day, "unchanged"),
    ]
    for age, action in ages:
        monkeypatch.setattr(_declaring, "now_ms", lambda age=age: start + age)
        assert _one(prod, generate={}, rotate_after="2d")[0] == action


# What a value is compared with


class _CountingBackend:
    """The real backend, which counts how often it is asked for."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.opened = 0

    def __call__(self) -> Any:
        self.opened += 1
        return self.place.backend()


def _declare_counted(place: Place, backend: _CountingBackend, *secrets: dict[str, Any]) -> None:
    declarations = [_checked(**secret) for secret in secrets]
    with place.store() as store, store.transaction() as transaction:
        _declaring.declare(transaction, "prod", backend, declarations, check=False)


def test_backend_is_not_opened_when_nothing_is_compared_or_made(prod: Place) -> None:
    backend = _CountingBackend(prod)
    _declare_counted(prod, backend, {"name": "a", "generate": {}})
    assert backend.opened == 1
    _declare_counted(prod, backend, {"name": "a", "generate": {}}, {"name": "b", "state": "absent"})
    assert backend.opened == 1


def test_backend_is_opened_once_to_compare_and_to_encrypt(prod: Place) -> None:
    """With Vault, opening one is a login."""
    prod.declare({"name": "a", "value": "x"})
    backend = _CountingBackend(prod)
    _declare_counted(prod, backend, {"name": "a", "value": "y", "on_difference": "rotate"}, {"name": "b", "value": "z"})
    assert backend.opened == 1


def test_store_has_no_value_and_no_plain_hash_of_one(prod: Place) -> None:
    import hashlib

    value = b"hunter2-hunter2-hunter2"
    prod.declare({"name": "a", "value": value.decode()}, {"name": "b", "value": value.decode()})
    content = prod.content()
    forms = [value, base64.b64encode(value)[:-4], value.hex().encode()]
    for name in ("md5", "sha1", "sha256", "sha512"):
        digest = hashlib.new(name, value).digest()
        forms += [digest, digest.hex().encode(), base64.b64encode(digest)[:-4]]
    assert not any(form in content for form in forms)
    with prod.store() as store, store.transaction() as transaction:
        versions = transaction.current_versions("prod")
    assert versions["a"].fingerprint != versions["b"].fingerprint
    assert versions["a"].id != versions["b"].id


# Going back, and keeping some versions


def test_an_earlier_version_becomes_current_until_the_next_one(prod: Place) -> None:
    for value in ("one", "two", "three"):
        prod.declare({"name": "a", "value": value, "on_difference": "rotate"})
    (outcome,) = prod.declare({"name": "a", "version": 1})
    assert (outcome.action, outcome.before, outcome.version) == ("rolled_back", 3, 1)
    assert prod.values() == {"a": b"one"}
    assert prod.declare({"name": "a", "version": 1})[0].action == "unchanged"
    assert prod.declare({"name": "a", "value": "one"})[0].action == "unchanged"
    with pytest.raises(HostsealError, match="another value than its version 1"):
        prod.declare({"name": "a", "value": "three"})
    (outcome,) = prod.declare({"name": "a", "value": "four", "on_difference": "rotate"})
    assert (outcome.action, outcome.version) == ("rotated", 4)
    assert prod.values() == {"a": b"four"}


def test_going_back_needs_the_version(prod: Place) -> None:
    prod.declare({"name": "a", "value": "one"})
    with pytest.raises(HostsealError, match=r"'a' has no version 7 \(there: 1\)"):
        prod.declare({"name": "a", "version": 7})
    with pytest.raises(HostsealError, match=r"'b' has no version 1 \(there: none\)"):
        prod.declare({"name": "b", "version": 1})
    prod.declare({"name": "a", "state": "absent"})
    with pytest.raises(HostsealError, match=r"'a' has no version 1 \(there: none\)"):
        prod.declare({"name": "a", "version": 1})


@pytest.mark.parametrize(
    "options",
    [
        {"version": 1, "value": "x"},
        {"version": 1, "generate": {}},
        {"version": 1, "state": "rotated"},
        {"version": 1, "rotate_after": "1d"},
        {"version": 0},
        {"version": -1},
        {"keep_versions": 0, "value": "x"},
        {"keep_versions": -2, "value": "x"},
    ],
)
def test_bad_numbers_of_versions(prod: Place, options: dict[str, Any]) -> None:
    with pytest.raises(HostsealError, match="secret 'a': (version|keep_versions)"):
        prod.declare({"name": "a", **options})


def test_keep_versions_spares_what_is_current_and_what_a_host_has(prod: Place) -> None:
    for value in ("1", "2", "3", "4"):
        prod.declare({"name": "a", "value": value, "on_difference": "rotate"})
    with prod.store() as store, store.transaction() as transaction:
        transaction.put_receipts([Receipt("prod", "h", "m", 1, None, "d", [{"name": "a", "version": 2}], 1, None)])
    prod.declare({"name": "a", "version": 1})
    predicted = prod.declare({"name": "a", "version": 1, "keep_versions": 1}, check=True)
    (outcome,) = prod.declare({"name": "a", "version": 1, "keep_versions": 1})
    assert outcome == predicted[0]
    assert outcome.changed
    assert (outcome.action, outcome.pruned) == ("unchanged", [3])
    with prod.store() as store, store.transaction() as transaction:
        assert [version.number for version in transaction.versions("prod")] == [1, 2, 4]
    assert not prod.declare({"name": "a", "version": 1, "keep_versions": 1})[0].changed
    predicted = prod.declare({"name": "a", "value": "5", "on_difference": "rotate", "keep_versions": 2}, check=True)
    (outcome,) = prod.declare({"name": "a", "value": "5", "on_difference": "rotate", "keep_versions": 2})
    assert outcome == predicted[0]
    assert (outcome.version, outcome.pruned) == (5, [1])


def test_what_hosts_have_is_not_deleted_unless_forced(prod: Place) -> None:
    prod.declare({"name": "a", "value": "1"}, {"name": "b", "value": "1"})
    with prod.store() as store, store.transaction() as transaction:
        transaction.put_receipts([Receipt("prod", "web1", "m", 1, None, "d", [{"name": "a", "version": 1}], 1, None)])
    with pytest.raises(HostsealError, match="secret 'a' is still on hosts: web1 in mount 'm'"):
        prod.declare({"name": "b", "state": "absent"}, {"name": "a", "state": "absent"})
    assert set(prod.values()) == {"a", "b"}
    prod.declare({"name": "b", "state": "absent"}, {"name": "a", "state": "absent", "force": True})
    assert prod.values() == {}
