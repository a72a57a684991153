# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The envelope: one mount for one host, encrypted to the host and signed by its environment.

An envelope is a text of two lines, both in JOSE compact serialization:

1. a JWS (RFC 7515, EdDSA of RFC 8037) over the statement, a JSON object that says everything but the values;
2. a JWE (RFC 7516, ECDH-ES+A256KW to the host's X25519 key, A256GCM) of the files.

The statement carries the SHA-256 of the second line, and the JWE's protected header repeats environment, host, mount
and time of issue: an environment can't sign another one's captured JWE as its own. Host records and key sets are JWS
as well; their ``typ`` header keeps one kind from passing for another. What is accepted is fixed here, never by a
message.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

try:
    from jwcrypto.common import JWException, base64url_encode
    from jwcrypto.jwe import JWE
    from jwcrypto.jwk import JWK
except ImportError:  # told by whoever needs it: documentation is read without it
    pass
else:
    # Each new object of jwcrypto copies a table of headers, deeply: a quarter of the time that opening takes. A shallow
    # copy of one that was never used shares that table and nothing else: deserialize() gives it a state of its own.
    _UNUSED_JWE = JWE(algs=["ECDH-ES+A256KW", "A256GCM"])

from ._jose import (
    COMPACT_JWS,
    EnvelopeError,
    attach_signature,
    canonical,
    decode,
    json_object,
    load_host_key,
    load_signing_key,
    signing_input,
    thumbprint,
    verify,
)
from ._model import (
    MAX_MOUNT_BYTES,
    MAX_MOUNT_FILES,
    MAX_SECRET_BYTES,
    Mount,
    Options,
    Token,
    check_id,
    check_mode,
    check_name,
    check_target,
    check_targets,
    mode_text,
    shorten,
    volume_name,
)

FORMAT = 1
# Base64 twice (JSON inside the JWE, then the JWE itself) over the largest mount, and in both lines its longest targets.
MAX_ENVELOPE_BYTES = MAX_MOUNT_BYTES * 16 // 9 + (4 << 20)

MAX_KEY_SET_BYTES = 1 << 16

STATEMENT = "hostseal-statement+json"
HOST_RECORD = "hostseal-host+json"
KEY_SET = "hostseal-keys+json"

_FILES = "hostseal-files+json"
_COMPACT_JWE = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_JWE_HEADER = {"alg", "enc", "typ", "kid", "epk", "environment", "host", "mount", "issued_at"}
_MAX_TIME = 1 << 53


@dataclass(frozen=True)
class File:
    """One file as a container sees it. The data stays out of repr, so out of tracebacks too."""

    target: str
    uid: int
    gid: int
    mode: int
    data: bytes

    def __repr__(self) -> str:
        return f"File({self.target!r})"


@dataclass(frozen=True)
class SecretRef:
    """A secret's name and version and where the mount shows it."""

    name: str
    version: int
    target: str
    uid: int
    gid: int
    mode: int


@dataclass(frozen=True)
class Statement:
    """What an envelope says in clear. Times are milliseconds since the epoch; expires_at is None for never."""

    environment: str
    host: str
    mount: str
    issued_at: int
    expires_at: int | None
    state_digest: str
    options: Options
    secrets: tuple[SecretRef, ...]
    jwe_sha256: str
    # A Vault token that each starting container gets; the ciphertext has nothing of it.
    vault_token: Token | None = None

    @property
    def volume(self) -> str:
        return volume_name(self.environment, self.mount)


def state_digest(mount: Mount, host: str, version_ids: Sequence[str], host_kid: str, signing_kid: str) -> str:
    """Name the state of MOUNT on HOST: equal digests mean that nothing has to be sealed or sent.

    VERSION_IDS are the random ids of the secret versions, one per entry of the mount. No plaintext and no hash of
    one goes in, so the digest tells nothing about a value.
    """
    state = {
        "format": FORMAT,
        "environment": mount.environment,
        "host": host,
        "mount": mount.name,
        "options": mount.options.as_dict(),
        "secrets": sorted(
            [entry.target, entry.source, entry.uid, entry.gid, entry.mode, version_id]
            for entry, version_id in zip(mount.entries, version_ids)
        ),
        "host_kid": host_kid,
        "signing_kid": signing_kid,
        **_token_member(mount),
    }
    return hashlib.sha256(canonical(state)).hexdigest()


def _token_member(mount: Mount) -> dict[str, Any]:
    """Nothing where there is none: hosts whose agent is older take what has no token, and digests stay what they are."""
    return {"vault_token": mount.token.as_dict()} if mount.token else {}


@dataclass(frozen=True)
class Draft:
    """An envelope before its signature, so that one batch can sign many."""

    covered: bytes
    jwe: str

    def sign(self, signature: bytes) -> str:
        """The finished envelope."""
        return f"{attach_signature(self.covered, signature)}\n{self.jwe}\n"


def encrypt(
    mount: Mount,
    host: str,
    host_key: JWK,
    signing_kid: str,
    issued_at: int,
    versions: Sequence[tuple[int, str, bytes]],
) -> Draft:
    """Encrypt MOUNT for HOST. VERSIONS holds (number, random id, value) for each entry of the mount, in its order."""
    for entry, (_number, _id, value) in zip(mount.entries, versions):
        if len(value) > MAX_SECRET_BYTES:
            raise EnvelopeError(
                f"secret {entry.source!r} has {len(value)} bytes, at most {MAX_SECRET_BYTES} are allowed"
            )
    total = sum(len(value) for _number, _id, value in versions)
    if total > MAX_MOUNT_BYTES:
        raise EnvelopeError(f"mount {mount.volume!r} has {total} bytes, at most {MAX_MOUNT_BYTES} are allowed")
    files = [
        {
            "target": entry.target,
            "uid": entry.uid,
            "gid": entry.gid,
            "mode": mode_text(entry.mode),
            "data": base64url_encode(value),
        }
        for entry, (_number, _id, value) in zip(mount.entries, versions)
    ]
    where = {"environment": mount.environment, "host": host, "mount": mount.name, "issued_at": issued_at}
    host_kid = thumbprint(host_key)
    header = {"alg": "ECDH-ES+A256KW", "enc": "A256GCM", "typ": _FILES, "kid": host_kid, **where}
    token = JWE(canonical({"files": files}), protected=json.dumps(header))
    token.add_recipient(host_key)
    jwe = token.serialize(compact=True)
    expires_after = mount.options.expires_after
    statement = {
        "format": FORMAT,
        **where,
        "expires_at": issued_at + expires_after * 1000 if expires_after else None,
        "state_digest": state_digest(
            mount, host, [version_id for _n, version_id, _v in versions], host_kid, signing_kid
        ),
        "options": mount.options.as_dict(),
        "secrets": [
            {
                "name": entry.source,
                "version": number,
                "target": entry.target,
                "uid": entry.uid,
                "gid": entry.gid,
                "mode": mode_text(entry.mode),
            }
            for entry, (number, _id, _value) in zip(mount.entries, versions)
        ],
        "jwe_sha256": _sha256(jwe),
        **_token_member(mount),
    }
    return Draft(signing_input(STATEMENT, signing_kid, statement), jwe)


def read_statement(envelope: str, keys: Iterable[JWK]) -> Statement:
    """Verify an envelope without decrypting it and return what it says."""
    jws, jwe = _lines(envelope)
    statement = _statement(verify(jws, STATEMENT, keys))
    if _sha256(jwe) != statement.jwe_sha256:
        raise EnvelopeError("the ciphertext is not the one that was signed")
    return statement


def unverified_statement(envelope: str) -> Statement:
    """What an envelope says, unverified: for naming it in an error, never for deciding."""
    jws, _jwe = _lines(envelope)
    return _statement(json_object(decode(jws.split(".")[1]), "JWS payload"))


def recipient(envelope: str) -> str:
    """The thumbprint of the host key that an envelope says it is encrypted to, unverified."""
    header = json_object(decode(_lines(envelope)[1].partition(".")[0]), "JWE header")
    return str(header.get("kid"))


def signer(envelope: str) -> str:
    """The thumbprint of the signing key that an envelope names, unverified."""
    header = json_object(decode(_lines(envelope)[0].partition(".")[0]), "JWS header")
    return str(header.get("kid"))


def decrypt(envelope: str, statement: Statement, host_key: JWK) -> list[File]:
    """The files of an envelope whose STATEMENT was verified, with the host's private key."""
    jwe = _lines(envelope)[1]
    header = json_object(decode(jwe.partition(".")[0]), "JWE header")
    if set(header) != _JWE_HEADER:
        raise EnvelopeError("the JWE header has other members than expected")
    if (header["alg"], header["enc"], header["typ"]) != ("ECDH-ES+A256KW", "A256GCM", _FILES):
        raise EnvelopeError("the JWE algorithms are not ECDH-ES+A256KW with A256GCM")
    if [header[name] for name in ("environment", "host", "mount", "issued_at")] != [
        statement.environment,
        statement.host,
        statement.mount,
        statement.issued_at,
    ]:
        raise EnvelopeError("the ciphertext was made for another environment, host, mount or time than was signed")
    if header["kid"] != thumbprint(host_key):
        raise EnvelopeError("it is encrypted to another key than this host's")
    token = copy.copy(_UNUSED_JWE)
    try:
        token.deserialize(jwe, host_key)
    except (JWException, ValueError, TypeError):
        raise EnvelopeError("the ciphertext does not open with this host's key") from None
    return _files(json_object(token.payload, "JWE payload"), statement.secrets)


def host_record(environment: str, host: str, key: JWK) -> dict[str, Any]:
    """The payload by which an environment vouches for a host's public key."""
    return {"format": FORMAT, "environment": environment, "host": host, "jwk": key.export_public(as_dict=True)}


def read_host_record(compact: str, environment: str, host: str, keys: Iterable[JWK]) -> JWK:
    """The public key of HOST from its signed record; EnvelopeError when it is anybody else's."""
    record = verify(compact, HOST_RECORD, keys)
    if set(record) != {"format", "environment", "host", "jwk"} or record["format"] != FORMAT:
        raise EnvelopeError("the host record has another format")
    if (record["environment"], record["host"]) != (environment, host):
        raise EnvelopeError("the host record is for another environment or host")
    return load_host_key(json.dumps(record["jwk"]))


@dataclass(frozen=True)
class KeySet:
    """An environment's verification keys as a host pins them. issued_at in milliseconds, growing."""

    environment: str
    issued_at: int
    keys: tuple[JWK, ...]


def key_set(environment: str, issued_at: int, keys: Iterable[JWK]) -> dict[str, Any]:
    """The payload of a key set; it is signed by a key that hosts already have."""
    return {
        "format": FORMAT,
        "environment": environment,
        "issued_at": issued_at,
        "keys": [key.export_public(as_dict=True) for key in keys],
    }


def read_key_set(text: str, keys: Iterable[JWK] | None) -> KeySet:
    """A verified key set. With KEYS None it need only be signed by one of its own: for the first pinning.

    TEXT has a line per signature, each a JWS over the same payload: while keys change, the new one and the old one sign.
    """
    lines = text.split("\n") if isinstance(text, str) and len(text) <= MAX_KEY_SET_BYTES else []
    if not lines or not all(COMPACT_JWS.fullmatch(line) for line in lines):
        raise EnvelopeError("it is not a JWS in compact serialization")
    payload = lines[0].split(".")[1]
    # Else one line could be verified here, and another one believed by whom it is handed to.
    if any(line.split(".")[1] != payload for line in lines):
        raise EnvelopeError("its signatures are not over the same keys")
    keys = _key_set(json_object(decode(payload), "JWS payload")).keys if keys is None else list(keys)
    known = {thumbprint(key) for key in keys}
    line = next(
        (line for line in lines if json_object(decode(line.split(".")[0]), "JWS header").get("kid") in known),
        lines[0],
    )
    return _key_set(verify(line, KEY_SET, keys))


def sign_key_set(payload: Mapping[str, Any], signers: Iterable[tuple[str, Callable[[bytes], bytes]]]) -> str:
    """A key set's text. SIGNERS are a thumbprint and a function that signs with that key."""
    lines = []
    for kid, sign in signers:
        covered = signing_input(KEY_SET, kid, payload)
        lines.append(attach_signature(covered, sign(covered)))
    return "\n".join(lines)


def _key_set(payload: dict[str, Any]) -> KeySet:
    if set(payload) != {"format", "environment", "issued_at", "keys"} or payload["format"] != FORMAT:
        raise EnvelopeError("the key set has another format")
    if not isinstance(payload["keys"], list) or not 1 <= len(payload["keys"]) <= 16:
        raise EnvelopeError("the key set does not have 1 to 16 keys")
    return KeySet(
        environment=check_name("environment", payload["environment"]),
        issued_at=check_time(payload["issued_at"]),
        keys=tuple(load_signing_key(json.dumps(key)) for key in payload["keys"]),
    )


def _lines(envelope: str) -> tuple[str, str]:
    if len(envelope) > MAX_ENVELOPE_BYTES:
        raise EnvelopeError(f"it has {len(envelope)} bytes, at most {MAX_ENVELOPE_BYTES} are allowed")
    jws, _newline, jwe = envelope.partition("\n")
    if not COMPACT_JWS.fullmatch(jws) or not jwe.endswith("\n") or not _COMPACT_JWE.fullmatch(jwe[:-1]):
        raise EnvelopeError("it is truncated or not an envelope")
    return jws, jwe[:-1]


def _statement(payload: dict[str, Any]) -> Statement:
    known = set(Statement.__dataclass_fields__) | {"format"}
    if payload.get("format") != FORMAT:
        raise EnvelopeError(
            f"it has format {shorten(payload.get('format'))}, this side knows {FORMAT}: upgrade the older one"
        )
    if set(payload) != known and set(payload) != known - {"vault_token"}:
        raise EnvelopeError("the statement has other members than expected")
    digests = (payload["state_digest"], payload["jwe_sha256"])
    if not all(isinstance(digest, str) and re.fullmatch(r"[0-9a-f]{64}", digest) for digest in digests):
        raise EnvelopeError("a digest of the statement is malformed")
    if not isinstance(payload["options"], dict) or not isinstance(payload["secrets"], list):
        raise EnvelopeError("the statement is malformed")
    secrets = tuple(_secret_ref(secret) for secret in payload["secrets"][: MAX_MOUNT_FILES + 1])
    tokens = [_token(payload["vault_token"])] if "vault_token" in payload else []
    if not 1 <= len(secrets) + len(tokens) <= MAX_MOUNT_FILES:
        raise EnvelopeError(f"the statement does not have 1 to {MAX_MOUNT_FILES} secrets")
    check_targets([*(secret.target for secret in secrets), *(token.target for token in tokens)])
    return Statement(
        environment=check_name("environment", payload["environment"]),
        host=check_name("host", payload["host"]),
        mount=check_name("mount", payload["mount"]),
        issued_at=check_time(payload["issued_at"]),
        expires_at=None if payload["expires_at"] is None else check_time(payload["expires_at"]),
        state_digest=digests[0],
        options=Options.from_options(payload["options"]),
        secrets=secrets,
        jwe_sha256=digests[1],
        vault_token=tokens[0] if tokens else None,
    )


def _secret_ref(payload: object) -> SecretRef:
    if not isinstance(payload, dict) or set(payload) != set(SecretRef.__dataclass_fields__):
        raise EnvelopeError("a secret of the statement is malformed")
    return SecretRef(
        name=check_name("secret", payload["name"]),
        version=check_time(payload["version"]),
        target=check_target(payload["target"]),
        uid=check_id("uid", payload["uid"]),
        gid=check_id("gid", payload["gid"]),
        mode=check_mode(payload["mode"]),
    )


def _token(payload: object) -> Token:
    if not isinstance(payload, dict) or set(payload) != set(Token.__dataclass_fields__):
        raise EnvelopeError("the vault_token of the statement is malformed")
    return Token.from_dict(payload)


def _files(payload: dict[str, Any], refs: Iterable[SecretRef]) -> list[File]:
    entries = payload.get("files")
    if set(payload) != {"files"} or not isinstance(entries, list):
        raise EnvelopeError("the files are malformed")
    signed = {ref.target: ref for ref in refs}
    files = []
    for entry in entries:
        if not isinstance(entry, dict) or set(entry) != {"target", "uid", "gid", "mode", "data"}:
            raise EnvelopeError("a file is malformed")
        ref = signed.pop(str(entry["target"]), None)
        if ref is None or (entry["uid"], entry["gid"], entry["mode"]) != (ref.uid, ref.gid, mode_text(ref.mode)):
            raise EnvelopeError("the files are not the ones that were signed")
        files.append(File(ref.target, ref.uid, ref.gid, ref.mode, decode(entry["data"])))
    if signed:
        raise EnvelopeError("the files are not the ones that were signed")
    if (
        any(len(file.data) > MAX_SECRET_BYTES for file in files)
        or sum(len(file.data) for file in files) > MAX_MOUNT_BYTES
    ):
        raise EnvelopeError(f"a file is larger than {MAX_SECRET_BYTES} bytes or all are larger than {MAX_MOUNT_BYTES}")
    return files


def check_time(value: object) -> int:
    """A time in milliseconds, or another number of the same kind, of a signed payload."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < _MAX_TIME:
        raise EnvelopeError("a number of the statement is out of range")
    return value


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
