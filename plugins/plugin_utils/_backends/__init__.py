# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backends: who holds an environment's keys. A backend is one file here; open_backend chooses it by name."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...module_utils._envelope import canonical
from ...module_utils._model import HostsealError

if TYPE_CHECKING:
    from jwcrypto.jwk import JWK


@dataclass(frozen=True)
class Binding:
    """Where a ciphertext belongs. It is authenticated with it: in any other place the ciphertext does not open."""

    environment: str
    name: str
    version: int

    def encode(self) -> bytes:
        """One byte string for one binding."""
        return canonical(["hostseal", self.environment, self.name, self.version])

    def __str__(self) -> str:
        return f"secret {self.name!r} version {self.version} of environment {self.environment!r}"


class Backend(ABC):
    """The keys of one environment. Every call takes a list and is one batch in order; HostsealError on failure."""

    @abstractmethod
    def encrypt(self, items: Sequence[tuple[Binding, bytes]]) -> list[str]:
        """Ciphertexts as printable text that names its key version."""

    @abstractmethod
    def decrypt(self, items: Sequence[tuple[Binding, str]]) -> list[bytes]:
        """Plaintexts; refused for a ciphertext that was edited or belongs elsewhere."""

    @abstractmethod
    def fingerprint(self, items: Sequence[tuple[Binding, bytes]]) -> list[str]:
        """Keyed labels of values: equal for equal values of one secret, whatever the version, and unlike elsewhere."""

    @abstractmethod
    def sign(self, payloads: Sequence[bytes]) -> list[bytes]:
        """Ed25519 signatures (RFC 8032, 64 bytes each) with the first of verification_keys()."""

    @abstractmethod
    def verification_keys(self) -> list[JWK]:
        """Public Ed25519 keys, the signing one first."""


def signing_key(backend: Backend) -> str:
    """The public half of the signing key as JSON, as the store records it."""
    return json.dumps(backend.verification_keys()[0].export_public(as_dict=True), sort_keys=True)


def open_backend(kind: str, key: str, key_path: str | None) -> Backend:
    """The backend KIND with the key named KEY. KEY_PATH is the directory of local keys."""
    if kind == "localkey":
        from . import localkey

        return localkey.LocalKey(localkey.key_directory(key_path), key)
    raise HostsealError(f"backend {kind!r} is not known: use localkey")
