# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Backends: who holds an environment's keys. A backend is one file here; open_backend chooses it by name."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...module_utils._jose import canonical
from ...module_utils._model import HostsealError

if TYPE_CHECKING:
    from jwcrypto.jwk import JWK

    from .._vault import VaultSession


_VERSION = re.compile(r"[a-z]+:v([1-9][0-9]{0,8}):")


@dataclass(frozen=True)
class KeyPlace:
    """Where an environment's keys are: backend, key name, and with vault the path of the Transit engine.

    signing_kid is the thumbprint of the signing key to use; None for the newest.
    """

    backend: str
    key: str
    engine_mount_point: str | None = None
    signing_kid: str | None = None

    def __str__(self) -> str:
        where = f" at {self.engine_mount_point}" if self.engine_mount_point else ""
        return f"{self.backend} key {self.key!r}{where}"


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
    def rewrap(self, items: Sequence[tuple[Binding, str]]) -> list[str]:
        """The same values under the newest key version; the backend alone sees them."""

    @abstractmethod
    def fingerprint(self, items: Sequence[tuple[Binding, bytes]]) -> list[str]:
        """Keyed labels of values: equal for equal values of one secret, whatever the version, and unlike elsewhere."""

    @abstractmethod
    def sign(self, payloads: Sequence[bytes]) -> list[bytes]:
        """Ed25519 signatures (RFC 8032, 64 bytes each) with the first of verification_keys()."""

    @abstractmethod
    def verification_keys(self) -> list[JWK]:
        """Public Ed25519 keys, the signing one first."""


def key_version(ciphertext: str) -> int:
    """The number of the key version that CIPHERTEXT is under; HostsealError when it names none."""
    found = _VERSION.match(ciphertext)
    if not found:
        raise HostsealError("a stored ciphertext names no key version: the store was edited or damaged")
    return int(found[1])


def open_backend(place: KeyPlace, key_path: str | None, session: Callable[[], VaultSession]) -> Backend:
    """The backend that has the keys at PLACE. KEY_PATH is the directory of local keys, SESSION logs in to Vault."""
    if place.backend == "localkey":
        from . import localkey

        return localkey.LocalKey(localkey.key_directory(key_path), place.key)
    if place.backend == "vault":
        from . import vault

        return vault.VaultTransit(session(), place)
    raise HostsealError(f"backend {place.backend!r} is not known: use localkey or vault")
