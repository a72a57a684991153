# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""JOSE as it is used here: keys (RFC 7517, RFC 8037) and signatures (RFC 7515). What is accepted is fixed, never by a message."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

try:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
    from jwcrypto.common import JWException, base64url_decode, base64url_encode
    from jwcrypto.jwk import JWK
except ImportError:  # told by whoever needs it: documentation is read without it
    HAS_JWCRYPTO = False
else:
    HAS_JWCRYPTO = True

from ._model import HostsealError

# A rotation that was broken off and begun anew leaves one more.
MAX_HOST_KEYS = 8

COMPACT_JWS = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


class EnvelopeError(HostsealError):
    """An envelope, host record or key set is refused; the message is the reason."""


def canonical(value: object) -> bytes:
    """JSON with one spelling for one value, for digests and bindings."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def new_host_key() -> JWK:
    """A fresh X25519 key pair for a host (RFC 8037), its thumbprint (RFC 7638) as kid."""
    return _new_key("X25519")


def new_signing_key() -> JWK:
    """A fresh Ed25519 key pair for a host's bridge (RFC 8037), its thumbprint (RFC 7638) as kid."""
    return _new_key("Ed25519")


def _new_key(curve: str) -> JWK:
    key = JWK.generate(kty="OKP", crv=curve)
    return JWK(**{**key.export_private(as_dict=True), "kid": key.thumbprint()})


def load_host_key(text: str | bytes, private: bool = False) -> JWK:
    """A host's key from JSON. Only X25519 is taken; with PRIVATE false, private parts are refused."""
    return _load_key(text, "X25519", private)


def load_host_keys(text: str | bytes) -> list[JWK]:
    """A host's private keys, the newest first: one JWK, or a JWK Set (RFC 7517) while the key is being rotated."""
    members = json_object(text, "key")
    if set(members) != {"keys"}:
        return [load_host_key(text, private=True)]
    keys = members["keys"]
    if not isinstance(keys, list) or not 1 <= len(keys) <= MAX_HOST_KEYS:
        raise EnvelopeError(f"the key set does not have 1 to {MAX_HOST_KEYS} keys")
    return [load_host_key(json.dumps(key), private=True) for key in keys]


def dump_host_keys(keys: Sequence[JWK]) -> str:
    """The text that load_host_keys reads."""
    if len(keys) == 1:
        return str(keys[0].export_private()) + "\n"
    return json.dumps({"keys": [key.export_private(as_dict=True) for key in keys]}) + "\n"


def load_signing_key(text: str | bytes, private: bool = False) -> JWK:
    """An Ed25519 key from JSON: an environment's public one, or with PRIVATE that of a host's bridge."""
    return _load_key(text, "Ed25519", private)


def _load_key(text: str | bytes, curve: str, private: bool) -> JWK:
    members = json_object(text, "key")
    wanted = {"kty", "crv", "x"} | ({"d"} if private else set())
    if set(members) - {"kid"} != wanted or members["kty"] != "OKP" or members["crv"] != curve:
        raise EnvelopeError(f"the key is not {'a private' if private else 'a public'} {curve} JWK")
    try:
        for part in wanted - {"kty", "crv"}:
            raw = base64url_decode(members[part])
            # One spelling only: another one would have another thumbprint.
            if len(raw) != 32 or base64url_encode(raw) != members[part]:
                raise ValueError
        key = JWK(**{part: members[part] for part in wanted})
        kid = key.thumbprint()
        # jwcrypto reads the key material late: make it do so here.
        uses = ("sign", "verify") if curve == "Ed25519" else ("unwrapKey", "wrapKey")
        material: Any = key.get_op_key(uses[0] if private else uses[1])
        if curve == "X25519" and not private:
            # RFC 7748 section 6.1: a point of low order gives everybody the same secret. The exchange refuses it.
            X25519PrivateKey.generate().exchange(material)
    except (JWException, ValueError, TypeError):
        raise EnvelopeError(f"the {curve} JWK is malformed") from None
    if members.get("kid", kid) != kid:
        raise EnvelopeError(f"the kid of the {curve} JWK is not its RFC 7638 thumbprint")
    return JWK(**{part: members[part] for part in wanted}, kid=kid)


def thumbprint(key: JWK) -> str:
    """The RFC 7638 thumbprint of a key; those that were loaded here have it as their kid, checked."""
    # Keys are dictionaries since jwcrypto 0.9, and RHEL 9 has 0.8.
    kid = key.get("kid") if hasattr(key, "get") else key.key_id
    return str(kid or key.thumbprint())


def signing_input(typ: str, kid: str, payload: Mapping[str, Any]) -> bytes:
    """The bytes that an EdDSA signature covers (RFC 7515 section 5.1): BASE64URL(header).BASE64URL(payload)."""
    header = {"alg": "EdDSA", "kid": kid, "typ": typ}
    return f"{base64url_encode(canonical(header))}.{base64url_encode(canonical(payload))}".encode()


def attach_signature(covered: bytes, signature: bytes) -> str:
    """JWS compact serialization (RFC 7515 section 7.1) of signing input and signature."""
    return f"{covered.decode()}.{base64url_encode(signature)}"


def verify(compact: str, typ: str, keys: Iterable[JWK]) -> dict[str, Any]:
    """The payload of a JWS of kind TYP, signed by one of KEYS; EnvelopeError says why not."""
    if not isinstance(compact, str) or not COMPACT_JWS.fullmatch(compact):
        raise EnvelopeError("it is not a JWS in compact serialization")
    header = json_object(decode(compact.partition(".")[0]), "JWS header")
    covered, _dot, encoded = compact.rpartition(".")
    signature = decode(encoded)
    if base64url_encode(signature) != encoded:
        raise EnvelopeError("the signature is not canonical base64url")
    if set(header) != {"alg", "kid", "typ"}:
        raise EnvelopeError("the JWS header has other members than alg, kid and typ")
    if header["alg"] != "EdDSA":
        raise EnvelopeError("the JWS algorithm is not EdDSA")
    if header["typ"] != typ:
        raise EnvelopeError(f"the JWS is not of type {typ}")
    key: Any = next((key for key in keys if thumbprint(key) == header["kid"]), None)
    if key is None:
        raise EnvelopeError("it is signed by a key that is not pinned")
    try:
        # RFC 8037 section 3.1: the signature covers the text before the last dot, as it stands in signing_input().
        key.get_op_key("verify").verify(signature, covered.encode())
    except (InvalidSignature, JWException, ValueError, TypeError):
        raise EnvelopeError("the signature does not match") from None
    return json_object(decode(covered.partition(".")[2]), "JWS payload")


def decode(value: Any) -> bytes:
    """The bytes of base64url text (RFC 7515 section 2); EnvelopeError when it is none."""
    try:
        return bytes(base64url_decode(value))
    except (ValueError, TypeError, AttributeError):
        raise EnvelopeError("it is not base64url") from None


def json_object(text: str | bytes, what: str) -> dict[str, Any]:
    """TEXT as a JSON object; an EnvelopeError names it WHAT."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise EnvelopeError(f"the {what} is not JSON") from None
    if not isinstance(value, dict):
        raise EnvelopeError(f"the {what} is not a JSON object")
    return value
