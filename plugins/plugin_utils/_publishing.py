# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Publishing: the store's envelopes as files for a static web server, with a signed manifest for each host.

A manifest is written when the envelopes that it names are there, under names made of their content. What only older
manifests name is removed one change later, so a host that has read the manifest before finds its envelopes too.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..module_utils._envelope import signer, unverified_statement
from ..module_utils._jose import EnvelopeError, attach_signature, load_signing_key, signing_input
from ..module_utils._manifest import (
    MANIFEST,
    Listed,
    Manifest,
    envelope_name,
    manifest_payload,
    manifest_text,
    read_manifest,
    split_manifest,
)
from ..module_utils._model import HostsealError, delivery_id, volume_name
from ._audit import Event
from ._backends import Backend
from ._records import Environment, Publication, StoredEnvelope, now_ms
from ._sealing import trusted_keys
from ._site import Site
from ._store import Store
from ._transaction import Transaction

if TYPE_CHECKING:
    from jwcrypto.jwk import JWK

# Hosts whose envelopes are in memory at a time.
_CHUNK = 50


@dataclass(frozen=True)
class Change:
    """What was published for a host, or will be: added and removed are mounts. None of both: the manifest is renewed."""

    environment: str
    host: str
    added: list[str]
    removed: list[str]


@dataclass(frozen=True)
class _Plan:
    """What a host is to find, as times of issue by mount, and what was published so far."""

    host: str
    wanted: Mapping[str, int | None]
    floor: int
    before: Publication | None
    enrolled: bool

    @property
    def published(self) -> dict[str, int]:
        return {name: one["issued_at"] for name, one in self.before.mounts.items()} if self.before else {}

    @property
    def change(self) -> tuple[list[str], list[str]]:
        published = self.published
        added = sorted(name for name, issued_at in self.wanted.items() if published.get(name, 0) != issued_at)
        return added, sorted(published.keys() - self.wanted.keys())


def publish(
    store: Store,
    open_backend: Callable[[Environment], Backend],
    name: str,
    hosts: Collection[str],
    site: Site,
    life: int,
) -> list[Change]:
    """Bring SITE to what the store has of the environment NAME for HOSTS, and for all that were published before.

    LIFE is that of manifests in seconds; they are renewed when half of it is over. No backend is called where nothing
    has changed.
    """
    environment, plans = store.run(lambda transaction: _plan(transaction, name, hosts, {}, ()))
    for plan in plans:
        if plan.before is None and not plan.enrolled:
            raise HostsealError(
                f"host {plan.host!r} is not enrolled in environment {name!r}: nothing can be published for it"
            )
    keys = [load_signing_key(environment.signing_key)]
    stale = [plan for plan in plans if _is_stale(environment, keys, plan, site, life)]
    if not stale:
        return []
    backend = open_backend(environment)
    trusted_keys(environment, backend)
    mounts = {
        host: found for chunk in _chunks(stale) for host, found in _put_envelopes(store, name, chunk, site).items()
    }
    now = now_ms()
    manifests = [
        Manifest(
            environment=name,
            host=plan.host,
            issued_at=max(now, plan.floor, plan.before.issued_at + 1 if plan.before else 0),
            expires_at=now + life * 1000,
            mounts={mount: Listed(one["issued_at"], one["sha256"]) for mount, one in mounts[plan.host].items()},
        )
        for plan in stale
    ]
    covered = [signing_input(MANIFEST, environment.signing_kid, manifest_payload(one)) for one in manifests]
    publications = [
        Publication(
            environment=name,
            host=manifest.host,
            issued_at=manifest.issued_at,
            expires_at=manifest.expires_at,
            mounts=mounts[manifest.host],
            text=manifest_text(attach_signature(text, signature), environment.key_set),
        )
        for manifest, text, signature in zip(manifests, covered, backend.sign(covered), strict=True)
    ]
    store.run(lambda transaction: _put_manifests(transaction, environment, publications, site))
    for plan in stale:
        old = {one["sha256"] for one in plan.before.mounts.values()} if plan.before else set()
        site.prune(plan.host, name, old | {one["sha256"] for one in mounts[plan.host].values()})
    return [Change(name, plan.host, *plan.change) for plan in stale]


def predict(
    store: Store,
    name: str,
    hosts: Collection[str],
    site: Site,
    life: int,
    sealed: Mapping[str, Collection[str]],
    withdrawn: Collection[tuple[str, str]],
) -> list[Change]:
    """What publish would do, when mounts are SEALED, by host, and others WITHDRAWN, as (host, mount), before it."""

    def read(transaction: Transaction) -> tuple[Environment | None, list[_Plan]]:
        if transaction.find_environment(name) is None:
            return None, [_Plan(host, dict.fromkeys(sealed.get(host, ())), 0, None, True) for host in sorted(hosts)]
        return _plan(transaction, name, hosts, sealed, withdrawn)

    environment, plans = store.run(read)
    keys = [load_signing_key(environment.signing_key)] if environment else []
    return [
        Change(name, plan.host, *plan.change)
        for plan in plans
        if environment is None or _is_stale(environment, keys, plan, site, life)
    ]


def _plan(
    transaction: Transaction,
    name: str,
    hosts: Collection[str],
    sealed: Mapping[str, Collection[str]],
    withdrawn: Collection[tuple[str, str]],
) -> tuple[Environment, list[_Plan]]:
    environment = transaction.environment(name)
    published = transaction.publications(name)
    names = sorted({*hosts, *published})
    enrolled = transaction.hosts(name, names)
    wanted: dict[str, dict[str, int | None]] = {host: dict.fromkeys(sealed.get(host, ())) for host in names}
    floors = dict.fromkeys(names, 0)
    for row in transaction.sealed(name, names):
        floors[row.host] = max(floors[row.host], row.last_issued_at)
        if row.issued_at is not None and (row.host, row.mount) not in withdrawn:
            wanted[row.host].setdefault(row.mount, row.issued_at)
    return environment, [
        _Plan(host, wanted[host], floors[host], published.get(host), host in enrolled) for host in names
    ]


def _is_stale(environment: Environment, keys: Sequence[JWK], plan: _Plan, site: Site, life: int) -> bool:
    """Whether the host needs another manifest, or has not all of this one's files at SITE."""
    if plan.before is None or plan.published != plan.wanted:
        return True
    if not plan.enrolled and not plan.wanted:
        return False  # it was told to wipe everything, and that stays true
    if plan.before.expires_at - now_ms() < life * 500:
        return True
    try:
        signed, key_set = split_manifest(plan.before.text)
        read_manifest(signed, environment.name, plan.host, keys)
    except EnvelopeError:  # of an earlier key, or edited
        return True
    names = [one["sha256"] for one in plan.before.mounts.values()]
    return key_set != environment.key_set or not site.has(plan.host, environment.name, plan.before.text, names)


def _put_envelopes(store: Store, name: str, plans: Sequence[_Plan], site: Site) -> dict[str, dict[str, dict[str, Any]]]:
    """Write the envelopes of some hosts; what a publication tells of them, by host and mount."""
    hosts = [plan.host for plan in plans]
    envelopes = store.run(lambda transaction: transaction.envelopes(name, hosts))
    mounts: dict[str, dict[str, dict[str, Any]]] = {host: {} for host in hosts}
    for (host, mount), envelope in sorted(envelopes.items()):
        mounts[host][mount] = _describe(envelope)
        site.put_envelope(host, name, mounts[host][mount]["sha256"], envelope.text)
    site.sync()
    return mounts


def _describe(envelope: StoredEnvelope) -> dict[str, Any]:
    kid, secrets = "", []
    with suppress(HostsealError):  # damaged in the store: the host will refuse it, and say so
        kid = signer(envelope.text)
        secrets = [{"name": ref.name, "version": ref.version} for ref in unverified_statement(envelope.text).secrets]
    return {
        "issued_at": envelope.issued_at,
        "sha256": envelope_name(envelope.text),
        "state_digest": envelope.state_digest,
        "signing_kid": kid,
        "secrets": secrets,
    }


def _put_manifests(
    transaction: Transaction, environment: Environment, publications: Sequence[Publication], site: Site
) -> None:
    """In the transaction that records them: so no other run's manifest is replaced by an older one."""
    if transaction.environment(environment.name).key_set != environment.key_set:
        raise HostsealError(f"environment {environment.name!r} was given other keys by another run: run again")
    there = transaction.publications(environment.name, [one.host for one in publications])
    newer = [one for one in publications if one.host not in there or there[one.host].issued_at < one.issued_at]
    transaction.put_publications(newer)
    transaction.record([event for one in newer for event in _events(there.get(one.host), one)])
    for one in newer:
        site.put_manifest(one.host, one.environment, one.text)


def _events(before: Publication | None, after: Publication) -> list[Event]:
    known = before.mounts if before else {}
    told = [("published", name, one) for name, one in after.mounts.items() if not _is_same(known.get(name), one)]
    told += [("withdrawn", name, one) for name, one in known.items() if name not in after.mounts]
    return [
        Event(
            f"mount.{kind}",
            after.environment,
            after.host,
            name,
            one["secrets"],
            delivery_id(after.host, volume_name(after.environment, name), one["issued_at"]),
        )
        for kind, name, one in told
    ]


def _is_same(one: Mapping[str, Any] | None, other: Mapping[str, Any]) -> bool:
    return one is not None and one["issued_at"] == other["issued_at"]


def _chunks(plans: Sequence[_Plan]) -> Iterator[Sequence[_Plan]]:
    for start in range(0, len(plans), _CHUNK):
        yield plans[start : start + _CHUNK]
