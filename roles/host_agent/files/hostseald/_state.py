# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What outlives a reboot: pinned keys, sealed envelopes, issue times of removed mounts, manifests. Nothing here is secret."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass

from jwcrypto.jwk import JWK

from ._envelope import KeySet
from ._files import names, remove_file, replace_file, replace_files, sync_folder, write_json
from ._jose import load_signing_key


@dataclass(frozen=True)
class Pin:
    """An environment's verification keys; key_set is the text that brought them."""

    issued_at: int
    keys: tuple[JWK, ...]
    key_set: str

    @property
    def kids(self) -> list[str]:
        return sorted(key.thumbprint() for key in self.keys)


class State:
    """Files below FOLDER. Writing is durable when a method returns; OSError means that nothing changed."""

    def __init__(self, folder: str) -> None:
        self._environments = os.path.join(folder, "environments")
        self._mounts = os.path.join(folder, "mounts")
        self._marks = os.path.join(folder, "marks")
        self._manifests = os.path.join(folder, "manifests")
        for path in (self._environments, self._mounts, self._marks, self._manifests):
            os.makedirs(path, mode=0o700, exist_ok=True)
        self._lock = threading.Lock()
        self._pins = {name[: -len(".json")]: self._load_pin(name) for name in names(self._environments)}
        self._volumes = set(names(self._mounts))

    def _load_pin(self, name: str) -> Pin:
        with open(os.path.join(self._environments, name), encoding="utf-8") as file:
            saved = json.load(file)
        keys = tuple(load_signing_key(json.dumps(key)) for key in saved["keys"])
        return Pin(saved["issued_at"], keys, saved["key_set"])

    def pins(self) -> dict[str, Pin]:
        """All pinned environments."""
        with self._lock:
            return dict(self._pins)

    def pin(self, environment: str) -> Pin | None:
        """The keys that may sign ENVIRONMENT's envelopes."""
        with self._lock:
            return self._pins.get(environment)

    def set_pin(self, key_set: KeySet, text: str) -> None:
        """Pin the keys of a verified key set, whose TEXT this is."""
        saved = {
            "issued_at": key_set.issued_at,
            "keys": [key.export_public(as_dict=True) for key in key_set.keys],
            "key_set": text,
        }
        write_json(os.path.join(self._environments, f"{key_set.environment}.json"), saved, durable=True)
        with self._lock:
            self._pins[key_set.environment] = Pin(key_set.issued_at, key_set.keys, text)

    def volumes(self) -> list[str]:
        """All mounts this host has."""
        with self._lock:
            return sorted(self._volumes)

    def has(self, volume: str) -> bool:
        """Whether there is an envelope for VOLUME."""
        with self._lock:
            return volume in self._volumes

    def envelope(self, volume: str) -> str:
        """The text of the held envelope."""
        with open(os.path.join(self._mounts, volume), encoding="utf-8", errors="replace", newline="") as file:
            return file.read()

    def delivered_at(self, volume: str) -> int | None:
        """When the held envelope came, in milliseconds."""
        try:
            return os.stat(os.path.join(self._mounts, volume)).st_mtime_ns // 1_000_000
        except FileNotFoundError:
            return None

    def put(self, envelopes: Mapping[str, str]) -> dict[str, OSError]:
        """Hold ENVELOPES by volume from now on, instead of older ones; those that can't be, with the reason."""
        failed = replace_files(self._mounts, {volume: text.encode() for volume, text in envelopes.items()})
        with self._lock:
            self._volumes.update(envelopes.keys() - failed.keys())
        return failed

    def save_mark(self, volume: str, issued_at: int) -> None:
        """Remember ISSUED_AT for after the removal of the envelope; until then the envelope itself is the mark."""
        write_json(os.path.join(self._marks, volume), issued_at, durable=True)

    def remove(self, volume: str) -> None:
        """Forget the envelope. The caller syncs, outside of locks that a Mount may want."""
        remove_file(os.path.join(self._mounts, volume))
        with self._lock:
            self._volumes.discard(volume)

    def sync(self) -> None:
        """Make removals durable."""
        sync_folder(self._mounts)

    def saved_mark(self, volume: str) -> int:
        """The newest issue time that was held when VOLUME was removed, 0 for never."""
        try:
            with open(os.path.join(self._marks, volume), encoding="utf-8") as file:
                return int(json.load(file))
        except FileNotFoundError:
            return 0

    def marks(self) -> list[str]:
        """Volumes that once were removed."""
        return names(self._marks)

    def manifests(self) -> dict[str, str]:
        """The text of the newest accepted manifest by environment."""
        found = {}
        for name in names(self._manifests):
            with open(os.path.join(self._manifests, name), encoding="utf-8", errors="replace") as file:
                found[name] = file.read()
        return found

    def put_manifest(self, environment: str, text: str) -> None:
        """Hold TEXT from now on, instead of an older manifest."""
        replace_file(os.path.join(self._manifests, environment), text.encode(), durable=True)

    def forget_all(self) -> None:
        """Remove everything."""
        with self._lock:
            self._pins.clear()
            self._volumes.clear()
        for folder in (self._environments, self._mounts, self._marks, self._manifests):
            for name in os.listdir(folder):
                remove_file(os.path.join(folder, name))
            sync_folder(folder)
