# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backend with a real server: round trips, bindings, how batches are split, keys that were rotated there."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _migrating
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends import Backend, Binding, key_version
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from jwcrypto.jwk import JWK

from tests.integration.control.conftest import Control, secret, task
from tests.integration.vault.connection import Transit, defaults
from tests.integration.vault.setting_up import ask
from tests.rig.openbao import OpenBao

A = Binding("prod", "a", 1)


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path)


@pytest.fixture
def transit(bao: OpenBao, mount: str) -> Transit:
    """An engine of the test's own, set up for prod."""
    return Transit(bao, mount)


def _many(count: int) -> list[tuple[Binding, bytes]]:
    return [(Binding("prod", f"s{number}", 1), f"value {number}".encode()) for number in range(count)]


def _verify(key: JWK, signature: bytes, payload: bytes) -> None:
    x = base64.urlsafe_b64decode(key.export(as_dict=True)["x"] + "=")
    Ed25519PublicKey.from_public_bytes(x).verify(signature, payload)


def _rotate(transit: Transit, key: str) -> None:
    assert ask(transit.bao, "POST", f"{transit.mount}/keys/{key}/rotate").ok


def test_values_come_back_byte_for_byte(transit: Transit) -> None:
    values = [b"x", b"", b"\0\xff\r\n", b"aGVsbG8=", "schön".encode(), os.urandom(1 << 20)]
    bindings = [Binding("prod", f"s{number}", number + 1) for number in range(len(values))]
    with transit.backend() as backend:
        texts = backend.encrypt(list(zip(bindings, values, strict=True)))
        assert [key_version(text) for text in texts] == [1] * len(values)
        assert backend.decrypt(list(zip(bindings, texts, strict=True))) == values
        _rotate(transit, "prod")
        again = backend.rewrap(list(zip(bindings, texts, strict=True)))
        assert [key_version(text) for text in again] == [2] * len(values)
        assert backend.decrypt(list(zip(bindings, again, strict=True))) == values
        payloads = [b"one", b"two"]
        for payload, signature in zip(payloads, backend.sign(payloads), strict=True):
            assert len(signature) == 64
            _verify(backend.verification_keys()[0], signature, payload)


@pytest.mark.parametrize(
    "other", [Binding("staging", "a", 1), Binding("prod", "b", 1), Binding("prod", "a", 2)], ids=str
)
def test_a_ciphertext_opens_only_in_its_place(transit: Transit, other: Binding) -> None:
    with transit.backend() as backend:
        [text] = backend.encrypt([(A, b"value")])
        for work in (backend.decrypt, backend.rewrap):
            with pytest.raises(HostsealError) as caught:
                work([(other, text)])
            message = str(caught.value)
            assert message.startswith(f"{other}: Vault at {transit.bao.url}: POST {transit.mount}/")
            assert "moved from another place" in message
        with pytest.raises(HostsealError, match="secret 'a' version 1 .* not one of the vault backend"):
            backend.decrypt([(A, "localkey:v1:AAAA")])


@pytest.mark.parametrize(("count", "requests"), [(0, 0), (1, 1), (249, 1), (250, 2), (1000, 5)])
def test_no_request_has_more_items_than_the_server_takes(transit: Transit, count: int, requests: int) -> None:
    items = _many(count)
    bindings = [binding for binding, _value in items]
    with transit.backend() as backend:
        start = transit.bao.mark()
        texts = backend.encrypt(items)
        again = backend.rewrap(list(zip(bindings, texts, strict=True)))
        # In their order: each opens under its own binding only.
        assert backend.decrypt(list(zip(bindings, again, strict=True))) == [value for _binding, value in items]
        seen = transit.paths(start)
    expected = [f"update MOUNT/{work}/prod" for work in ("encrypt", "rewrap", "decrypt") for _number in range(requests)]
    assert seen == expected


@pytest.mark.parametrize(("count", "requests"), [(0, 0), (499, 1), (500, 2)])
def test_labels_and_signatures_need_fewer_strings(transit: Transit, count: int, requests: int) -> None:
    items = _many(count)
    with transit.backend() as backend:
        key = backend.verification_keys()[0]
        start = transit.bao.mark()
        labels = backend.fingerprint(items)
        signatures = backend.sign([value for _binding, value in items])
        seen = transit.paths(start)
        assert labels[:1] + labels[-1:] == backend.fingerprint(items[:1] + items[-1:])
    assert len(set(labels)) == len(labels) == count
    for (_binding, value), signature in zip(items, signatures, strict=True):
        _verify(key, signature, value)
    hmac, sign = "update MOUNT/hmac/prod-hmac/sha2-256", "update MOUNT/sign/prod-sign"
    assert seen == [hmac] * requests + [sign] * requests


def test_the_server_does_refuse_larger_ones(transit: Transit) -> None:
    """Else the rule would be there for nothing."""
    entry = {"plaintext": "eA==", "context": "eA=="}
    path = f"{transit.mount}/encrypt/prod"
    assert ask(transit.bao, "POST", path, {"batch_input": [entry] * 249}).status_code == 200
    assert ask(transit.bao, "POST", path, {"batch_input": [entry] * 250}).status_code == 400


def test_many_large_values(transit: Transit) -> None:
    items = [(Binding("prod", f"s{number}", 1), os.urandom(1 << 20)) for number in range(40)]
    with transit.backend() as backend:
        start = transit.bao.mark()
        texts = backend.encrypt(items)
        opened = backend.decrypt([(binding, text) for (binding, _value), text in zip(items, texts, strict=True)])
        assert opened == [value for _binding, value in items]
        # 14 of 1.4 million characters each in a request.
        assert transit.paths(start) == ["update MOUNT/encrypt/prod"] * 3 + ["update MOUNT/decrypt/prod"] * 3


def test_of_a_partly_bad_batch_nothing_is_stored(transit: Transit, tmp_path: Path) -> None:
    path = tmp_path / "store.db"
    transit.declare_environment(path)
    transit.declare(path, {f"s{number}": f"value {number}" for number in range(300)})
    _swap(path, "s100", "s101")
    _rotate(transit, "prod")
    before = path.read_bytes()
    with Store(str(path), False) as store, transit.backend() as backend, pytest.raises(HostsealError) as caught:
        _migrating.rewrap(store, "prod", lambda _environment: backend, lambda _done, _whole: None, False)
    assert str(caught.value).startswith("secret 's100' version 1 of environment 'prod' (and 1 more): Vault at ")
    assert path.read_bytes() == before


def _swap(path: Path, one: str, other: str) -> None:
    """Somebody edits the store."""
    with Store(str(path), False) as store, store.transaction() as transaction:
        first, second = (transaction.versions("prod", [name])[0] for name in (one, other))
        transaction.replace_ciphertexts(
            [
                (first, first.__class__(**{**vars(first), "ciphertext": second.ciphertext})),
                (second, second.__class__(**{**vars(second), "ciphertext": first.ciphertext})),
            ]
        )


def test_a_label_stays_whatever_is_rotated(transit: Transit) -> None:
    with transit.backend() as backend:
        [before] = backend.fingerprint([(A, b"value")])
        for key in ("prod", "prod-hmac", "prod-sign"):
            _rotate(transit, key)
        others = [
            (Binding("prod", "a", 2), b"value"),
            (A, b"other"),
            (Binding("prod", "b", 1), b"value"),
            (Binding("staging", "a", 1), b"value"),
        ]
        after = backend.fingerprint([(A, b"value"), *others])
    assert after[:2] == [before, before]
    assert len(set(after)) == 4


def test_signing_goes_on_with_the_key_that_the_environment_has(transit: Transit) -> None:
    with transit.backend() as backend:
        [old] = backend.verification_keys()
    _rotate(transit, "prod-sign")
    with transit.backend(signing_kid=old.thumbprint()) as backend:
        first, second = backend.verification_keys()
        [signature] = backend.sign([b"payload"])
    assert first.thumbprint() == old.thumbprint() != second.thumbprint()
    _verify(old, signature, b"payload")
    with transit.backend() as backend:
        assert backend.verification_keys()[0].thumbprint() == second.thumbprint()
        _verify(second, backend.sign([b"payload"])[0], b"payload")


def test_a_signing_key_rotated_on_the_server_is_taken_up_by_migrating(transit: Transit, control: Control) -> None:
    vault = defaults(**transit.options())
    first = control.tasks(transit.environment(), secret("a", value="x"), **vault)
    transit.enrol(control.place.path, ["h1"])
    kid = first.result("prod")["environment"]["signing_kid"]
    _rotate(transit, "prod-sign")
    mount: dict[str, Any] = {"name": "db", "secrets": [{"source": "a"}]}
    sealing = {"environment": "prod", "hosts": ["h1"], "mounts": [mount]}
    run = control.tasks(
        {**transit.environment(), "name": "again"},
        task("seal", "seal", **sealing),
        {**transit.environment(migrate=True), "name": "migrate"},
        task("seal anew", "seal", **sealing),
        **vault,
    )
    assert [run.changed(name) for name in ("again", "seal", "migrate", "seal anew")] == [0, 1, 1, 1]
    assert run.result("again")["environment"]["signing_kid"] == kid
    told = run.result("migrate")["environment"]
    assert told["signing_kid"] != kid
    assert told["retiring_kids"] == [kid]


def test_a_derived_key_is_known_as_one_whatever_its_versions(transit: Transit) -> None:
    for _number in range(3):
        _rotate(transit, "prod")
    with transit.backend() as backend:
        assert backend.verification_keys()
        ask(transit.bao, "POST", f"{transit.mount}/keys/prod/config", {"min_decryption_version": 4})
    with transit.backend() as backend:
        assert backend.verification_keys()


def test_a_key_of_the_wrong_kind_is_refused(transit: Transit) -> None:
    mount = transit.mount
    for name, kind in (("odd", {"type": "aes256-gcm96"}), ("odd-sign", {"type": "ecdsa-p256"})):
        assert ask(transit.bao, "POST", f"{mount}/keys/{name}", kind).ok
    for name, kind in (("bare", {"type": "aes256-gcm96"}), ("bare-sign", {"type": "ed25519"})):
        assert ask(transit.bao, "POST", f"{mount}/keys/{name}", kind).ok
    works: list[tuple[Callable[[Backend], Sequence[Any]], str]] = [
        (lambda backend: backend.sign([b"x"]), "odd-sign: it is of type 'ecdsa-p256', an ed25519 key"),
        (lambda backend: backend.fingerprint([(A, b"x")]), "there is no such key"),
    ]
    with transit.backend("odd", token=transit.bao.root_token) as backend:
        for work, message in works:
            with pytest.raises(HostsealError, match=message):
                work(backend)
    for name, message in (
        # It would ignore the context: a ciphertext opens anywhere.
        ("bare", "the key 'bare' is not derived"),
        ("gone", f"there is no key gone-sign at {mount}: make the keys with"),
    ):
        with (
            transit.backend(name, token=transit.bao.root_token) as backend,
            pytest.raises(HostsealError, match=message),
        ):
            backend.verification_keys()
