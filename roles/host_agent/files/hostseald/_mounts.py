# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files that containers see: in the tmpfs from a volume's first Mount until its last Unmount.

A lock per volume is held while the tmpfs and the counts change. It is never held for a disk's or for Docker's sake,
but to read an envelope.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext, suppress

from ._audit import Audit
from ._changes import Changes
from ._docker_client import DockerClient
from ._envelope import File, Statement
from ._expiry import Expiry
from ._guard import Guard, Permit, is_guarded
from ._held import Envelopes, Held, described
from ._later import Later
from ._locks import Locks
from ._model import HostsealError, split_volume
from ._reconcile import Reconciler
from ._refusals import RefusedError, UnknownMountError, error_text, milliseconds
from ._tokens import Tokens
from ._users import Users, engine_of
from ._volumes import Volumes

_WIPE_AGAIN_MILLISECONDS = 5000


class Mounts:
    """Mount and Unmount, and what happens to mounts in use. An OSError means that the tmpfs or a disk failed."""

    def __init__(
        self,
        host: str,
        envelopes: Envelopes,
        volumes: Volumes,
        users: Users,
        tokens: Tokens,
        guard: Guard,
        changes: Changes,
        engines: Mapping[str, DockerClient],
        audit: Audit,
        quiet: float,
        gap: float,
    ) -> None:
        self._host = host
        self._envelopes = envelopes
        self._volumes = volumes
        self._users = users
        self._tokens = tokens
        self._guard = guard
        self._changes = changes
        self._audit = audit
        self._reconciler = Reconciler(users, engines, self._drop_leaked, quiet, gap)
        self._later = Later(1.0, self._tidy)
        self._expiry = Expiry(self._wipe_expired)
        self._lock = Locks()

    def start(self) -> None:
        """Finish what a crash cut off, then begin the background work."""
        try:
            self._volumes.check()
            self._tokens.load()
            for volume in sorted({*self._volumes.names(), *self._users.volumes(), *self._tokens.volumes()}):
                self._mend(volume)
        except (HostsealError, OSError) as error:
            self._audit.write("refusal", {"what": "start", "reason": error_text(error)})
        self._expiry.ask(self._wipe_expired())
        self._changes.start()
        self._reconciler.start()

    def _mend(self, volume: str) -> None:
        if not self._users.total(volume):
            self._empty(volume)
            self._audit.write("wipe", {"volume": volume, "why": "it has no users"})
            return
        self._volumes.settle(volume)
        self._tokens.open(volume)
        if self._tokens.is_waiting(volume):
            self._look_for(volume)
            return
        held = self._envelopes.find(volume)
        if held is None or held.statement is None or self._volumes.current(volume) == held.statement.issued_at:
            return
        try:
            statement, files = self._envelopes.open(volume, held)
            self._volumes.prepare(volume, statement.issued_at, [*files, *self._tokens.file(statement)])
            self._changes.schedule(volume, statement.options, statement.issued_at)
            self._volumes.publish(volume, statement.issued_at)
            self._later.ask(volume)
        except (HostsealError, OSError) as error:
            self._audit.write("refusal", {"what": "refresh", **described(volume, held), "reason": error_text(error)})

    def _tidy(self, volume: str) -> None:
        """A moment after a swap: remove the generation before."""
        with suppress(OSError), self._lock(volume):
            self._volumes.settle(volume)

    def _wipe_expired(self) -> int | None:
        """Wipe what running containers have of expired envelopes that want it; when the next one is due, see Expiry."""
        due = []
        for volume in self._users.volumes():
            with self._lock(volume):
                expires_at = self._wiped_at(self._envelopes.find(volume))
                if expires_at is None or self._volumes.current(volume) is None:
                    continue
                if expires_at > milliseconds():
                    due.append(expires_at)
                    continue
                try:
                    self._volumes.wipe(volume, held=True)
                except OSError as error:
                    self._audit.write("refusal", {"what": "expiry", "volume": volume, "reason": error_text(error)})
                    due.append(milliseconds() + _WIPE_AGAIN_MILLISECONDS)
                    continue
            self._audit.write("wipe", {"volume": volume, "why": "its envelope expired", "expires_at": expires_at})
        return min(due, default=None)

    @staticmethod
    def _wiped_at(held: Held | None) -> int | None:
        """When the files of an envelope are to be wiped, in milliseconds; None for never."""
        if held is None or held.statement is None or held.statement.options.on_expiry != "wipe":
            return None
        return held.statement.expires_at

    def mount(self, volume: str, user: str) -> str:
        """Show VOLUME's files for one more use by USER, see _users. The directory to bind."""
        try:
            statement = self._envelopes.known(volume).statement  # before a lock is made for just any name
            exclusive = statement is not None and statement.vault_token is not None
            with self._guard.turn(volume) if exclusive else nullcontext():
                permit = self._permit(volume, user) if is_guarded(statement) else None
                held, issued_at, count = self._mount(volume, user, permit)
        except (HostsealError, OSError) as error:
            details = described(volume, self._envelopes.find(volume))
            self._audit.write("refusal", {"what": "mount", **details, "id": user, "reason": error_text(error)})
            if isinstance(error, UnknownMountError):
                raise
            raise RefusedError(
                f'hostseal: mount "{volume}" on host "{self._host}" is refused: {error_text(error)}'
            ) from None
        self._reconciler.wake()
        self._expiry.ask(self._wiped_at(held))
        details = described(volume, held)
        if permit is not None:
            details |= {"waiting": True} if permit.waiting else {"container": permit.container}
        self._audit.write("mount", {**details, "issued_at": issued_at, "id": user, "count": count})
        return self._volumes.path(volume)

    def _mount(self, volume: str, user: str, permit: Permit | None) -> tuple[Held, int, int]:
        """The envelope that is shown, its issue time, and how often USER has the volume now."""
        with self._lock(volume):
            try:
                held = self._envelopes.known(volume)
                if permit is not None and permit.leaked:
                    self._users.forget(volume, permit.leaked)
                before = self._users.ids(volume).get(user, 0)
                self._users.add(volume, user)
                try:
                    return held, self._show(volume, held, permit), before + 1
                except Exception:
                    self._users.drop(volume, user)
                    if not self._users.total(volume):
                        self._empty(volume)
                    raise
            except Exception:
                self._tokens.refuse(volume, permit.answer if permit else None)
                raise

    def _permit(self, volume: str, user: str) -> Permit | None:
        """Ask who USER is, without a lock."""
        with self._lock(volume):
            held = self._envelopes.known(volume)
            self._envelopes.examine(volume, held)
            reason = self._envelopes.why_not(held)
            if reason is not None or held.statement is None:
                raise RefusedError(reason or "it is damaged")
            statement, users = held.statement, self._users.ids(volume)
            shown = self._volumes.current(volume) is not None or self._tokens.is_waiting(volume)
        return self._guard.permit(statement, user, users, shown)

    def _show(self, volume: str, held: Held, permit: Permit | None) -> int:
        """Make sure that the files of the held envelope are there, or are going to be; their issue time."""
        if permit is not None and _guards(held.statement) != _guards(permit.statement):
            raise RefusedError("its envelope has changed while the container was being started: start it again")
        if permit is not None and permit.waiting:
            self._volumes.make(volume)
            self._tokens.wait(volume)
            self._look_for(volume)
            return permit.statement.issued_at
        if held.statement is not None and self._volumes.current(volume) == held.statement.issued_at:
            self._volumes.check()
            self._envelopes.examine(volume, held)
            reason = self._envelopes.why_not(held)
            if reason is not None:
                raise RefusedError(reason)
            if permit is None or permit.answer is None:
                return held.statement.issued_at
        if permit is None and held.statement is not None and self._tokens.is_waiting(volume):
            return held.statement.issued_at
        statement, files = self._envelopes.open(volume, held)
        if permit is None and is_guarded(statement):
            raise RefusedError("it is for certain containers now: start the container again")
        if permit is not None and permit.answer is not None and statement.vault_token is not None:
            self._volumes.make(volume)
            self._volumes.wipe(volume, held=True)  # an older token, of a container that is being started again
            self._tokens.keep(volume, statement.vault_token.role, permit.container, permit.answer)
        another = self._volumes.current(volume) is not None
        self._volumes.prepare(volume, statement.issued_at, [*files, *self._tokens.file(statement)])
        self._tokens.open(volume)
        self._tokens.settled(volume)
        self._volumes.publish(volume, statement.issued_at)
        if another:
            self._later.ask(volume)
        return statement.issued_at

    def _look_for(self, volume: str) -> None:
        """Show what is waited for, as soon as it is known who waits."""

        def find() -> tuple[Statement, int] | None:
            with self._lock(volume):
                held = self._envelopes.find(volume)
                if held is None or held.statement is None or not self._tokens.is_waiting(volume):
                    return None
                return held.statement, len(self._users.ids(volume))

        def show(permit: Permit) -> None:
            with self._lock(volume):
                held = self._envelopes.find(volume)
                try:
                    if held is None or not self._tokens.is_waiting(volume):
                        raise RefusedError("it is over")
                    issued_at = self._show(volume, held, permit)
                except Exception:
                    self._tokens.refuse(volume, permit.answer)
                    raise
            self._audit.write("shown", {"volume": volume, "issued_at": issued_at, "container": permit.container})

        self._guard.look_for(volume, find, show)

    def _empty(self, volume: str) -> None:
        """Its last user has gone."""
        self._tokens.end(volume)
        self._volumes.wipe(volume, held=False)

    def unmount(self, volume: str, user: str) -> None:
        """One use less; the last one wipes the files. Unknown users are fine: Docker only wants to be rid of it."""
        split_volume(volume)
        with self._lock(volume):
            known = self._users.drop(volume, user)
            left = self._users.total(volume)
            if not left:
                self._empty(volume)
        self._audit.write("unmount", {"volume": volume, "id": user, "known": known, "users": left})
        if known and not left:
            self._audit.write("wipe", {"volume": volume, "why": "its last user has gone"})

    def _drop_leaked(self, volume: str, engine: str, changed_at: float) -> None:
        """Called by the reconciler: ENGINE does not use VOLUME, provided that it has not changed since CHANGED_AT."""
        with self._lock(volume):
            if self._users.changed_at(volume) != changed_at:
                return
            leaked = [user for user in self._users.ids(volume) if engine_of(user) == engine]
            self._users.forget(volume, leaked)
            left = self._users.total(volume)
            if not left:
                self._empty(volume)
        self._audit.write("reconcile", {"volume": volume, "ids": leaked, "users": left})
        if not left:
            self._audit.write("wipe", {"volume": volume, "why": f"{engine.capitalize()} does not use it"})

    def path(self, volume: str) -> str:
        """Where Docker finds VOLUME, whether or not there is such a one."""
        return self._volumes.path(volume)

    def in_use(self, volume: str) -> bool:
        """Whether VOLUME has a user."""
        return self._users.total(volume) > 0

    # -- for deliveries ---------------------------------------------------------------------------------------------

    def prepare(self, statement: Statement, files: list[File]) -> None:
        """Have the files of a new envelope ready in the tmpfs, where its mount is in use."""
        volume = statement.volume
        with self._lock(volume):
            if self._users.total(volume) and not self._tokens.is_waiting(volume):
                self._volumes.prepare(volume, statement.issued_at, [*files, *self._tokens.file(statement)])

    def discard(self, statement: Statement) -> None:
        """The new envelope was not held after all."""
        with self._lock(statement.volume):
            self._volumes.discard(statement.volume, statement.issued_at)

    def refresh(self, statement: Statement, held: Held, before: str | None) -> int:
        """Hold an envelope that is on disk, and show it where its mount is in use; how many users that has.

        BEFORE is the state digest of the one until now.
        """
        volume = statement.volume
        with self._lock(volume):
            self._envelopes.keep(volume, held)
            users = self._users.total(volume)
            current = self._volumes.current(volume)
            waiting = self._tokens.is_waiting(volume)
            if users and not waiting and current != statement.issued_at:
                if not self._volumes.is_prepared(volume, statement.issued_at):  # its first Mount came in between
                    files = [*self._envelopes.open(volume, held)[1], *self._tokens.file(statement)]
                    self._volumes.prepare(volume, statement.issued_at, files)
                if current is None or before != statement.state_digest:
                    self._changes.schedule(volume, statement.options, statement.issued_at)
                self._volumes.publish(volume, statement.issued_at)
                self._later.ask(volume)
        if users and waiting:
            self._look_for(volume)
        if users:
            self._expiry.ask(self._wiped_at(held))
        return users

    def withdraw(self, volume: str, keep: bool) -> tuple[int, bool]:
        """Take VOLUME from the disk and its files from its users, unless KEEP; how many these are, and if they keep them."""
        with self._lock(volume):
            users = self._users.total(volume)
            kept = keep and users > 0
            if not kept:
                self._tokens.end(volume, held=users > 0)
                # Before the envelope: dying in between must not leave files that no later removal would find.
                self._volumes.wipe(volume, held=users > 0)
            self._envelopes.remove(volume)
            self._changes.forget(volume)
        return users, kept

    def live(self) -> set[str]:
        """The volumes that have files or users."""
        return {*self._volumes.names(), *self._users.volumes()}


def _guards(statement: Statement | None) -> tuple[object, ...] | None:
    """What decided about a start: other words for a file's place would not have mattered."""
    if statement is None or not is_guarded(statement):
        return None
    return statement.vault_token and statement.vault_token.role, statement.options.match
