# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""How the holder of a host's old key vouches for its new one.

The old key is an X25519 key, which can't sign. So the control node encrypts a fresh HMAC key to it, a JWE like that of an
envelope's files; who has the old key answers with a JWS under that HMAC key (RFC 7515, HS256) over the host's name and its
new public key. The ``typ`` headers keep challenges, proofs and envelopes apart, so nobody can have files decrypted by it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

try:
    from jwcrypto.common import JWException, base64url_decode
    from jwcrypto.jwe import JWE
    from jwcrypto.jwk import JWK
    from jwcrypto.jws import JWS
except ImportError:  # told by whoever needs it: documentation is read without it
    pass

from ._envelope import FORMAT
from ._jose import EnvelopeError, canonical, load_host_key

MAX_CHALLENGE_BYTES = 4096

_CHALLENGE = "hostseal-challenge+json"
_PROOF = "hostseal-proof+json"
_ALGORITHMS = ("ECDH-ES+A256KW", "A256GCM")


def new_challenge(host: str, old_key: JWK) -> tuple[str, JWK]:
    """What only the holder of OLD_KEY can answer, and the key that tells a right answer."""
    secret = JWK.generate(kty="oct", size=256)
    header = {"alg": _ALGORITHMS[0], "enc": _ALGORITHMS[1], "typ": _CHALLENGE, "kid": old_key.thumbprint()}
    payload = {"format": FORMAT, "host": host, "k": secret.export_symmetric(as_dict=True)["k"]}
    token = JWE(canonical(payload), protected=json.dumps(header))
    token.add_recipient(old_key)
    return str(token.serialize(compact=True)), secret


def answer_challenge(challenge: str, host: str, keys: Iterable[JWK], new_key: JWK) -> str:
    """The proof that whoever has one of the private KEYS has NEW_KEY now; EnvelopeError when it is none's challenge."""
    if len(challenge) > MAX_CHALLENGE_BYTES:
        raise EnvelopeError("the challenge is too long")
    token = JWE(algs=list(_ALGORITHMS))
    try:
        token.deserialize(challenge)
        header = json.loads(token.objects["protected"])
        if set(header) != {"alg", "enc", "typ", "kid", "epk"} or header["typ"] != _CHALLENGE:
            raise EnvelopeError("it is not a challenge")
        key = next((key for key in keys if key.thumbprint() == header["kid"]), None)
        if key is None:
            raise EnvelopeError(f"this host does not have the key {header['kid']} any more")
        token.decrypt(key)
        payload = json.loads(token.payload)
        if set(payload) != {"format", "host", "k"} or payload["format"] != FORMAT or payload["host"] != host:
            raise EnvelopeError("the challenge is for another host or of another format")
        if len(base64url_decode(payload["k"])) != 32:
            raise EnvelopeError("the challenge is malformed")
        proof = JWS(canonical({"format": FORMAT, "host": host, "jwk": new_key.export_public(as_dict=True)}).decode())
        proof.add_signature(
            JWK(kty="oct", k=payload["k"]), alg="HS256", protected=json.dumps({"alg": "HS256", "typ": _PROOF})
        )
        return str(proof.serialize(compact=True))
    except (JWException, ValueError, TypeError, KeyError, AttributeError):
        raise EnvelopeError("the challenge is malformed or not for this host's key") from None


def read_proof(proof: str, host: str, secret: JWK) -> JWK:
    """The new public key that a proof vouches for; EnvelopeError when it is not one under SECRET."""
    token = JWS()
    token.allowed_algs = ["HS256"]
    try:
        token.deserialize(proof)
        if token.jose_header.get("typ") != _PROOF:
            raise EnvelopeError("it is not a proof")
        token.verify(secret, alg="HS256")
        payload = json.loads(token.payload)
        if set(payload) != {"format", "host", "jwk"} or payload["format"] != FORMAT or payload["host"] != host:
            raise EnvelopeError("the proof is for another host or of another format")
        return load_host_key(json.dumps(payload["jwk"]))
    except (JWException, ValueError, TypeError, KeyError, AttributeError):
        raise EnvelopeError("the proof does not match") from None
