# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What the agent does: takes envelopes, shows their files to containers, and takes them away again.

Two locks per volume. ``deliver`` is held during a whole delivery or removal, disk writes included; ``mount`` only
while the tmpfs and the counts change, so a Docker Mount never waits for a disk. Neither is held while Docker is asked.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

from jwcrypto.jwk import JWK

from . import VERSION
from ._alerts import Alerts
from ._audit import Audit, describe
from ._bridge_client import BridgeClient
from ._changes import Changes
from ._docker_client import ENDED, DockerClient
from ._envelope import (
    File,
    KeySet,
    Statement,
    decrypt,
    read_key_set,
    read_statement,
    recipient,
    unverified_statement,
)
from ._expiry import Expiry
from ._guard import Guard, Permit, is_guarded
from ._host import Host
from ._jobs import Jobs
from ._later import Later
from ._model import HostsealError, delivery_id, mode_text, split_volume
from ._paths import Paths
from ._proof import answer_challenge
from ._reconcile import GAP_SECONDS, QUIET_SECONDS, Reconciler, looks_like_docker
from ._state import Pin, State
from ._tokens import Tokens
from ._users import Users
from ._volumes import Volumes

_WIPE_AGAIN_MILLISECONDS = 5000


class RefusedError(HostsealError):
    """A request is refused, nothing is changed, and the message says why."""


class UnknownMountError(RefusedError):
    """This host has no such mount."""


@dataclass
class Held:
    """What is remembered of an envelope on disk. REASON (None: it is good) was found under the pin EXAMINED.

    DIGEST is the SHA-256 of the text whose signature was verified then, so that a Mount need not do it again.
    """

    statement: Statement | None
    examined: Pin | None = None
    reason: str | None = None
    digest: bytes | None = None


@dataclass(frozen=True)
class _Accepted:
    """An envelope that is good. BEFORE is the state digest of the one held until now; AGAIN: it is this very one."""

    volume: str
    envelope: str
    statement: Statement
    held: Held
    before: str | None
    again: bool


@dataclass
class _Locks:
    deliver: threading.Lock = field(default_factory=threading.Lock)
    mount: threading.Lock = field(default_factory=threading.Lock)


class Agent:
    """All of it; the two APIs are translations of its methods. OSError means that a disk or the tmpfs failed."""

    def __init__(
        self,
        paths: Paths,
        host: Host,
        audit: Audit,
        quiet: float = QUIET_SECONDS,
        gap: float = GAP_SECONDS,
        owner_of_zero: tuple[int, int] = (0, 0),
        key_protection: str = "file",
        alerts: bool = False,
    ) -> None:
        self.host = host
        self._key_protection = key_protection
        self._audit = audit
        self._state = State(paths.state)
        self._users = Users(paths.users)
        self._volumes = Volumes(paths.volumes, paths.published, owner_of_zero)
        self._docker = DockerClient(paths.docker_helper)
        self._changes = Changes(paths.changes, self._docker, audit)
        bridge, jobs, alert = (
            BridgeClient(paths.bridge),
            Jobs(),
            Alerts(audit, host.name, paths.alerts if alerts else None),
        )
        self._guard = Guard(self._docker, bridge, jobs, audit, alert)
        self._tokens = Tokens(paths.volumes, bridge, jobs, audit, alert)
        self._reconciler = Reconciler(self._users, self._docker, self._drop_leaked, quiet, gap)
        self._later = Later(1.0, self._tidy)
        self._expiry = Expiry(self._wipe_expired)
        self._held: dict[str, Held] = {}
        self._locks: dict[str, _Locks] = {}
        self._locks_guard = threading.Lock()
        self._pin_lock = threading.Lock()
        self._older_keys_lock = threading.Lock()

    # -- start ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Finish what a crash cut off, then begin the background work."""
        self._audit.write("start", {"version": VERSION, "kid": self.host.kid, "mounts": len(self._state.volumes())})
        try:
            self._volumes.check()
            self._tokens.load()
            for volume in sorted({*self._volumes.names(), *self._users.volumes(), *self._tokens.volumes()}):
                self._mend(volume)
        except (HostsealError, OSError) as error:
            self._audit.write("refusal", {"what": "start", "reason": _text(error)})
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
        held = self._find(volume)
        if held is None or held.statement is None or self._volumes.current(volume) == held.statement.issued_at:
            return
        try:
            statement, files = self._open(volume, held)
            self._volumes.prepare(volume, statement.issued_at, [*files, *self._tokens.file(statement)])
            self._changes.schedule(volume, statement.options, statement.issued_at)
            self._volumes.publish(volume, statement.issued_at)
            self._later.ask(volume)
        except (HostsealError, OSError) as error:
            self._audit.write("refusal", {"what": "refresh", **_described(volume, held), "reason": _text(error)})

    def _tidy(self, volume: str) -> None:
        """A moment after a swap: remove the generation before."""
        with suppress(OSError), self._lock(volume).mount:
            self._volumes.settle(volume)

    def _wipe_expired(self) -> int | None:
        """Wipe what running containers have of expired envelopes that want it; when the next one is due, see Expiry."""
        due = []
        for volume in self._users.volumes():
            with self._lock(volume).mount:
                expires_at = self._wiped_at(self._find(volume))
                if expires_at is None or self._volumes.current(volume) is None:
                    continue
                if expires_at > _milliseconds():
                    due.append(expires_at)
                    continue
                try:
                    self._volumes.wipe(volume, held=True)
                except OSError as error:
                    self._audit.write("refusal", {"what": "expiry", "volume": volume, "reason": _text(error)})
                    due.append(_milliseconds() + _WIPE_AGAIN_MILLISECONDS)
                    continue
            self._audit.write("wipe", {"volume": volume, "why": "its envelope expired", "expires_at": expires_at})
        return min(due, default=None)

    @staticmethod
    def _wiped_at(held: Held | None) -> int | None:
        """When the files of an envelope are to be wiped, in milliseconds; None for never."""
        if held is None or held.statement is None or held.statement.options.on_expiry != "wipe":
            return None
        return held.statement.expires_at

    # -- Docker's side ----------------------------------------------------------------------------------------------

    def mount(self, volume: str, user: str) -> str:
        """Show VOLUME's files for one more use by USER, Docker's mount ID. The directory to bind."""
        try:
            statement = self._known(volume).statement  # before a lock is made for just any name
            exclusive = statement is not None and statement.vault_token is not None
            with self._guard.turn(volume) if exclusive else nullcontext():
                permit = self._permit(volume, user) if is_guarded(statement) else None
                held, issued_at, count = self._mount(volume, user, permit)
        except (HostsealError, OSError) as error:
            details = _described(volume, self._find(volume))
            self._audit.write("refusal", {"what": "mount", **details, "id": user, "reason": _text(error)})
            if isinstance(error, UnknownMountError):
                raise
            raise RefusedError(
                f'hostseal: mount "{volume}" on host "{self.host.name}" is refused: {_text(error)}'
            ) from None
        self._reconciler.wake()
        self._expiry.ask(self._wiped_at(held))
        details = _described(volume, held)
        if permit is not None:
            details |= {"waiting": True} if permit.waiting else {"container": permit.container}
        self._audit.write("mount", {**details, "issued_at": issued_at, "id": user, "count": count})
        return self._volumes.path(volume)

    def _mount(self, volume: str, user: str, permit: Permit | None) -> tuple[Held, int, int]:
        """The envelope that is shown, its issue time, and how often USER has the volume now."""
        with self._lock(volume).mount:
            try:
                held = self._known(volume)
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
        with self._lock(volume).mount:
            held = self._known(volume)
            self._examine(volume, held)
            reason = self._why_not(held)
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
            self._examine(volume, held)
            reason = self._why_not(held)
            if reason is not None:
                raise RefusedError(reason)
            if permit is None or permit.answer is None:
                return held.statement.issued_at
        if permit is None and held.statement is not None and self._tokens.is_waiting(volume):
            return held.statement.issued_at
        statement, files = self._open(volume, held)
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
            with self._lock(volume).mount:
                held = self._find(volume)
                if held is None or held.statement is None or not self._tokens.is_waiting(volume):
                    return None
                return held.statement, len(self._users.ids(volume))

        def show(permit: Permit) -> None:
            with self._lock(volume).mount:
                held = self._find(volume)
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
        with self._lock(volume).mount:
            known = self._users.drop(volume, user)
            left = self._users.total(volume)
            if not left:
                self._empty(volume)
        self._audit.write("unmount", {"volume": volume, "id": user, "known": known, "users": left})
        if known and not left:
            self._audit.write("wipe", {"volume": volume, "why": "its last user has gone"})

    def statement(self, volume: str) -> Statement | None:
        """What the host has of VOLUME, None when its envelope is damaged; Unknown when it has none."""
        return self._known(volume).statement

    def path(self, volume: str) -> str:
        """Where Docker finds VOLUME; Unknown when the host has none."""
        self._known(volume)
        return self.published(volume)

    def in_use(self, volume: str) -> bool:
        """Whether Docker has VOLUME mounted."""
        return self._users.total(volume) > 0

    def published(self, volume: str) -> str:
        """Where Docker would find VOLUME."""
        return self._volumes.path(volume)

    def volumes(self) -> list[str]:
        """The names of all mounts."""
        return self._state.volumes()

    def _known(self, volume: str) -> Held:
        held = self._find(volume)
        if held is None:
            raise UnknownMountError(
                f'hostseal: host "{self.host.name}" has no mount "{volume}": deliver it with hostseal.secrets.mount'
            )
        return held

    def _drop_leaked(self, volume: str, changed_at: float) -> None:
        """Called by the reconciler: nobody uses VOLUME, provided that it has not changed since CHANGED_AT."""
        with self._lock(volume).mount:
            if self._users.changed_at(volume) != changed_at:
                return
            leaked = [user for user in self._users.ids(volume) if looks_like_docker(user)]
            self._users.forget(volume, leaked)
            left = self._users.total(volume)
            if not left:
                self._empty(volume)
        self._audit.write("reconcile", {"volume": volume, "ids": leaked, "users": left})
        if not left:
            self._audit.write("wipe", {"volume": volume, "why": "Docker knows no container that uses it"})

    # -- the control side -------------------------------------------------------------------------------------------

    def pin(self, environment: str, text: str, replace_key: bool) -> dict[str, Any]:
        """Pin the keys of a key set. Only a pinned key vouches for other ones, unless REPLACE_KEY."""
        with self._pin_lock:
            pin = self._state.pin(environment)
            try:
                key_set = read_key_set(text, None if pin is None or replace_key else pin.keys)
                if key_set.environment != environment:
                    raise RefusedError(f"the key set is for environment {key_set.environment!r}")
                if pin is not None and not replace_key and text != pin.key_set and key_set.issued_at <= pin.issued_at:
                    raise RefusedError(f"a key set of the same age or a newer one ({pin.issued_at}) is pinned already")
                if pin is not None and not replace_key:
                    self._refuse_to_strand(environment, pin, key_set)
            except HostsealError as error:
                reason = f"the keys of environment {environment!r} are not changed on host {self.host.name!r}: {error}"
                self._audit.write("refusal", {"what": "pin", "environment": environment, "reason": reason})
                raise RefusedError(reason) from None
            old = pin.kids if pin else []
            if pin is None or text != pin.key_set:
                self._state.set_pin(key_set, text)
            kids = sorted(key.thumbprint() for key in key_set.keys)
        if kids != old:
            replaced = replace_key and pin is not None
            self._audit.write("pin", {"environment": environment, "kids": kids, "before": old, "replaced": replaced})
        return {"changed": kids != old, "kids": kids}

    def _refuse_to_strand(self, environment: str, pin: Pin, key_set: KeySet) -> None:
        """Keys that still open a held mount stay: its containers could not be started again."""
        if {key.thumbprint() for key in key_set.keys} >= set(pin.kids):
            return
        for volume in self._state.volumes():
            if split_volume(volume)[0] != environment:
                continue
            try:
                envelope = self._state.envelope(volume)
            except FileNotFoundError:  # taken away since
                continue
            if _is_signed(envelope, pin.keys) and not _is_signed(envelope, key_set.keys):
                raise RefusedError(f"mount {volume!r} is still sealed under a key that the set leaves out")

    def deliver(self, envelopes: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """Take envelopes by volume. With its receipt one is verified, on disk, and seen by running containers.

        Each is taken or refused by itself; {"reason"} in the place of a receipt says why one is refused. They go to the
        disk together, and are shown together then.
        """
        with ExitStack() as locked:
            for volume in sorted(envelopes):
                locked.enter_context(self._lock(volume).deliver)
            outcomes: dict[str, dict[str, Any]] = {}

            def refuse(volume: str, error: Exception) -> None:
                reason = f"envelope for {volume!r} is refused by host {self.host.name!r}: {_text(error)}"
                outcomes[volume] = {"reason": reason}

            accepted = []
            with self._older_keys_lock if self._asks_for_older_key(envelopes.values()) else nullcontext():
                for volume, envelope in envelopes.items():
                    try:
                        accepted.append(self._accept(volume, envelope))
                    except (HostsealError, OSError) as error:
                        refuse(volume, error)
                failed = self._state.put({one.volume: one.envelope for one in accepted if not one.again})
            for one in accepted:
                try:
                    if one.volume in failed:
                        with self._lock(one.volume).mount:
                            self._volumes.discard(one.volume, one.statement.issued_at)
                        raise failed[one.volume]
                    outcomes[one.volume] = self._publish(one)
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
            return {"delivery": delivery_id(self.host.name, volume, unverified_statement(envelope).issued_at)}
        except HostsealError:
            return {}

    def _asks_for_older_key(self, envelopes: Iterable[str]) -> bool:
        """What comes under an older key must be on disk before that key is asked for, or refused after it is gone."""
        if not self.host.older_kids:
            return False
        for envelope in envelopes:
            with suppress(HostsealError):  # it will be refused
                if recipient(envelope) != self.host.kid:
                    return True
        return False

    def _accept(self, volume: str, envelope: str) -> _Accepted:
        """An envelope that is good, its files ready in the tmpfs where the mount is in use."""
        environment, _mount = split_volume(volume)
        pin = self._pin_of(environment)
        statement = read_statement(envelope, pin.keys)
        if statement.volume != volume:
            raise RefusedError(f"it is for mount {statement.volume!r}")
        if statement.host != self.host.name:
            raise RefusedError(f"it is for host {statement.host!r}")
        found = self._find(volume)
        before = found.statement if found is not None else None
        again = (
            before is not None and before.issued_at == statement.issued_at and self._state.envelope(volume) == envelope
        )
        mark = self._mark(volume, found)
        if statement.issued_at <= mark and not again:
            raise RefusedError(
                f"its time of issue {statement.issued_at} is not after {mark}, the newest accepted so far"
            )
        _refuse_expired(statement)
        files = self._decrypt(envelope, statement)
        with self._lock(volume).mount:  # before the disk, so that a full tmpfs refuses the envelope
            if self._users.total(volume) and not self._tokens.is_waiting(volume):
                self._volumes.prepare(volume, statement.issued_at, [*files, *self._tokens.file(statement)])
        held = Held(statement, examined=pin, digest=_sha256(envelope))
        return _Accepted(volume, envelope, statement, held, before.state_digest if before else None, again)

    def _publish(self, one: _Accepted) -> dict[str, Any]:
        """Hold an envelope that is on disk, and show it where its mount is in use; the receipt."""
        volume, statement = one.volume, one.statement
        with self._lock(volume).mount:
            self._held[volume] = one.held
            users = self._users.total(volume)
            current = self._volumes.current(volume)
            waiting = self._tokens.is_waiting(volume)
            if users and not waiting and current != statement.issued_at:
                if not self._volumes.is_prepared(volume, statement.issued_at):  # its first Mount came in between
                    files = [*self._open(volume, one.held)[1], *self._tokens.file(statement)]
                    self._volumes.prepare(volume, statement.issued_at, files)
                if current is None or one.before != statement.state_digest:
                    self._changes.schedule(volume, statement.options, statement.issued_at)
                self._volumes.publish(volume, statement.issued_at)
                self._later.ask(volume)
        if users and waiting:
            self._look_for(volume)
        if users:
            self._expiry.ask(self._wiped_at(one.held))
        return {
            "volume": volume,
            "environment": statement.environment,
            "mount": statement.mount,
            "host": statement.host,
            "issued_at": statement.issued_at,
            "state_digest": statement.state_digest,
            "live": users > 0,
            "users": users,
            "changed": not one.again,
            "accepted_at": _milliseconds(),
            "secrets": [{"name": ref.name, "version": ref.version} for ref in statement.secrets],
        }

    def remove(self, volume: str) -> dict[str, Any]:
        """Take a mount away: its envelope at once, its files too unless it says ``on_remove: keep``. The mark stays."""
        locks = self._lock(volume)
        with locks.deliver:
            held = self._find(volume)
            if held is None:
                return {"changed": False}
            self._state.save_mark(volume, self._mark(volume, held))
            keep = held.statement is not None and held.statement.options.on_remove == "keep"
            with locks.mount:
                users = self._users.total(volume)
                if not (keep and users):
                    self._tokens.end(volume, held=users > 0)
                    # Before the envelope: dying in between must not leave files that no later removal would find.
                    self._volumes.wipe(volume, held=users > 0)
                self._state.remove(volume)
                self._held.pop(volume, None)
                self._changes.forget(volume)
            self._state.sync()
        self._audit.write("remove", {"volume": volume, "users": users, "kept": bool(keep and users)})
        return {"changed": True}

    def wipe_all(self) -> dict[str, Any]:
        """Forget everything: files, envelopes, pinned keys, marks."""
        volumes = {*self._state.volumes(), *self._volumes.names(), *self._users.volumes()}
        for volume in sorted(volumes):
            locks = self._lock(volume)
            with locks.deliver, locks.mount:
                self._held.pop(volume, None)
                self._state.remove(volume)
                self._changes.forget(volume)
                self._tokens.end(volume, held=self._users.total(volume) > 0)
                self._volumes.wipe(volume, held=self._users.total(volume) > 0)
        self._state.forget_all()
        self._audit.write("wipe", {"volumes": sorted(volumes), "why": "everything is to be forgotten"})
        return {"changed": bool(volumes)}

    def prove(self, challenge: str) -> dict[str, Any]:
        """Answer a control node that wants to know whether the holder of an older key has the present one."""
        try:
            proof = answer_challenge(challenge, self.host.name, self.host.keys(), self.host.key)
        except HostsealError as error:
            reason = f"host {self.host.name!r} gives no proof for its key: {error}"
            self._audit.write("refusal", {"what": "proof", "reason": reason})
            raise RefusedError(reason) from None
        self._audit.write("proof", {"kid": self.host.kid})
        return {"kid": self.host.kid, "proof": proof}

    def forget_key(self, kid: str) -> dict[str, Any]:
        """Give up an older key for good; refused while an envelope needs it."""
        with self._older_keys_lock:
            if kid == self.host.kid:
                raise RefusedError(f"{kid} is the key of host {self.host.name!r}, not an older one")
            if kid not in self.host.older_kids:
                return {"changed": False}
            if kid in self._needed_kids():
                raise RefusedError(f"key {kid} of host {self.host.name!r} is still needed: deliver its mounts anew")
            self.host.forget(kid)
        self._audit.write("key_destroyed", {"kid": kid, "present": self.host.kid})
        return {"changed": True}

    def _needed_kids(self) -> set[str]:
        """The older keys that must stay: with no envelope under the new key, nobody may know of that one yet."""
        if not self.host.older_kids:
            return set()
        used = set()
        for volume in self._state.volumes():
            with suppress(HostsealError, OSError):  # a damaged one opens with no key
                used.add(recipient(self._state.envelope(volume)))
        return set(self.host.older_kids) if self.host.kid not in used else used & set(self.host.older_kids)

    def status(self, docker: bool, examine: bool = True) -> dict[str, Any]:
        """Everything a person or a module wants to know; see the control API.

        Without EXAMINE no envelope is verified, and one that nobody asked for since the start counts as good.
        """
        volumes = self._state.volumes()
        mounts = [
            self._mount_status(volume, held, examine) for volume in volumes if (held := self._find(volume)) is not None
        ]
        marks = {volume: self._state.saved_mark(volume) for volume in self._state.marks()}
        for mount in mounts:
            if mount["issued_at"] is not None:
                marks[mount["volume"]] = max(marks.get(mount["volume"], 0), mount["issued_at"])
        status: dict[str, Any] = {
            "format": 1,
            "version": VERSION,
            "host": self.host.name,
            "kid": self.host.kid,
            "older_keys": self._older_keys(),
            "key_protection": self._key_protection,
            "tmpfs": self._volumes.status(),
            "environments": {
                environment: {"kids": pin.kids, "issued_at": pin.issued_at}
                for environment, pin in self._state.pins().items()
            },
            "mounts": mounts,
            "marks": marks,
        }
        if docker:
            status["docker"] = self._docker_status(volumes)
        return status

    def _older_keys(self) -> list[dict[str, Any]]:
        needed = self._needed_kids()
        return [{"kid": kid, "needed": kid in needed} for kid in self.host.older_kids]

    def _mount_status(self, volume: str, held: Held, examine: bool) -> dict[str, Any]:
        if examine:
            self._examine(volume, held)
        environment, mount = split_volume(volume)
        statement = held.statement
        reason = self._why_not(held)
        users = self._users.total(volume)
        pending, last = self._changes.status(volume)
        return {
            "volume": volume,
            "environment": environment,
            "mount": mount,
            "issued_at": statement.issued_at if statement else None,
            "expires_at": statement.expires_at if statement else None,
            "state_digest": statement.state_digest if statement else None,
            "delivered_at": self._state.delivered_at(volume),
            "on_expiry": statement.options.on_expiry if statement else None,
            "owner": statement.options.owner if statement else None,
            "vault_token": statement.vault_token.as_dict() if statement and statement.vault_token else None,
            "waiting": self._tokens.is_waiting(volume),
            "valid": reason is None and statement is not None,
            "reason": reason,
            "secrets": [
                {
                    "name": ref.name,
                    "version": ref.version,
                    "target": ref.target,
                    "uid": ref.uid,
                    "gid": ref.gid,
                    "mode": mode_text(ref.mode),
                }
                for ref in (statement.secrets if statement else ())
            ],
            "live": users > 0 and self._volumes.current(volume) is not None,
            "users": users,
            "pending": pending,
            "last_change": last,
        }

    def _docker_status(self, volumes: list[str]) -> dict[str, Any]:
        try:
            users = self._docker.users(volumes)
            shadowed = self._docker.shadowed(volumes)
        except HostsealError as error:
            return {"ok": False, "reason": str(error), "users": {}, "shadowed": []}
        using = {
            volume: sorted(container["name"] for container in containers if container["state"] not in ENDED)
            for volume, containers in users.items()
        }
        return {
            "ok": True,
            "reason": None,
            "users": {volume: names for volume, names in using.items() if names},
            "shadowed": shadowed,
        }

    # -- envelopes on disk ------------------------------------------------------------------------------------------

    def _lock(self, volume: str) -> _Locks:
        with self._locks_guard:
            return self._locks.setdefault(volume, _Locks())

    def _pin_of(self, environment: str) -> Pin:
        pin = self._state.pin(environment)
        if pin is None:
            raise RefusedError(
                f"environment {environment!r} is not pinned on this host: enrol it with hostseal.secrets.host"
            )
        return pin

    def _find(self, volume: str) -> Held | None:
        """What is held of VOLUME, read from disk the first time; None when nothing is."""
        if not self._state.has(volume):
            return None
        held = self._held.get(volume)
        if held is None:
            held = Held(None)
            try:
                self._verify(volume, held)
            except (HostsealError, OSError):
                with suppress(HostsealError, OSError):
                    held.statement = unverified_statement(self._state.envelope(volume))
            held = self._held.setdefault(volume, held)
        return held

    def _mark(self, volume: str, held: Held | None) -> int:
        """The newest issue time that was ever accepted for VOLUME; a damaged envelope no longer tells its own."""
        issued_at = held.statement.issued_at if held is not None and held.statement is not None else 0
        return max(issued_at, self._state.saved_mark(volume))

    def _open(self, volume: str, held: Held) -> tuple[Statement, list[File]]:
        """Verify and decrypt the envelope on disk."""
        statement, envelope = self._verify(volume, held)
        try:
            files = self._decrypt(envelope, statement)
        except HostsealError as error:
            held.reason = str(error)
            raise
        _refuse_expired(statement)
        return statement, files

    def _verify(self, volume: str, held: Held) -> tuple[Statement, str]:
        """Verify the envelope on disk under the keys pinned now, and remember whether it is good.

        The signature covers the ciphertext, which was opened when it came: it opens as long as its key is here.
        """
        pin = self._pin_of(split_volume(volume)[0])
        try:
            envelope = self._state.envelope(volume)
            digest = _sha256(envelope)
            if held.statement is not None and held.examined is pin and held.digest == digest:
                statement = held.statement
            else:
                statement = read_statement(envelope, pin.keys)
            if (statement.volume, statement.host) != (volume, self.host.name):
                raise RefusedError(f"it is for mount {statement.volume!r} of host {statement.host!r}")
            if recipient(envelope) not in (self.host.kid, *self.host.older_kids):
                raise RefusedError("it is encrypted to another key than this host's")
        except HostsealError as error:
            held.reason, held.examined, held.digest = str(error), pin, None
            raise
        held.statement, held.reason, held.examined, held.digest = statement, None, pin, digest
        return statement, envelope

    def _decrypt(self, envelope: str, statement: Statement) -> list[File]:
        return decrypt(envelope, statement, self.host.key_of(recipient(envelope)))

    def _examine(self, volume: str, held: Held) -> None:
        """Make HELD.reason true of the keys that are pinned now; costs nothing when it is already."""
        if held.examined is not None and held.examined is self._state.pin(split_volume(volume)[0]):
            return
        held.examined = None
        try:
            self._verify(volume, held)
        except (HostsealError, OSError) as error:
            if held.examined is None:
                held.reason = _text(error)

    @staticmethod
    def _why_not(held: Held) -> str | None:
        """Why an examined envelope is not valid; None when it is."""
        if held.reason is None and held.statement is not None:
            try:
                _refuse_expired(held.statement)
            except RefusedError as error:
                return str(error)
        return held.reason


def _described(volume: str, held: Held | None) -> dict[str, Any]:
    return describe(held.statement) if held is not None and held.statement is not None else {"volume": volume}


def _guards(statement: Statement | None) -> tuple[object, ...] | None:
    """What decided about a start: other words for a file's place would not have mattered."""
    if statement is None or not is_guarded(statement):
        return None
    return statement.vault_token and statement.vault_token.role, statement.options.match


def _is_signed(envelope: str, keys: Iterable[JWK]) -> bool:
    try:
        read_statement(envelope, keys)
    except HostsealError:
        return False
    return True


def _refuse_expired(statement: Statement) -> None:
    if statement.expires_at is not None and statement.expires_at <= _milliseconds():
        when = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(statement.expires_at / 1000))
        raise RefusedError(f"it expired at {when}: deliver it anew with hostseal.secrets.mount")


def _sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def _milliseconds() -> int:
    return int(time.time() * 1000)


def _text(error: Exception) -> str:
    """Our own errors speak for themselves; of the system's only the error number's text and the path are taken."""
    if isinstance(error, OSError):
        return f"{error.strerror} ({error.filename})" if error.filename else str(error.strerror)
    return str(error)
