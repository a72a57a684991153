# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The localkey backend: AES-256-GCM keys in a file on the control node.

A key file is a JWK Set (RFC 7517 section 5), NAME.jwks in the key directory: numbered AES-256 versions, one root for
fingerprints that does not rotate, and the Ed25519 signing key. In the directory's place one key file may be given, of any
name, as AWX hands it to a job; it is read alone.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ...module_utils._jose import load_signing_key
from ...module_utils._model import HostsealError, check_name
from .._paths import implicit_path
from . import Backend, Binding

with contextlib.suppress(ImportError):  # Action tells it
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    from jwcrypto.common import base64url_decode, base64url_encode
    from jwcrypto.jwk import JWK

FORMAT = 1
_ROOT = "fingerprint-root"
_CIPHERTEXT = re.compile(r"localkey:v([1-9][0-9]{0,8}):([A-Za-z0-9+/]+={0,2})")
_NONCE = 12


class LocalKey(Backend):
    """The keys in one key file."""

    def __init__(self, directory: Path, name: str) -> None:
        self._path = key_file(directory, name)
        keys = _read(directory, name)
        self._versions = {number: AESGCM(key) for number, key in keys.versions.items()}
        self._newest = max(self._versions)
        self._signing = Ed25519PrivateKey.from_private_bytes(keys.signing)
        public = base64url_encode(self._signing.public_key().public_bytes_raw())
        self._public = load_signing_key(json.dumps({"kty": "OKP", "crv": "Ed25519", "x": public}))
        self._label_key = HKDF(SHA256(), 32, salt=None, info=b"hostseal fingerprint").derive(keys.root)

    def encrypt(self, items: Sequence[tuple[Binding, bytes]]) -> list[str]:
        cipher = self._versions[self._newest]
        texts = []
        for binding, value in items:
            nonce = secrets.token_bytes(_NONCE)
            sealed = nonce + cipher.encrypt(nonce, value, binding.encode())
            texts.append(f"localkey:v{self._newest}:{base64.b64encode(sealed).decode()}")
        return texts

    def decrypt(self, items: Sequence[tuple[Binding, str]]) -> list[bytes]:
        return [self._decrypt(binding, text) for binding, text in items]

    def _decrypt(self, binding: Binding, text: str) -> bytes:
        found = _CIPHERTEXT.fullmatch(text)
        if not found:
            raise HostsealError(f"{binding}: the stored ciphertext is not one of the localkey backend")
        cipher = self._versions.get(int(found[1]))
        if cipher is None:
            raise HostsealError(
                f"{binding}: it is encrypted under version {found[1]}, which key file {self._path} does not have"
            )
        try:
            sealed = base64.b64decode(found[2], validate=True)
            return cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], binding.encode())
        except (InvalidTag, ValueError):
            raise HostsealError(
                f"{binding}: the stored ciphertext does not open with key file {self._path}:"
                " it is another key, or the row was edited or moved from another place"
            ) from None

    def rewrap(self, items: Sequence[tuple[Binding, str]]) -> list[str]:
        bindings = [binding for binding, _text in items]
        return self.encrypt(list(zip(bindings, self.decrypt(items), strict=True)))

    def fingerprint(self, items: Sequence[tuple[Binding, bytes]]) -> list[str]:
        labels = []
        for binding, value in items:
            # Version 0 stands for all: a value keeps its label from version to version.
            place = Binding(binding.environment, binding.name, 0).encode()
            labels.append(hmac.new(self._label_key, place + b"\n" + value, hashlib.sha256).hexdigest())
        return labels

    def sign(self, payloads: Sequence[bytes]) -> list[bytes]:
        return [self._signing.sign(payload) for payload in payloads]

    def verification_keys(self) -> list[JWK]:
        return [self._public]


def key_directory(option: str | None) -> Path:
    """The key directory, or one key file: the option, else the user's own directory; never the store's."""
    if option:
        if not os.path.isabs(option):
            raise HostsealError(f"key_path {option!r} is not an absolute path")
        return Path(option)
    return implicit_path("XDG_CONFIG_HOME", ".config", "keys", "key_path", "HOSTSEAL_KEY_PATH")


def key_file(directory: Path, name: str) -> Path:
    """Where the key NAME lies."""
    check_name("key", name)
    return directory if os.path.isfile(directory) else directory / f"{name}.jwks"


def check_changeable(directory: Path) -> None:
    """HostsealError where the key is one file: a job would take a change with it when it ends."""
    if os.path.isfile(directory):
        raise HostsealError(
            f"{directory} is one key file, which is never changed: change the key where its directory is, and put the"
            " new file in this one's place, in AWX into the credential"
        )


def versions(directory: Path, name: str) -> list[int]:
    """The version numbers of a key, oldest first; an empty list when there is no such key."""
    return sorted(_read(directory, name).versions) if os.path.lexists(key_file(directory, name)) else []


def create(directory: Path, name: str) -> bool:
    """Make the key NAME with version 1. False when it is there already; it is checked then."""
    path = key_file(directory, name)
    if path == directory:
        _read(directory, name)
        return False
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except FileExistsError:
        raise HostsealError(f"key directory {directory} is not a directory") from None
    except OSError as error:
        raise HostsealError(f"key directory {directory} can't be made: {error.strerror}") from None
    with _locked(directory):
        if os.path.lexists(path):
            _read(directory, name)
            return False
        keys = [
            _symmetric("1", secrets.token_bytes(32)),
            {"kty": "oct", "kid": _ROOT, "k": base64url_encode(secrets.token_bytes(32))},
            JWK.generate(kty="OKP", crv="Ed25519", use="sig").export_private(as_dict=True),
        ]
        _write(path, {"format": FORMAT, "name": name, "keys": keys})
        return True


def rotate(directory: Path, name: str) -> int:
    """Add a version to the key NAME and return its number; the older ones go on opening what they sealed."""
    path = key_file(directory, name)
    with _locked(directory):
        keys = _read(directory, name)
        number = max(keys.versions) + 1
        _write(
            path, {**keys.document, "keys": [*keys.document["keys"], _symmetric(str(number), secrets.token_bytes(32))]}
        )
        return number


def retire(directory: Path, name: str, oldest: int) -> list[int]:
    """Destroy the versions of the key NAME that are older than OLDEST; their numbers."""
    path = key_file(directory, name)
    with _locked(directory):
        keys = _read(directory, name)
        if oldest > max(keys.versions):
            raise HostsealError(f"key {name!r} has no version {oldest}: the newest is {max(keys.versions)}")
        gone = sorted(number for number in keys.versions if number < oldest)
        if gone:
            left = [jwk for jwk in keys.document["keys"] if jwk.get("kid") not in {str(number) for number in gone}]
            _write(path, {**keys.document, "keys": left})
        return gone


class _Keys:
    """A key file's content, checked. It has no repr of its own fields."""

    def __init__(self, document: dict[str, Any], name: str) -> None:
        if document["format"] != FORMAT or document["name"] != name:
            raise ValueError
        self.document = document
        self.versions: dict[int, bytes] = {}
        for jwk in document["keys"]:
            if jwk["kty"] == "OKP" and jwk["crv"] == "Ed25519":
                self.signing = _bytes32(jwk["d"])
            elif jwk["kty"] == "oct" and jwk["kid"] == _ROOT:
                self.root = _bytes32(jwk["k"])
            elif jwk["kty"] == "oct" and jwk["alg"] == "A256GCM" and int(jwk["kid"]) > 0:
                self.versions[int(jwk["kid"])] = _bytes32(jwk["k"])
            else:
                raise ValueError
        if not (self.versions and self.signing and self.root):
            raise ValueError


def _symmetric(kid: str, key: bytes) -> dict[str, str]:
    return {"kty": "oct", "alg": "A256GCM", "use": "enc", "kid": kid, "k": base64url_encode(key)}


def _bytes32(text: str) -> bytes:
    value = bytes(base64url_decode(text))
    if len(value) != 32:
        raise ValueError
    return value


def _read(directory: Path, name: str) -> _Keys:
    path = key_file(directory, name)
    if path != directory:
        _check_directory(directory)
    try:
        # O_NONBLOCK: a FIFO in the file's place must not hang us before fstat can refuse it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise HostsealError(f"key file {path} does not exist: make the key with hostseal.secrets.localkey") from None
    except OSError as error:
        if path.is_symlink():
            raise HostsealError(f"key file {path} is a symbolic link: put the file itself there") from None
        raise HostsealError(f"key file {path} can't be read: {error.strerror}") from None
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise HostsealError(f"key file {path} is not a regular file")
    with open(descriptor, "rb") as file:
        if found.st_uid not in (0, os.geteuid()):
            raise HostsealError(f"key file {path} belongs to user {found.st_uid}, not to you or root")
        if found.st_mode & 0o077:
            raise HostsealError(
                f"key file {path} has mode {stat.S_IMODE(found.st_mode):04o}, others may use it: chmod it to 0600"
                " and think about who may have read it"
            )
        text = file.read(1 << 24)
    try:
        document = json.loads(text)
        if document["name"] != name and path == directory:
            raise HostsealError(f"key file {path} is not the one of the key {name!r}")
        return _Keys(document, name)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        # Not a word of the content: it is the key.
        raise HostsealError(f"key file {path} is truncated or malformed: restore it from your backup") from None


def _check_directory(directory: Path) -> None:
    try:
        found = os.stat(directory)
    except FileNotFoundError:
        raise HostsealError(
            f"key directory {directory} does not exist: check the option key_path, HOSTSEAL_KEY_PATH and ENC_KEY_PATH, or"
            " make the first key with hostseal.secrets.localkey"
        ) from None
    except OSError as error:
        raise HostsealError(f"key directory {directory} can't be read: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise HostsealError(f"key directory {directory} is not a directory")
    if found.st_uid not in (0, os.geteuid()):
        raise HostsealError(f"key directory {directory} belongs to user {found.st_uid}, not to you or root")
    if found.st_mode & 0o077:
        raise HostsealError(f"key directory {directory} has mode {stat.S_IMODE(found.st_mode):04o}: chmod it to 0700")


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """One writer at a time: Ansible forks a process per host."""
    check_changeable(directory)
    _check_directory(directory)
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(path: Path, document: dict[str, Any]) -> None:
    """Replace the key file: the old one or the new one is there, whatever happens. Under the lock."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            json.dump(document, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise HostsealError(f"key file {path} can't be written: {error.strerror}") from None
