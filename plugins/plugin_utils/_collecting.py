# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Receipts of hosts that fetch: what was published counts as delivered when its host says that it has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..module_utils._model import delivery_id, volume_name
from ._audit import Event
from ._records import Publication, Receipt
from ._sealing import confirm_key_sets
from ._store import Store
from ._transaction import Transaction


def collect(store: Store, host: str, answer: Mapping[str, Any]) -> list[str]:
    """Record what HOST says in ANSWER, the result of agent_info; the volumes of which that was news."""
    news = store.run(lambda transaction: _collect(transaction, host, answer))
    confirm_key_sets(store, host, {name: pin["issued_at"] for name, pin in answer["environments"].items()})
    return news


def _collect(transaction: Transaction, host: str, answer: Mapping[str, Any]) -> list[str]:
    events: list[Event] = []
    for enrolment in transaction.enrolments(host):
        name = enrolment.environment
        held = {mount["mount"]: mount for mount in answer["mounts"] if mount["environment"] == name}
        published = transaction.publications(name, [host]).get(host)
        if published is None:
            continue
        known = {receipt.mount: receipt for receipt in transaction.receipts(name, [host])}
        receipts = [
            _receipt(published, mount, held[mount]) for mount in published.mounts if _has(published, mount, held)
        ]
        fresh = [one for one in receipts if one.mount not in known or known[one.mount].issued_at != one.issued_at]
        transaction.put_receipts(fresh)
        sealed = {row.mount for row in transaction.sealed(name, [host]) if row.issued_at is not None}
        # Taken away from the store, and the host has done so.
        gone = [one for one in known.values() if one.mount not in sealed and one.mount not in held]
        for receipt in gone:
            transaction.remove_envelope(name, host, receipt.mount)
        events += [_event("delivered", one) for one in fresh] + [_event("removed", one) for one in gone]
    transaction.record(events)
    return sorted(volume_name(event.environment, str(event.mount)) for event in events)


def _has(published: Publication, mount: str, held: Mapping[str, Mapping[str, Any]]) -> bool:
    """Whether the host has this very envelope, and can use it."""
    found, wanted = held.get(mount), published.mounts[mount]
    return (
        found is not None
        and bool(found["valid"])
        and (found["issued_at"], found["state_digest"]) == (wanted["issued_at"], wanted["state_digest"])
    )


def _receipt(published: Publication, mount: str, held: Mapping[str, Any]) -> Receipt:
    wanted = published.mounts[mount]
    return Receipt(
        environment=published.environment,
        host=published.host,
        mount=mount,
        issued_at=wanted["issued_at"],
        expires_at=held["expires_at"],
        state_digest=wanted["state_digest"],
        secrets=wanted["secrets"],
        delivered_at=held["delivered_at"],
        signing_kid=wanted["signing_kid"],
    )


def _event(kind: str, receipt: Receipt) -> Event:
    delivery = delivery_id(receipt.host, volume_name(receipt.environment, receipt.mount), receipt.issued_at)
    return Event(
        f"mount.{kind}", receipt.environment, receipt.host, receipt.mount, receipt.secrets, delivery, "ok, by fetching"
    )
