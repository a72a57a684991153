# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The environment whose secrets the faults are tried on, and what has been delivered of it so far.

A mount has four files. The first line of each is MOUNT:GENERATION:TARGET, so that a reader sees whether files belong
together; the second holds the marker, which must be nowhere on a disk. A generation is the envelope's time of issue.
Generations have the file "even" or "odd", so names come and go too.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
import time
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hostseald import _envelope, _jose, _model
from jwcrypto.jwk import JWK

from . import agent

ENVIRONMENT = "faults"


def targets(generation: int) -> list[str]:
    return ["one", "two", "deep/three", "odd" if generation % 2 else "even"]


class World:
    """All of it is a function of SEED, but for the times of issue."""

    def __init__(self, seed: int, size: int = 3000) -> None:
        self.seed = seed
        self.size = size
        self.random = random.Random(seed)
        self.host: str = (identity := json.loads(Path("/etc/hostseal/host.json").read_text()))["host"]
        self.host_key = _jose.load_host_key(json.dumps(identity["jwk"]))
        self.keys = [self._key(0), self._key(1)]
        self.marker = hashlib.sha256(f"{seed} marker".encode()).hexdigest()
        self._last = 0
        # volume -> envelopes by generation, what was last sent
        self.sent: dict[str, tuple[int, str]] = {}

    def _key(self, number: int) -> JWK:
        raw = hashlib.sha256(f"{self.seed} key {number}".encode()).digest()
        return JWK.from_pyca(Ed25519PrivateKey.from_private_bytes(raw))

    def generation(self) -> int:
        """A time of issue after all before it."""
        if not self._last:
            self._last = max([0, *agent.status()["marks"].values()])
        self._last = max(self._last + 1, int(time.time() * 1000))
        return self._last

    def envelope(self, mount: str, **options: Any) -> tuple[int, str]:
        """A new generation of MOUNT: its number and the sealed text."""
        generation = self.generation()
        names = targets(generation)
        secrets = [{"source": name.replace("/", "_"), "target": name, "uid": 1000} for name in names]
        padding = "x" * max(0, self.size - 100)
        values = [
            (1, f"{generation:x}", f"{mount}:{generation}:{name}\n{self.marker} {padding}\n".encode()) for name in names
        ]
        made = _model.Mount.from_options({"environment": ENVIRONMENT, "name": mount, "secrets": secrets, **options})
        kid = self.keys[0].thumbprint()
        draft = _envelope.encrypt(made, self.host, self.host_key, kid, generation, values)
        text = draft.sign(self._sign(draft.covered))
        self.sent[f"{ENVIRONMENT}.{mount}"] = (generation, text)
        return generation, text

    def key_set(self, both: bool) -> str:
        """The environment's keys, one or both of them; newer than all before."""
        payload = _envelope.key_set(ENVIRONMENT, self.generation(), self.keys if both else self.keys[:1])
        covered = _jose.signing_input(_envelope.KEY_SET, self.keys[0].thumbprint(), payload)
        return _jose.attach_signature(covered, self._sign(covered))

    def _sign(self, covered: bytes) -> bytes:
        key: Any = self.keys[0].get_op_key("sign")
        return bytes(key.sign(covered))

    def enrol(self) -> None:
        """Pin the keys, whatever was pinned before."""
        agent.control("PUT", f"/v1/environments/{ENVIRONMENT}?replace_key=1", self.key_set(False))

    def deliver(self, mount: str, **options: Any) -> int:
        """Bring a new generation of MOUNT to the agent."""
        generation, text = self.envelope(mount, **options)
        agent.deliver(f"{ENVIRONMENT}.{mount}", text)
        return generation

    def user(self) -> str:
        """An ID as Docker makes them."""
        return f"{self.random.getrandbits(256):064x}"


def progress(text: str) -> None:
    """One line for the person who waits."""
    sys.stdout.write(json.dumps({"progress": text}) + "\n")
    sys.stdout.flush()
