# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Sealing: desired mounts, the store and the backends become envelopes, in one batch per environment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..module_utils._envelope import encrypt, read_host_record, state_digest
from ..module_utils._jose import EnvelopeError, load_signing_key
from ..module_utils._model import HostsealError, Mount, delivery_id
from ._audit import Event
from ._backends import Backend, Binding
from ._records import Environment, HostRecord, Receipt, StoredEnvelope, Version, now_ms
from ._store import Store
from ._transaction import Transaction

if TYPE_CHECKING:
    from jwcrypto.jwk import JWK


@dataclass(frozen=True)
class Plan:
    """One mount for one host as it should be, and what the store has of it."""

    host: str
    mount: Mount
    versions: tuple[Version, ...]
    digest: str
    record: HostRecord
    environment: Environment
    envelope: StoredEnvelope | None
    receipt: Receipt | None

    @property
    def is_sealed(self) -> bool:
        """Whether the store's envelope is of this very state and has over half of its life before it."""
        return (
            self.envelope is not None
            and self.envelope.state_digest == self.digest
            and not self.is_aging(self.envelope.expires_at)
        )

    @property
    def is_delivered(self) -> bool:
        """Whether the host has confirmed this very state. It is still asked whether it has it today."""
        return (
            self.receipt is not None
            and self.receipt.state_digest == self.digest
            and not self.is_aging(self.receipt.expires_at)
        )

    def is_aging(self, expires_at: int | None) -> bool:
        """Whether an envelope has reached half of its life: time for a new one."""
        return expires_at is not None and expires_at - now_ms() < self.mount.options.expires_after * 500


def plan(store: Store, wanted: Sequence[tuple[str, Mount]]) -> list[Plan]:
    """Compare mounts for hosts, as (host, mount) pairs, with the store. No backend is called."""
    _refuse_doubles(wanted)
    return store.run(lambda transaction: _plan(transaction, wanted))


def _plan(transaction: Transaction, wanted: Sequence[tuple[str, Mount]]) -> list[Plan]:
    plans: dict[tuple[str, str], Plan] = {}
    for name in sorted({mount.environment for _host, mount in wanted}):
        environment = transaction.environment(name)
        pairs = [(host, mount) for host, mount in wanted if mount.environment == name]
        hosts = sorted({host for host, _mount in pairs})
        records = transaction.hosts(name, hosts)
        missing = [host for host in hosts if host not in records]
        if missing:
            raise HostsealError(
                f"host {missing[0]!r} is not enrolled in environment {name!r}"
                f"{f' (nor are {len(missing) - 1} more)' if len(missing) > 1 else ''}:"
                f" enrol it with hostseal_environments: [{name}] and the role hostseal.secrets.host_agent"
            )
        sources = sorted({entry.source for _host, mount in pairs for entry in mount.entries})
        current = transaction.current_versions(name, sources)
        pinned = sorted({entry.source for _host, mount in pairs for entry in mount.entries if entry.version})
        numbered = {(version.name, version.number): version for version in transaction.versions(name, pinned)}
        envelopes = transaction.envelopes(name, hosts)
        receipts = {(receipt.host, receipt.mount): receipt for receipt in transaction.receipts(name, hosts)}
        for host, mount in pairs:
            versions = _versions(mount, current, numbered)
            record = records[host]
            plans[host, mount.volume] = Plan(
                host=host,
                mount=mount,
                versions=versions,
                digest=state_digest(
                    mount, host, [version.id for version in versions], record.kid, environment.signing_kid
                ),
                record=record,
                environment=environment,
                envelope=envelopes.get((host, mount.name)),
                receipt=receipts.get((host, mount.name)),
            )
    return [plans[host, mount.volume] for host, mount in wanted]


def plan_for_check(store: Store, wanted: Sequence[tuple[str, Mount]]) -> tuple[list[Plan], dict[tuple[str, str], str]]:
    """Like plan, for check mode: what an earlier task of the same run would have made may be missing yet.

    The second value says, by (host, volume), why a mount could not be compared.
    """
    try:
        return plan(store, wanted), {}
    except HostsealError:
        _refuse_doubles(wanted)
    plans: list[Plan] = []
    missing: dict[tuple[str, str], str] = {}
    for host, mount in wanted:
        try:
            plans += plan(store, [(host, mount)])
        except HostsealError as error:
            missing[host, mount.volume] = str(error)
    return plans, missing


def seal(
    store: Store,
    open_backend: Callable[[Environment], Backend],
    plans: Sequence[Plan],
    floors: Mapping[tuple[str, str], int] | None = None,
) -> dict[tuple[str, str], StoredEnvelope]:
    """Make and store an envelope for each plan: one decrypt and one sign per environment.

    FLOORS holds, by (host, volume), issue times that a host has seen already. The answer is by (host, volume).
    """
    sealed: dict[tuple[str, str], StoredEnvelope] = {}
    for name in sorted({plan.environment.name for plan in plans}):
        group = [plan for plan in plans if plan.environment.name == name]
        sealed |= _seal_environment(store, open_backend(group[0].environment), group, floors or {})
    return sealed


def _seal_environment(
    store: Store, backend: Backend, plans: Sequence[Plan], floors: Mapping[tuple[str, str], int]
) -> dict[tuple[str, str], StoredEnvelope]:
    environment = plans[0].environment
    keys = trusted_keys(environment, backend)
    host_keys = {
        host: read_host_key(record, environment.name, keys)
        for host, record in {plan.host: plan.record for plan in plans}.items()
    }
    values = _decrypt(backend, plans)
    issue_times = store.run(lambda transaction: _issue_times(transaction, plans, floors))
    drafts = [
        encrypt(
            plan.mount,
            plan.host,
            host_keys[plan.host],
            environment.signing_kid,
            issued_at,
            [(version.number, version.id, values[_binding(version)]) for version in plan.versions],
        )
        for plan, issued_at in zip(plans, issue_times, strict=True)
    ]
    signatures = backend.sign([draft.covered for draft in drafts])
    sealed = {}
    for plan, issued_at, draft, signature in zip(plans, issue_times, drafts, signatures, strict=True):
        life = plan.mount.options.expires_after * 1000
        sealed[plan.host, plan.mount.volume] = StoredEnvelope(
            environment=environment.name,
            host=plan.host,
            mount=plan.mount.name,
            issued_at=issued_at,
            expires_at=issued_at + life if life else None,
            state_digest=plan.digest,
            text=draft.sign(signature),
        )
    store.run(lambda transaction: _keep(transaction, plans, sealed))
    return sealed


def _issue_times(transaction: Transaction, plans: Sequence[Plan], floors: Mapping[tuple[str, str], int]) -> list[int]:
    _refuse_overtaken(transaction, plans)
    return transaction.issue_times(
        plans[0].environment.name,
        [(plan.host, plan.mount.name) for plan in plans],
        [floors.get((plan.host, plan.mount.volume), 0) for plan in plans],
    )


def _keep(transaction: Transaction, plans: Sequence[Plan], sealed: Mapping[tuple[str, str], StoredEnvelope]) -> None:
    transaction.put_envelopes(sealed.values())
    transaction.record([_sealed(plan, sealed[plan.host, plan.mount.volume].issued_at) for plan in plans])


def _sealed(plan: Plan, issued_at: int) -> Event:
    return Event(
        "mount.sealed",
        plan.environment.name,
        plan.host,
        plan.mount.name,
        [{"name": version.name, "version": version.number} for version in plan.versions],
        delivery_id(plan.host, plan.mount.volume, issued_at),
    )


def _refuse_overtaken(transaction: Transaction, plans: Sequence[Plan]) -> None:
    """In the transaction that takes the issue times: else old versions would go out under a newer time than new ones."""
    name = plans[0].environment.name
    if transaction.environment(name).signing_kid != plans[0].environment.signing_kid:
        raise HostsealError(f"environment {name!r} was given other keys by another run: run again. Nothing was sealed")
    current = transaction.current_versions(name, sorted({version.name for plan in plans for version in plan.versions}))
    records = transaction.hosts(name, sorted({plan.host for plan in plans}))
    for plan in plans:
        for entry, version in zip(plan.mount.entries, plan.versions):
            if entry.version is None and not _is_same(current.get(entry.source), version):
                raise HostsealError(
                    f"secret {entry.source!r} of environment {name!r} was changed by another run while mount"
                    f" {plan.mount.volume!r} was being sealed: run again. Nothing was sealed"
                )
        found = records.get(plan.host)
        if found is None or found.record != plan.record.record:
            raise HostsealError(
                f"host {plan.host!r} was enrolled anew or retired in environment {name!r} by another run while mount"
                f" {plan.mount.volume!r} was being sealed: run again. Nothing was sealed"
            )


def _is_same(one: Version | None, other: Version) -> bool:
    """Not by the ciphertext: another run may have encrypted the same version anew."""
    return one is not None and (one.number, one.id) == (other.number, other.id)


def confirm_key_sets(store: Store, host: str, issued_at: Mapping[str, int]) -> None:
    """Record which key sets, by environment and time of issue, HOST has pinned."""
    store.run(lambda transaction: _confirm_key_sets(transaction, host, issued_at))


def _confirm_key_sets(transaction: Transaction, host: str, issued_at: Mapping[str, int]) -> None:
    for environment, time_of_issue in issued_at.items():
        record = transaction.hosts(environment, [host]).get(host)
        if record is not None and record.pinned_at != time_of_issue:
            transaction.confirm_key_set(environment, host, time_of_issue)


def trusted_keys(environment: Environment, backend: Backend) -> list[JWK]:
    """The environment's verification key from its backend, which the store's copy must agree with: a list of one."""
    keys = backend.verification_keys()
    if (
        keys[0].thumbprint() != environment.signing_kid
        or load_signing_key(environment.signing_key).thumbprint() != environment.signing_kid
    ):
        raise HostsealError(
            f"environment {environment.name!r} was declared with the signing key {environment.signing_kid}, its backend"
            f" has {keys[0].thumbprint()}: it is the key of something else, or the store was edited"
        )
    # Others of the backend are retired, or not used yet.
    return keys[:1]


def read_host_key(record: HostRecord, environment: str, keys: Sequence[JWK]) -> JWK:
    """The public key of an enrolled host from its record, which one of KEYS must have signed."""
    try:
        key = read_host_record(record.record, environment, record.name, keys)
        if key.thumbprint() != record.kid:
            raise EnvelopeError("its thumbprint is another than the signed one")
    except HostsealError as error:
        raise HostsealError(
            f"the record of host {record.name!r} in environment {environment!r} is not to be trusted: {error}."
            " The store was edited or damaged: find out by whom, then enrol the host again with replace_key: true"
        ) from None
    return key


def _decrypt(backend: Backend, plans: Sequence[Plan]) -> dict[Binding, bytes]:
    """The values of all versions that the plans need, each once, by what authenticates them.

    Not by the version's id: whoever edits the store could give one id to two secrets, and a host the other's value.
    """
    ciphertexts = {_binding(version): version.ciphertext for plan in plans for version in plan.versions}
    return dict(zip(ciphertexts, backend.decrypt(list(ciphertexts.items()))))


def _binding(version: Version) -> Binding:
    return Binding(version.environment, version.name, version.number)


def _versions(
    mount: Mount, current: Mapping[str, Version], numbered: Mapping[tuple[str, int], Version]
) -> tuple[Version, ...]:
    found = []
    for entry in mount.entries:
        version = numbered.get((entry.source, entry.version)) if entry.version else current.get(entry.source)
        if version is None:
            wanted = f"version {entry.version} of secret" if entry.version else "secret"
            raise HostsealError(
                f"mount {mount.volume!r}: {wanted} {entry.source!r} is not in environment {mount.environment!r}:"
                " declare it with hostseal.secrets.secret"
            )
        found.append(version)
    return tuple(found)


def _refuse_doubles(wanted: Sequence[tuple[str, Mount]]) -> None:
    seen = set()
    for host, mount in wanted:
        if (host, mount.volume) in seen:
            raise HostsealError(f"mount {mount.volume!r} is listed twice for host {host!r}")
        seen.add((host, mount.volume))
