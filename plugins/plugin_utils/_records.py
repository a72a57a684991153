# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What a store holds, one class a kind."""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Environment:
    """An environment's record. signing_key is its public JWK as JSON, key_set the signed set that hosts pin.

    engine_mount_point is the path of the Transit engine, None with local keys.
    """

    name: str
    backend: str
    key_name: str
    engine_mount_point: str | None
    signing_key: str
    signing_kid: str
    key_set: str


@dataclass(frozen=True)
class Version:
    """One stored version of a secret. id is random, created_at in milliseconds since the epoch."""

    environment: str
    name: str
    number: int
    id: str
    ciphertext: str
    fingerprint: str
    created_at: int


@dataclass(frozen=True)
class HostRecord:
    """A host enrolled in an environment: its key's thumbprint and the signed record of the key.

    pinned_at is the time of issue of the key set that the host has confirmed, None before the first.
    """

    environment: str
    name: str
    kid: str
    record: str
    pinned_at: int | None = None


@dataclass(frozen=True)
class StoredEnvelope:
    """The newest envelope of a mount for a host; text is the envelope itself."""

    environment: str
    host: str
    mount: str
    issued_at: int
    expires_at: int | None
    state_digest: str
    text: str


@dataclass(frozen=True)
class Sealed:
    """A mount of a host without its envelope's text; issued_at is None for one that was taken away."""

    host: str
    mount: str
    last_issued_at: int
    issued_at: int | None


@dataclass(frozen=True)
class Publication:
    """What was published for a host: text is its newest manifest, mounts are by name.

    Each mount is a dict of issued_at, sha256 (of the envelope), and state_digest, signing_kid and secrets as in a receipt.
    """

    environment: str
    host: str
    issued_at: int
    expires_at: int
    mounts: dict[str, dict[str, Any]]
    text: str


@dataclass(frozen=True)
class Receipt:
    """What a host last confirmed of a mount. secrets holds {"name", "version"} dicts."""

    environment: str
    host: str
    mount: str
    issued_at: int
    expires_at: int | None
    state_digest: str
    secrets: list[dict[str, Any]]
    delivered_at: int
    signing_kid: str | None


@dataclass(frozen=True)
class Summary:
    """A store as a whole: rows by table, created_at in milliseconds since the epoch."""

    engine: str
    engine_version: str
    schema_version: int
    created_at: int
    bytes: int
    rows: dict[str, int]


def now_ms() -> int:
    """Milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def new_version_id() -> str:
    """128 random bits in hexadecimal."""
    return secrets.token_hex(16)
