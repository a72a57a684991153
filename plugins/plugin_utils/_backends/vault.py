# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The vault backend: three keys of a Transit engine, which never leave the server.

NAME (aes256-gcm96, derived) encrypts; the binding is the derivation context, which rewrapping keeps. NAME-sign
(ed25519) signs, NAME-hmac makes fingerprints. API: https://openbao.org/api-docs/secret/transit/
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from ...module_utils._jose import load_signing_key
from ...module_utils._model import HostsealError, check_name
from . import Backend, Binding, KeyPlace

if TYPE_CHECKING:
    from jwcrypto.jwk import JWK

    from .._vault import VaultSession

# OpenBao refuses a JSON body with more than 1,000 strings, names of members included.
MAX_STRINGS = 1000
# And one of more than 32 MiB.
MAX_CHARACTERS = 20 << 20
# More do not help: server and client are both busy.
_THREADS = 2


class VaultTransit(Backend):
    """The keys of one environment in a Transit engine."""

    def __init__(self, session: VaultSession, place: KeyPlace) -> None:
        self._session = session
        self._mount = str(place.engine_mount_point)
        self._key = check_name("key", place.key)
        self._signing_kid = place.signing_kid
        self._signing: list[tuple[int, JWK]] | None = None

    def encrypt(self, items: Sequence[tuple[Binding, bytes]]) -> list[str]:
        batch = [{"plaintext": _base64(value), "context": _context(binding)} for binding, value in items]
        return self._texts("encrypt", self._key, batch, "ciphertext", items)

    def decrypt(self, items: Sequence[tuple[Binding, str]]) -> list[bytes]:
        batch = [{"ciphertext": _ours(binding, text), "context": _context(binding)} for binding, text in items]
        return [_bytes(text) for text in self._texts("decrypt", self._key, batch, "plaintext", items)]

    def rewrap(self, items: Sequence[tuple[Binding, str]]) -> list[str]:
        batch = [{"ciphertext": _ours(binding, text), "context": _context(binding)} for binding, text in items]
        return self._texts("rewrap", self._key, batch, "ciphertext", items)

    def fingerprint(self, items: Sequence[tuple[Binding, bytes]]) -> list[str]:
        # Version 0 stands for all: a value keeps its label from version to version.
        batch = [
            {"input": _base64(Binding(binding.environment, binding.name, 0).encode() + b"\n" + value)}
            for binding, value in items
        ]
        # The first key version, whatever was rotated since: the labels in the store are under it.
        return self._texts("hmac", f"{self._key}-hmac/sha2-256", batch, "hmac", items, {"key_version": 1})

    def sign(self, payloads: Sequence[bytes]) -> list[bytes]:
        version = self._signing_keys()[0][0]
        batch = [{"input": _base64(payload)} for payload in payloads]
        texts = self._texts("sign", f"{self._key}-sign", batch, "signature", [], {"key_version": version})
        # vault:v1:BASE64
        return [_bytes(text.rpartition(":")[2]) for text in texts]

    def verification_keys(self) -> list[JWK]:
        return [key for _version, key in self._signing_keys()]

    def _signing_keys(self) -> list[tuple[int, JWK]]:
        """Versions and public keys, the one to sign with first."""
        if self._signing is None:
            path = f"{self._mount}/keys/{self._key}-sign"
            answer = self._session.ask("GET", path)
            if answer.status == 404:
                raise self._session.error(
                    "GET",
                    path,
                    f"there is no key {self._key}-sign at {self._mount}: make the keys with"
                    " hostseal.secrets.vault_transit, or check key, engine_mount_point and namespace",
                )
            if answer.status >= 400:
                raise self._session.refusal(answer, "GET", path)
            data = answer.body.get("data", {})
            if data.get("type") != "ed25519" or data.get("derived"):
                raise self._session.error(
                    "GET", path, f"it is of type {data.get('type')!r}, an ed25519 key that is not derived is needed"
                )
            found = [(int(version), _jwk(entry["public_key"])) for version, entry in data["keys"].items()]
            if self._signing_kid is None:
                self._refuse_unbound_key()
            found.sort(key=lambda entry: (entry[1].thumbprint() == self._signing_kid, entry[0]), reverse=True)
            self._signing = found
        return self._signing

    def _refuse_unbound_key(self) -> None:
        """Of a key that is new to the environment: if it is not derived, it takes a context and does nothing with it.

        To read that of the key is a right that no policy of ours has, so it is asked to open something without one.
        """
        path = f"{self._mount}/decrypt/{self._key}"
        # One of these versions is neither too old nor too new.
        body = {"batch_input": [{"ciphertext": f"vault:v{number}:AAAA"} for number in range(1, 250)]}
        answer = self._session.ask("POST", path, body)
        results = (answer.body.get("data") or {}).get("batch_results")
        if not isinstance(results, list):
            raise self._session.refusal(answer, "POST", path)
        reasons = [str(result.get("error")) for result in results]
        if not any("missing 'context'" in reason for reason in reasons) and "too old" not in reasons[-1]:
            raise self._session.error(
                "POST",
                path,
                f"the key {self._key!r} is not derived, or not one to encrypt with: ciphertexts under it would not be"
                " bound to their secret. Make the keys with hostseal.secrets.vault_transit",
            )

    def _texts(
        self,
        operation: str,
        key: str,
        batch: Sequence[Mapping[str, str]],
        member: str,
        items: Sequence[tuple[Binding, Any]],
        more: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """What Transit answers to a batch, split as the server needs it. ITEMS tell of whom an error is."""
        path = f"{self._mount}/{operation}/{key}"

        def ask(part: slice) -> list[str]:
            return self._ask(path, {"batch_input": batch[part], **(more or {})}, member, items[part])

        return _in_parallel(ask, _parts(batch, spare=len(more or {})))

    def _ask(self, path: str, body: dict[str, Any], member: str, items: Sequence[tuple[Binding, Any]]) -> list[str]:
        # May be repeated: it changes nothing on the server.
        answer = self._session.ask("POST", path, body)
        results = (answer.body.get("data") or {}).get("batch_results")
        if not isinstance(results, list):
            refusal = self._session.refusal(answer, "POST", path, body)
            if answer.status == 403 and path == f"{self._mount}/encrypt/{self._key}":
                # A server would make the key that is missing, if the token were allowed to.
                raise HostsealError(f"{refusal}; or there is no key {self._key!r} any more, or at that mount")
            raise refusal
        bad = [(index, str(result["error"])) for index, result in enumerate(results) if result.get("error")]
        if bad:
            index, reason = bad[0]
            advice = next((advice for part, advice in _REASONS if part in reason), "the server can't do it")
            others = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
            what = f"{items[index][0]}{others}: " if items else ""
            raise HostsealError(f"{what}{self._session.error('POST', path, advice)}")
        if answer.status >= 400 or len(results) != len(body["batch_input"]):
            raise self._session.refusal(answer, "POST", path, body)
        return [str(result[member]) for result in results]


_REASONS = (
    (
        "message authentication failed",
        "the stored ciphertext does not open with this key: it is another key, or the row was edited or moved from"
        " another place",
    ),
    (
        "too old",
        "its key version is below the key's min_decryption_version: lower that with hostseal.secrets.vault_transit, run"
        " hostseal.secrets.rewrap, and raise it again",
    ),
    (
        "version is too new",
        "the key lacks the version that it is encrypted under: the key was made anew or restored from an older backup",
    ),
    ("no such key version", "the key version that is needed is not there any more"),
    ("key not found", "there is no such key: it was deleted, or key name or engine_mount_point is another"),
)


def _parts(batch: Sequence[Mapping[str, str]], spare: int) -> list[slice]:
    """Cut a batch so that no request has more strings or characters than the server takes."""
    most = (MAX_STRINGS - 1 - spare) // (2 * max((len(entry) for entry in batch), default=1))
    parts = []
    start = characters = 0
    for index, entry in enumerate(batch):
        size = sum(len(value) for value in entry.values())
        if index > start and (index - start == most or characters + size > MAX_CHARACTERS):
            parts.append(slice(start, index))
            start, characters = index, 0
        characters += size
    if batch:
        parts.append(slice(start, len(batch)))
    return parts


def _in_parallel(ask: Callable[[slice], list[str]], parts: Sequence[slice]) -> list[str]:
    if len(parts) < 2:
        return [text for part in parts for text in ask(part)]
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            return [text for texts in pool.map(ask, parts) for text in texts]
        except HostsealError:
            # The first failure is told; what has not begun yet is not sent.
            pool.shutdown(cancel_futures=True)
            raise


def _ours(binding: Binding, text: str) -> str:
    if not text.startswith("vault:v"):
        raise HostsealError(f"{binding}: the stored ciphertext is not one of the vault backend")
    return text


def _context(binding: Binding) -> str:
    return _base64(binding.encode())


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode("ascii")


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise HostsealError("Vault's answer is not base64") from None


def _jwk(public_key: str) -> JWK:
    x = base64.urlsafe_b64encode(_bytes(public_key)).decode("ascii").rstrip("=")
    return load_signing_key(json.dumps({"kty": "OKP", "crv": "Ed25519", "x": x}))
