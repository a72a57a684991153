# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Keys: those of environments, which the host pins, and the host's own older ones, which it gives up."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

from jwcrypto.jwk import JWK

from ._audit import Audit
from ._envelope import KeySet, read_key_set, read_statement, recipient
from ._host import Host
from ._model import HostsealError, split_volume
from ._proof import answer_challenge
from ._refusals import RefusedError
from ._state import Pin, State


class Keys:
    """Every change is in the audit log, and so is every refusal of one."""

    def __init__(self, host: Host, state: State, audit: Audit) -> None:
        self._host = host
        self._state = state
        self._audit = audit
        self._pin_lock = threading.Lock()
        self._older_lock = threading.Lock()

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
                reason = f"the keys of environment {environment!r} are not changed on host {self._host.name!r}: {error}"
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

    def prove(self, challenge: str) -> dict[str, Any]:
        """Answer a control node that wants to know whether the holder of an older key has the present one."""
        try:
            proof = answer_challenge(challenge, self._host.name, self._host.keys(), self._host.key)
        except HostsealError as error:
            reason = f"host {self._host.name!r} gives no proof for its key: {error}"
            self._audit.write("refusal", {"what": "proof", "reason": reason})
            raise RefusedError(reason) from None
        self._audit.write("proof", {"kid": self._host.kid})
        return {"kid": self._host.kid, "proof": proof}

    def forget_key(self, kid: str) -> dict[str, Any]:
        """Give up an older key for good; refused while an envelope needs it."""
        with self._older_lock:
            if kid == self._host.kid:
                raise RefusedError(f"{kid} is the key of host {self._host.name!r}, not an older one")
            if kid not in self._host.older_kids:
                return {"changed": False}
            if kid in self._needed():
                raise RefusedError(f"key {kid} of host {self._host.name!r} is still needed: deliver its mounts anew")
            self._host.forget(kid)
        self._audit.write("key_destroyed", {"kid": kid, "present": self._host.kid})
        return {"changed": True}

    def staying(self, envelopes: Iterable[str]) -> AbstractContextManager[object]:
        """Keeps older keys while ENVELOPES go to the disk, if one comes under an older key.

        It must be on the disk before that key is asked for, or be refused after the key is gone.
        """
        if not self._host.older_kids:
            return nullcontext()
        for envelope in envelopes:
            with suppress(HostsealError):  # it will be refused
                if recipient(envelope) != self._host.kid:
                    return self._older_lock
        return nullcontext()

    def _needed(self) -> set[str]:
        """The older keys that must stay: with no envelope under the new key, nobody may know of that one yet."""
        if not self._host.older_kids:
            return set()
        used = set()
        for volume in self._state.volumes():
            with suppress(HostsealError, OSError):  # a damaged one opens with no key
                used.add(recipient(self._state.envelope(volume)))
        return set(self._host.older_kids) if self._host.kid not in used else used & set(self._host.older_kids)

    def older(self) -> list[dict[str, Any]]:
        """The host's older keys, and whether they are still needed."""
        needed = self._needed()
        return [{"kid": kid, "needed": kid in needed} for kid in self._host.older_kids]


def _is_signed(envelope: str, keys: Iterable[JWK]) -> bool:
    try:
        read_statement(envelope, keys)
    except HostsealError:
        return False
    return True
