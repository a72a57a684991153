# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The manifest: all that an environment has published for one host, so that what is removed or withheld shows.

A text of lines, each a JWS in compact serialization (RFC 7515). The first is over the manifest: host, environment, times,
and for each mount the issue time of its envelope and the SHA-256 of its text, which is the envelope's name on the server.
The others are the environment's key set: a host that is reached in no other way gets new keys with it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._envelope import FORMAT, check_time
from ._jose import EnvelopeError, verify
from ._model import check_name

if TYPE_CHECKING:
    from jwcrypto.jwk import JWK

MANIFEST = "hostseal-manifest+json"
# The name of its file, beside the envelopes'.
MANIFEST_FILE = "manifest"
MAX_MANIFEST_BYTES = 2 << 20


@dataclass(frozen=True)
class Listed:
    """An envelope as the manifest names it. issued_at in milliseconds, sha256 in hexadecimal."""

    issued_at: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a manifest says. Times are milliseconds since the epoch; mounts are by name."""

    environment: str
    host: str
    issued_at: int
    expires_at: int
    mounts: Mapping[str, Listed]


def envelope_name(envelope: str) -> str:
    """The SHA-256 of an envelope's text in hexadecimal."""
    return hashlib.sha256(envelope.encode()).hexdigest()


def manifest_payload(manifest: Manifest) -> dict[str, Any]:
    """What is signed."""
    return {
        "format": FORMAT,
        "environment": manifest.environment,
        "host": manifest.host,
        "issued_at": manifest.issued_at,
        "expires_at": manifest.expires_at,
        "mounts": {
            name: {"issued_at": listed.issued_at, "sha256": listed.sha256} for name, listed in manifest.mounts.items()
        },
    }


def manifest_text(signed: str, key_set: str) -> str:
    """The file: the SIGNED manifest and the KEY_SET of its environment."""
    return f"{signed}\n{key_set}\n"


def split_manifest(text: str) -> tuple[str, str]:
    """The signed manifest and the key set, neither of them verified."""
    if len(text) > MAX_MANIFEST_BYTES:
        raise EnvelopeError(f"it has {len(text)} bytes, at most {MAX_MANIFEST_BYTES} are allowed")
    signed, _newline, key_set = text.partition("\n")
    if not key_set.endswith("\n"):
        raise EnvelopeError("it is truncated or not a manifest")
    return signed, key_set[:-1]


def read_manifest(signed: str, environment: str, host: str, keys: Iterable[JWK]) -> Manifest:
    """The manifest of HOST that one of KEYS signed; EnvelopeError when it is anybody else's."""
    payload = verify(signed, MANIFEST, keys)
    if set(payload) != {"format", "environment", "host", "issued_at", "expires_at", "mounts"}:
        raise EnvelopeError("the manifest has other members than expected")
    if payload["format"] != FORMAT:
        raise EnvelopeError("the manifest has another format")
    if (payload["environment"], payload["host"]) != (environment, host):
        raise EnvelopeError("the manifest is for another environment or host")
    if not isinstance(payload["mounts"], dict):
        raise EnvelopeError("the manifest is malformed")
    return Manifest(
        environment=environment,
        host=host,
        issued_at=check_time(payload["issued_at"]),
        expires_at=check_time(payload["expires_at"]),
        mounts={check_name("mount", name): _listed(listed) for name, listed in payload["mounts"].items()},
    )


def _listed(payload: object) -> Listed:
    if not isinstance(payload, dict) or set(payload) != set(Listed.__dataclass_fields__):
        raise EnvelopeError("a mount of the manifest is malformed")
    if not isinstance(payload["sha256"], str) or not re.fullmatch(r"[0-9a-f]{64}", payload["sha256"]):
        raise EnvelopeError("a digest of the manifest is malformed")
    return Listed(check_time(payload["issued_at"]), payload["sha256"])
