# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Pull mode, the agent's part: manifests and envelopes that a fetcher brings from a server. Neither of them is trusted.

A manifest tells all that its environment has published for this host. What it does not name is wiped, unless it was
issued after it; only envelopes that it names are taken. One that is older than the newest accepted is refused, and so
is one that has expired: expiry is reported, and wipes nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ._alerts import Alerts
from ._audit import Audit
from ._deliveries import Deliveries
from ._envelope import read_key_set
from ._expiry import Expiry
from ._held import Envelopes
from ._keys import Keys
from ._manifest import Listed, Manifest, envelope_name, read_manifest, split_manifest
from ._model import HostsealError, split_volume, volume_name
from ._refusals import RefusedError, error_text, milliseconds, when
from ._state import State

_MAX_REASON = 500


@dataclass
class _Source:
    """What is known of an environment's server. REASON: why the newest try failed; at FETCHED_AT all went well.

    IS_PINNED: nothing is left to be done with the KEY_SET that came with the manifest.
    """

    text: str | None = None
    manifest: Manifest | None = None
    key_set: str = ""
    is_pinned: bool = False
    told_expired: bool = False
    reason: str | None = None
    fetched_at: int | None = None


class Pull:
    """Each change and each refusal is in the audit log. An OSError means that a disk or the tmpfs failed."""

    def __init__(
        self,
        host: str,
        state: State,
        keys: Keys,
        envelopes: Envelopes,
        deliveries: Deliveries,
        audit: Audit,
        alerts: Alerts,
    ) -> None:
        self._host = host
        self._state = state
        self._keys = keys
        self._envelopes = envelopes
        self._deliveries = deliveries
        self._audit = audit
        self._alerts = alerts
        self._lock = threading.Lock()
        self._sources: dict[str, _Source] = {}
        self._expiry = Expiry(self._tell_expired)

    def start(self) -> None:
        """Go on from the manifests on the disk. Hosts that do not pull any more do without."""
        for environment, text in self._state.manifests().items():
            try:
                self._know(environment, text)
            except HostsealError as error:
                self._refuse(environment, error)
        self._expiry.ask(self._tell_expired())

    def _know(self, environment: str, text: str) -> _Source:
        """Take TEXT for the newest manifest; a HostsealError when it is not one."""
        signed, key_set = split_manifest(text)
        manifest = read_manifest(signed, environment, self._host, self._envelopes.pin_of(environment).keys)
        source = self._sources.setdefault(environment, _Source())
        source.text, source.manifest, source.key_set = text, manifest, key_set
        source.is_pinned = source.told_expired = False
        return source

    def wanted(self) -> dict[str, Any]:
        """For the fetcher: {"host", "environments": by name {"sha256" of the manifest's text or None, "wanted"}}."""
        with self._lock:
            environments = {}
            for environment in self._state.pins():
                source = self._source(environment)
                name = envelope_name(source.text) if source.text is not None else None
                environments[environment] = {"sha256": name, "wanted": self._missing(source.manifest)}
            return {"host": self._host, "environments": environments}

    def accept(self, environment: str, text: str) -> dict[str, Any]:
        """Take a manifest, and wipe what it does not name: {"changed", "wanted"}, the envelopes that are to be brought."""
        with self._lock:
            try:
                changed = self._accept(environment, text)
            except (HostsealError, OSError) as error:
                raise RefusedError(self._refuse(environment, error)) from None
            return {"changed": changed, "wanted": self._missing(self._source(environment).manifest)}

    def _accept(self, environment: str, text: str) -> bool:
        source = self._source(environment)
        signed, key_set = split_manifest(text)
        self._pin(environment, key_set)
        manifest = read_manifest(signed, environment, self._host, self._envelopes.pin_of(environment).keys)
        before = source.manifest.issued_at if source.manifest else 0
        if manifest.issued_at < before or (manifest.issued_at == before and text != source.text):
            raise RefusedError(
                f"its time of issue {manifest.issued_at} is not after {before}, the newest accepted so far: the server has"
                " an old copy"
            )
        if manifest.expires_at <= milliseconds():
            raise RefusedError(f"it expired at {when(manifest.expires_at)}: publish anew with hostseal.secrets.seal")
        changed = text != source.text
        if changed:
            self._state.put_manifest(environment, text)
            self._know(environment, text)
            details = {"issued_at": manifest.issued_at, "expires_at": manifest.expires_at}
            self._audit.write("manifest", {"environment": environment, **details, "mounts": sorted(manifest.mounts)})
            self._expiry.ask(manifest.expires_at)
        # Also when nothing changed: dying in between must not leave something.
        for volume in self._state.volumes():
            of, mount = split_volume(volume)
            # What came after the manifest was made, by another way, is no business of it.
            if of == environment and mount not in manifest.mounts and self._mark(volume) <= manifest.issued_at:
                self._deliveries.remove(volume)
        return changed

    def _pin(self, environment: str, key_set: str) -> None:
        """Pin newer keys that come with a manifest, if the pinned ones vouch for them; never the first ones."""
        pin = self._envelopes.pin_of(environment)
        if key_set == pin.key_set or read_key_set(key_set, pin.keys).issued_at <= pin.issued_at:
            return
        try:
            self._keys.pin(environment, key_set, replace_key=False)
        except RefusedError:
            # A mount may still be sealed under a key that is left out: it is tried again when the new ones are here.
            return

    def deliver(self, envelopes: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """Take those that the manifests name; as of Deliveries."""
        with self._lock:
            named = {volume for volume, envelope in envelopes.items() if self._is_named(volume, envelope)}
        outcomes = self._deliveries.deliver({volume: envelopes[volume] for volume in named})
        refused = {"reason": "no manifest names this envelope"}
        return {volume: outcomes.get(volume, refused) for volume in envelopes}

    def _is_named(self, volume: str, envelope: str) -> bool:
        environment, mount = split_volume(volume)
        manifest = self._source(environment).manifest
        listed = manifest.mounts.get(mount) if manifest else None
        return listed is not None and listed.sha256 == envelope_name(envelope)

    def report(self, environment: str, reason: str | None) -> dict[str, Any]:
        """What the fetcher says of its newest try: why it failed, or None."""
        with self._lock:
            source = self._source(environment)
            if reason is not None:
                text = "".join(letter if letter.isprintable() else "?" for letter in reason[:_MAX_REASON])
                if text != source.reason:
                    self._audit.write("refusal", {"what": "fetch", "environment": environment, "reason": text})
                source.reason = text
                return {}
            source.reason, source.fetched_at = None, milliseconds()
            if source.manifest is not None and not source.is_pinned and not self._missing(source.manifest):
                source.is_pinned = True
                self._pin(environment, source.key_set)
            return {}

    def status(self) -> dict[str, dict[str, Any]]:
        """By environment. fetched_at is when everything went well last, as far as known since the agent's start."""
        with self._lock:
            return {environment: self._status(source) for environment, source in sorted(self._sources.items())}

    def _status(self, source: _Source) -> dict[str, Any]:
        manifest = source.manifest
        return {
            "issued_at": manifest.issued_at if manifest else None,
            "expires_at": manifest.expires_at if manifest else None,
            "expired": manifest is not None and manifest.expires_at <= milliseconds(),
            "missing": sorted(self._missing(manifest)),
            "fetched_at": source.fetched_at,
            "reason": source.reason,
        }

    def forget(self) -> None:
        """All of it is gone from the disk."""
        with self._lock:
            self._sources.clear()

    def _source(self, environment: str) -> _Source:
        """RefusedError when ENVIRONMENT is not one of this host's."""
        self._envelopes.pin_of(environment)
        return self._sources.setdefault(environment, _Source())

    def _missing(self, manifest: Manifest | None) -> dict[str, str]:
        """The SHA-256 of envelopes by volume that this host never had, in that or a newer issue."""
        if manifest is None:
            return {}
        listed: dict[str, Listed] = {
            volume_name(manifest.environment, mount): one for mount, one in manifest.mounts.items()
        }
        return {volume: one.sha256 for volume, one in listed.items() if self._mark(volume) < one.issued_at}

    def _mark(self, volume: str) -> int:
        return self._envelopes.mark(volume, self._envelopes.find(volume))

    def _refuse(self, environment: str, error: Exception) -> str:
        reason = f"the manifest of environment {environment!r} is refused by host {self._host!r}: {error_text(error)}"
        source = self._sources.setdefault(environment, _Source())
        if reason != source.reason:
            self._audit.write("refusal", {"what": "manifest", "environment": environment, "reason": reason})
        source.reason = reason
        return reason

    def _tell_expired(self) -> int | None:
        """Tell of manifests that have expired, each once; when the next one is due, see Expiry."""
        due = []
        with self._lock:
            for environment, source in self._sources.items():
                if source.manifest is None or source.told_expired:
                    continue
                expires_at = source.manifest.expires_at
                if expires_at > milliseconds():
                    due.append(expires_at)
                    continue
                source.told_expired = True
                self._alerts.give("expired", {"environment": environment, "expires_at": expires_at})
        return min(due, default=None)
