# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""JOSE by hand, from the RFCs and primitives alone.

Tests forge messages with it that the library would not make, and check that what it makes is what the RFCs say.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap, aes_key_wrap
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ALG = "ECDH-ES+A256KW"


def b64u(data: bytes) -> str:
    """BASE64URL without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64u(text: str) -> bytes:
    """The bytes of BASE64URL text."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def raw(key: Ed25519PrivateKey | X25519PrivateKey) -> bytes:
    """The 32 bytes of a key's public half, in a way that the oldest supported library knows."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def as_json(value: object) -> bytes:
    """JSON as bytes; text and bytes are taken as they are, for what is no JSON at all."""
    if isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


def thumbprint(curve: str, x: bytes) -> str:
    """RFC 7638 thumbprint of an OKP key: the required members in lexicographic order (RFC 8037 section 2)."""
    return b64u(hashlib.sha256(f'{{"crv":"{curve}","kty":"OKP","x":"{b64u(x)}"}}'.encode()).digest())


def jws(header: object, payload: object, key: Ed25519PrivateKey) -> str:
    """Compact serialization of RFC 7515 with an Ed25519 signature, whatever HEADER says."""
    covered = f"{b64u(as_json(header))}.{b64u(as_json(payload))}"
    return f"{covered}.{b64u(key.sign(covered.encode()))}"


def _wrapping_key(secret: bytes) -> bytes:
    """Concat KDF of RFC 7518 section 4.6.2 for one round of SHA-256: no apu, no apv, 256 bits."""
    info = len(ALG).to_bytes(4, "big") + ALG.encode() + bytes(4) + bytes(4) + (256).to_bytes(4, "big")
    return hashlib.sha256((1).to_bytes(4, "big") + secret + info).digest()


def jwe(header: dict[str, Any], plaintext: bytes, recipient: bytes) -> str:
    """Compact serialization of RFC 7516: ECDH-ES+A256KW, A256GCM, to the X25519 key RECIPIENT, whatever HEADER says."""
    ephemeral = X25519PrivateKey.generate()
    secret = ephemeral.exchange(X25519PublicKey.from_public_bytes(recipient))
    epk = {"kty": "OKP", "crv": "X25519", "x": b64u(raw(ephemeral))}
    protected = b64u(as_json({"epk": epk, **header}))
    content_key, nonce = os.urandom(32), os.urandom(12)
    sealed = AESGCM(content_key).encrypt(nonce, plaintext, protected.encode())
    parts = (aes_key_wrap(_wrapping_key(secret), content_key), nonce, sealed[:-16], sealed[-16:])
    return ".".join([protected, *map(b64u, parts)])


def open_jwe(text: str, private: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and plaintext of a compact JWE, with the X25519 key PRIVATE."""
    protected, wrapped, nonce, ciphertext, tag = text.split(".")
    header = json.loads(unb64u(protected))
    secret = X25519PrivateKey.from_private_bytes(private).exchange(
        X25519PublicKey.from_public_bytes(unb64u(header["epk"]["x"]))
    )
    content_key = aes_key_unwrap(_wrapping_key(secret), unb64u(wrapped))
    sealed = unb64u(ciphertext) + unb64u(tag)
    return header, AESGCM(content_key).decrypt(unb64u(nonce), sealed, protected.encode())
