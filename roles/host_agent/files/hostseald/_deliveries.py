# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the control side does to mounts: envelopes come, and are taken away.

A lock per volume is held during a whole delivery or removal, disk writes included; a Docker Mount does not wait for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from ._audit import Audit, describe
from ._envelope import Statement, read_statement, unverified_statement
from ._held import Envelopes, Held, refuse_expired, sha256
from ._keys import Keys
from ._locks import Locks
from ._model import HostsealError, delivery_id, split_volume
from ._mounts import Mounts
from ._refusals import RefusedError, error_text, milliseconds
from ._state import State


@dataclass(frozen=True)
class _Accepted:
    """An envelope that is good. BEFORE is the state digest of the one held until now; AGAIN: it is this very one."""

    volume: str
    envelope: str
    statement: Statement
    held: Held
    before: str | None
    again: bool


class Deliveries:
    """Each change and each refusal is in the audit log. An OSError means that a disk or the tmpfs failed."""

    def __init__(self, host: str, state: State, keys: Keys, envelopes: Envelopes, mounts: Mounts, audit: Audit) -> None:
        self._host = host
        self._state = state
        self._keys = keys
        self._envelopes = envelopes
        self._mounts = mounts
        self._audit = audit
        self._lock = Locks()

    def deliver(self, envelopes: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """Take envelopes by volume. With its receipt one is verified, on disk, and seen by running containers.

        Each is taken or refused by itself; {"reason"} in the place of a receipt says why one is refused. They go to the
        disk together, and are shown together then.
        """
        with ExitStack() as locked:
            for volume in sorted(envelopes):
                locked.enter_context(self._lock(volume))
            outcomes: dict[str, dict[str, Any]] = {}

            def refuse(volume: str, error: Exception) -> None:
                reason = f"envelope for {volume!r} is refused by host {self._host!r}: {error_text(error)}"
                outcomes[volume] = {"reason": reason}

            accepted = []
            with self._keys.staying(envelopes.values()):
                for volume, envelope in envelopes.items():
                    try:
                        accepted.append(self._accept(volume, envelope))
                    except (HostsealError, OSError) as error:
                        refuse(volume, error)
                failed = self._state.put({one.volume: one.envelope for one in accepted if not one.again})
            for one in accepted:
                try:
                    if one.volume in failed:
                        self._mounts.discard(one.statement)
                        raise failed[one.volume]
                    outcomes[one.volume] = self._receipt(one, self._mounts.refresh(one.statement, one.held, one.before))
                except (HostsealError, OSError) as error:
                    refuse(one.volume, error)
        told = {one.volume: one for one in accepted}
        for volume, outcome in outcomes.items():
            if "reason" in outcome:
                delivery = self._claimed_delivery(volume, envelopes[volume])
                self._audit.write("refusal", {"what": "deliver", "volume": volume, **delivery, **outcome})
            elif outcome["changed"]:
                self._audit.write("deliver", {**describe(told[volume].statement), "users": outcome["users"]})
        return outcomes

    def _claimed_delivery(self, volume: str, envelope: str) -> dict[str, str]:
        """The delivery that a refused envelope says it is, as the control node's log has it too."""
        try:
            return {"delivery": delivery_id(self._host, volume, unverified_statement(envelope).issued_at)}
        except HostsealError:
            return {}

    def _accept(self, volume: str, envelope: str) -> _Accepted:
        """An envelope that is good, its files ready in the tmpfs where the mount is in use."""
        environment, _mount = split_volume(volume)
        pin = self._envelopes.pin_of(environment)
        statement = read_statement(envelope, pin.keys)
        if statement.volume != volume:
            raise RefusedError(f"it is for mount {statement.volume!r}")
        if statement.host != self._host:
            raise RefusedError(f"it is for host {statement.host!r}")
        found = self._envelopes.find(volume)
        before = found.statement if found is not None else None
        again = (
            before is not None and before.issued_at == statement.issued_at and self._state.envelope(volume) == envelope
        )
        mark = self._envelopes.mark(volume, found)
        if statement.issued_at <= mark and not again:
            raise RefusedError(
                f"its time of issue {statement.issued_at} is not after {mark}, the newest accepted so far"
            )
        refuse_expired(statement)
        files = self._envelopes.decrypt(envelope, statement)
        self._mounts.prepare(statement, files)  # before the disk, so that a full tmpfs refuses the envelope
        held = Held(statement, examined=pin, digest=sha256(envelope))
        return _Accepted(volume, envelope, statement, held, before.state_digest if before else None, again)

    @staticmethod
    def _receipt(one: _Accepted, users: int) -> dict[str, Any]:
        statement = one.statement
        return {
            "volume": one.volume,
            "environment": statement.environment,
            "mount": statement.mount,
            "host": statement.host,
            "issued_at": statement.issued_at,
            "state_digest": statement.state_digest,
            "live": users > 0,
            "users": users,
            "changed": not one.again,
            "accepted_at": milliseconds(),
            "secrets": [{"name": ref.name, "version": ref.version} for ref in statement.secrets],
        }

    def remove(self, volume: str) -> dict[str, Any]:
        """Take a mount away: its envelope at once, its files too unless it says ``on_remove: keep``. The mark stays."""
        with self._lock(volume):
            held = self._envelopes.find(volume)
            if held is None:
                return {"changed": False}
            self._state.save_mark(volume, self._envelopes.mark(volume, held))
            keep = held.statement is not None and held.statement.options.on_remove == "keep"
            users, kept = self._mounts.withdraw(volume, keep)
            self._state.sync()
        self._audit.write("remove", {"volume": volume, "users": users, "kept": kept})
        return {"changed": True}

    def wipe_all(self) -> dict[str, Any]:
        """Forget everything: files, envelopes, pinned keys, marks."""
        volumes = {*self._state.volumes(), *self._mounts.live()}
        for volume in sorted(volumes):
            with self._lock(volume):
                self._mounts.withdraw(volume, keep=False)
        self._state.forget_all()
        self._audit.write("wipe", {"volumes": sorted(volumes), "why": "everything is to be forgotten"})
        return {"changed": bool(volumes)}
