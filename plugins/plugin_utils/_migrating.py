# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""New keys for what the store has: other key versions (rewrap), another backend or key, another signing key.

Signing keys roll over in two steps. While they change, the environment's key set has the new key and the old one and
both have signed it, so every host accepts it and goes on accepting what it has. When all hosts have confirmed it and
hold nothing under the old key, the old key is left out.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..module_utils._envelope import HOST_RECORD, host_record, key_set, read_key_set, sign_key_set
from ..module_utils._jose import attach_signature, signing_input
from ..module_utils._model import HostsealError
from ._audit import Event
from ._backends import Backend, Binding, key_version
from ._records import Environment, Version, now_ms
from ._sealing import read_host_key, trusted_keys
from ._store import Store
from ._transaction import Transaction

if TYPE_CHECKING:
    from jwcrypto.jwk import JWK

# Versions that are worked on at a time: four full requests to Vault.
CHUNK = 996

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Rollover:
    """How far a change of signing keys is. retiring are thumbprints, behind says what hosts have not done yet."""

    retiring: tuple[str, ...]
    behind: tuple[str, ...]


def new_record(name: str, kind: str, key: str, engine_mount_point: str | None, backend: Backend) -> Environment:
    """The record of a new environment, its key set signed so that hosts can pin it."""
    keys = backend.verification_keys()[:1]
    kid = keys[0].thumbprint()
    text = sign_key_set(key_set(name, now_ms(), keys), [(kid, lambda covered: backend.sign([covered])[0])])
    return Environment(name, kind, key, engine_mount_point, _public(keys[0]), kid, text)


def rollover(transaction: Transaction, environment: Environment) -> Rollover:
    """Whether an old signing key is still accepted, and why it must be."""
    pinned = read_key_set(environment.key_set, None)
    retiring = tuple(kid for kid in (key.thumbprint() for key in pinned.keys) if kid != environment.signing_kid)
    if not retiring:
        return Rollover((), ())
    behind = [
        f"host {host.name!r} has not pinned the new key"
        for host in transaction.hosts(environment.name).values()
        if host.pinned_at != pinned.issued_at
    ]
    behind += [
        f"host {receipt.host!r} has mount {receipt.mount!r} under the old key"
        for receipt in transaction.receipts(environment.name)
        if receipt.signing_kid != environment.signing_kid
    ]
    return Rollover(retiring, tuple(behind))


def retire_old_keys(transaction: Transaction, environment: Environment, backend: Backend) -> Environment:
    """Leave all but the current signing key out of the key set."""
    before = read_key_set(environment.key_set, trusted_keys(environment, backend))
    keys = [key for key in before.keys if key.thumbprint() == environment.signing_kid]
    payload = key_set(environment.name, max(now_ms(), before.issued_at + 1), keys)
    text = sign_key_set(payload, [(environment.signing_kid, lambda covered: backend.sign([covered])[0])])
    after = replace(environment, key_set=text)
    transaction.put_environment(after)
    transaction.record([Event("environment.keys_retired", environment.name)])
    return after


def migrate(
    transaction: Transaction, before: Environment, old: Backend, after: Environment, new: Backend, progress: Progress
) -> Environment:
    """Bring an environment from the backend OLD to NEW, whose place AFTER names: versions, host records, signing key.

    All in the caller's transaction, so that it is done wholly or not at all. Every value is decrypted again from what
    was made of it, and compared.
    """
    old_keys = trusted_keys(before, old)
    new_keys = new.verification_keys()[:1]
    kid = new_keys[0].thumbprint()
    if _place(before) != _place(after):
        _encrypt_anew(transaction, before.name, old, new, progress)
    after = replace(after, signing_key=_public(new_keys[0]), signing_kid=kid, key_set=before.key_set)
    if kid != before.signing_kid:
        records = transaction.hosts(before.name).values()
        covered = [
            signing_input(
                HOST_RECORD, kid, host_record(before.name, record.name, read_host_key(record, before.name, old_keys))
            )
            for record in records
        ]
        for record, text, signature in zip(records, covered, new.sign(covered), strict=True):
            transaction.put_host(replace(record, record=attach_signature(text, signature)))
        pinned = read_key_set(before.key_set, old_keys)
        payload = key_set(before.name, max(now_ms(), pinned.issued_at + 1), [*new_keys, *old_keys])
        signers = [
            (kid, lambda covered: new.sign([covered])[0]),
            (before.signing_kid, lambda covered: old.sign([covered])[0]),
        ]
        after = replace(after, key_set=sign_key_set(payload, signers))
    transaction.put_environment(after)
    transaction.record([Event("environment.migrated", before.name)])
    return after


def rewrap(
    store: Store, environment: str, open_backend: Callable[[Environment], Backend], progress: Progress, check: bool
) -> tuple[int, int | None]:
    """Bring every stored version under the newest key version, part by part; killed, the next run goes on from there.

    The answer is how many there were to do, and the number of the newest key version (None: nothing is stored).
    """
    with store.transaction() as transaction:
        record = transaction.environment(environment)
        versions = transaction.versions(environment)
    if not versions:
        return 0, None
    backend = open_backend(record)
    # A rotator may read nothing of the key: what becomes of one ciphertext tells which version is the newest.
    probe = versions[-1]
    newest = key_version(backend.rewrap([(_binding(probe), probe.ciphertext)])[0])
    stale = [version for version in versions if key_version(version.ciphertext) != newest]
    if check:
        return len(stale), newest
    done = 0
    for part in _parts(stale):
        texts = backend.rewrap([(_binding(version), version.ciphertext) for version in part])
        store.run(functools.partial(_keep_rewrapped, record=record, part=part, texts=texts))
        done += len(part)
        progress(done, len(stale))
    return len(stale), newest


def _keep_rewrapped(
    transaction: Transaction, record: Environment, part: Sequence[Version], texts: Sequence[str]
) -> None:
    _refuse_other_place(transaction.environment(record.name), record)
    # A version that was deleted meanwhile stays so.
    transaction.replace_ciphertexts(
        [(version, replace(version, ciphertext=text)) for version, text in zip(part, texts, strict=True)]
    )
    secrets = [{"name": version.name, "version": version.number} for version in part]
    transaction.record([Event("secret.rewrapped", record.name, secrets=secrets)])


def key_versions_in_use(
    transaction: Transaction, backend: str, key: str, engine_mount_point: str | None
) -> dict[int, str]:
    """The versions of a key that something stored is encrypted under, each with an environment that has it."""
    used: dict[int, str] = {}
    for environment in transaction.environments():
        if _place(environment) == (backend, key, engine_mount_point):
            for version in transaction.versions(environment.name):
                used.setdefault(key_version(version.ciphertext), environment.name)
    return used


def _encrypt_anew(transaction: Transaction, environment: str, old: Backend, new: Backend, progress: Progress) -> None:
    versions = transaction.versions(environment)
    done = 0
    for part in _parts(versions):
        bindings = [_binding(version) for version in part]
        values = old.decrypt([(binding, version.ciphertext) for binding, version in zip(bindings, part, strict=True)])
        items = list(zip(bindings, values, strict=True))
        texts = new.encrypt(items)
        if new.decrypt(list(zip(bindings, texts, strict=True))) != values:
            raise HostsealError(
                f"environment {environment!r}: a value does not come back from the new key as it went in."
                " Nothing was changed"
            )
        replaced = [
            (version, replace(version, ciphertext=text, fingerprint=fingerprint))
            for version, text, fingerprint in zip(part, texts, new.fingerprint(items), strict=True)
        ]
        if transaction.replace_ciphertexts(replaced) != len(part):
            raise HostsealError(
                f"environment {environment!r}: the store changed under the migration. Nothing was changed"
            )
        done += len(part)
        progress(done, len(versions))


def _public(key: JWK) -> str:
    return json.dumps(key.export_public(as_dict=True), sort_keys=True)


def _parts(versions: Sequence[Version]) -> list[Sequence[Version]]:
    return [versions[start : start + CHUNK] for start in range(0, len(versions), CHUNK)]


def _binding(version: Version) -> Binding:
    return Binding(version.environment, version.name, version.number)


def _place(environment: Environment) -> tuple[str, str, str | None]:
    return (environment.backend, environment.key_name, environment.engine_mount_point)


def _refuse_other_place(now: Environment, before: Environment) -> None:
    if _place(now) != _place(before):
        raise HostsealError(f"environment {now.name!r} was given another key by another run meanwhile: run again")
