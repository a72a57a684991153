# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The envelopes that this host holds: what is on disk, and whether it is good under the keys that are pinned now."""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from . import _envelope
from ._audit import describe
from ._envelope import File, Statement, read_statement, recipient, unverified_statement
from ._host import Host
from ._model import HostsealError, split_volume
from ._refusals import RefusedError, UnknownMountError, error_text, milliseconds, when
from ._state import Pin, State


@dataclass
class Held:
    """What is remembered of an envelope on disk. REASON (None: it is good) was found under the pin EXAMINED.

    DIGEST is the SHA-256 of the text whose signature was verified then, so that a Mount need not do it again.
    """

    statement: Statement | None
    examined: Pin | None = None
    reason: str | None = None
    digest: bytes | None = None


class Envelopes:
    """Reads, verifies and opens them. An OSError means that the disk failed."""

    def __init__(self, state: State, host: Host) -> None:
        self._state = state
        self._host = host
        self._held: dict[str, Held] = {}

    def keep(self, volume: str, held: Held) -> None:
        """HELD was verified and lies on the disk."""
        self._held[volume] = held

    def remove(self, volume: str) -> None:
        """Take it from the disk."""
        self._state.remove(volume)
        self._held.pop(volume, None)

    def volumes(self) -> list[str]:
        """The names of all that are on the disk."""
        return self._state.volumes()

    def known(self, volume: str) -> Held:
        """What is held of VOLUME; UnknownMountError when nothing is."""
        held = self.find(volume)
        if held is None:
            raise UnknownMountError(
                f'hostseal: host "{self._host.name}" has no mount "{volume}": deliver it with hostseal.secrets.mount'
            )
        return held

    def pin_of(self, environment: str) -> Pin:
        """The keys of ENVIRONMENT; RefusedError when none are pinned."""
        pin = self._state.pin(environment)
        if pin is None:
            raise RefusedError(
                f"environment {environment!r} is not pinned on this host: enrol it with hostseal.secrets.host"
            )
        return pin

    def find(self, volume: str) -> Held | None:
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

    def mark(self, volume: str, held: Held | None) -> int:
        """The newest issue time that was ever accepted for VOLUME; a damaged envelope no longer tells its own."""
        issued_at = held.statement.issued_at if held is not None and held.statement is not None else 0
        return max(issued_at, self._state.saved_mark(volume))

    def open(self, volume: str, held: Held) -> tuple[Statement, list[File]]:
        """Verify and decrypt the envelope on disk."""
        statement, envelope = self._verify(volume, held)
        try:
            files = self.decrypt(envelope, statement)
        except HostsealError as error:
            held.reason = str(error)
            raise
        refuse_expired(statement)
        return statement, files

    def _verify(self, volume: str, held: Held) -> tuple[Statement, str]:
        """Verify the envelope on disk under the keys pinned now, and remember whether it is good.

        The signature covers the ciphertext, which was opened when it came: it opens as long as its key is here.
        """
        pin = self.pin_of(split_volume(volume)[0])
        try:
            envelope = self._state.envelope(volume)
            digest = sha256(envelope)
            if held.statement is not None and held.examined is pin and held.digest == digest:
                statement = held.statement
            else:
                statement = read_statement(envelope, pin.keys)
            if (statement.volume, statement.host) != (volume, self._host.name):
                raise RefusedError(f"it is for mount {statement.volume!r} of host {statement.host!r}")
            if recipient(envelope) not in (self._host.kid, *self._host.older_kids):
                raise RefusedError("it is encrypted to another key than this host's")
        except HostsealError as error:
            held.reason, held.examined, held.digest = str(error), pin, None
            raise
        held.statement, held.reason, held.examined, held.digest = statement, None, pin, digest
        return statement, envelope

    def decrypt(self, envelope: str, statement: Statement) -> list[File]:
        """The files of an envelope whose STATEMENT was verified."""
        return _envelope.decrypt(envelope, statement, self._host.key_of(recipient(envelope)))

    def examine(self, volume: str, held: Held) -> None:
        """Make HELD.reason true of the keys that are pinned now; costs nothing when it is already."""
        if held.examined is not None and held.examined is self._state.pin(split_volume(volume)[0]):
            return
        held.examined = None
        try:
            self._verify(volume, held)
        except (HostsealError, OSError) as error:
            if held.examined is None:
                held.reason = error_text(error)

    @staticmethod
    def why_not(held: Held) -> str | None:
        """Why an examined envelope is not valid; None when it is."""
        if held.reason is None and held.statement is not None:
            try:
                refuse_expired(held.statement)
            except RefusedError as error:
                return str(error)
        return held.reason


def refuse_expired(statement: Statement) -> None:
    """RefusedError when it has expired."""
    if statement.expires_at is not None and statement.expires_at <= milliseconds():
        raise RefusedError(f"it expired at {when(statement.expires_at)}: deliver it anew with hostseal.secrets.mount")


def sha256(text: str) -> bytes:
    """What Held.digest is."""
    return hashlib.sha256(text.encode()).digest()


def described(volume: str, held: Held | None) -> dict[str, Any]:
    """For the audit log."""
    return describe(held.statement) if held is not None and held.statement is not None else {"volume": volume}
