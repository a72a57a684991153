# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Where the rig keeps its things: under build/ of the checkout, except sockets, whose paths must be short."""

from __future__ import annotations

import fcntl
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
RIG = BUILD / "rig"

# Two checkouts on one machine (a working tree and a CI clone) must not touch each other's engine and hosts.
IDENT = hashlib.sha256(str(ROOT).encode()).hexdigest()[:8]
RUN = Path(f"/run/hostseal-rig-{IDENT}")


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Let one process of this checkout at a time do what NAME stands for (start the engine, build an image)."""
    RIG.mkdir(parents=True, exist_ok=True)
    with open(RIG / f"{name}.lock", "w", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
