# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a measurement yields, and how it is shown."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """How much is measured; the full sizes are those that the targets name."""

    declared: int = 10_000
    vaulted: int = 200
    in_vault: tuple[int, ...] = (10, 100, 1_000, 10_000)
    looked_up: int = 1_000
    sealed_hosts: tuple[int, ...] = (250, 500, 1_000)
    scaled_hosts: tuple[int, ...] = (10, 100, 1_000, 10_000)
    openssl_envelopes: int = 50
    inventory_hosts: int = 100
    copied_hosts: int = 2
    no_op_rounds: int = 8
    mount_rounds: int = 5
    mount_volumes: int = 100
    credential_rounds: int = 20
    docker_runs: int = 40
    live_mounts: tuple[int, ...] = (1, 10, 100)
    live_rounds: int = 5
    swarm_rounds: int = 3
    idle_seconds: int = 30
    known_volumes: int = 2_500
    used_volumes: int = 500
    restarts: int = 8


QUICK = Sizes(
    declared=200,
    vaulted=10,
    in_vault=(5, 10),
    looked_up=10,
    sealed_hosts=(5, 10, 20),
    scaled_hosts=(10, 100, 200),
    openssl_envelopes=3,
    inventory_hosts=3,
    copied_hosts=1,
    no_op_rounds=2,
    mount_rounds=2,
    mount_volumes=10,
    credential_rounds=2,
    docker_runs=3,
    live_mounts=(1, 5),
    live_rounds=2,
    swarm_rounds=1,
    idle_seconds=2,
    known_volumes=20,
    used_volumes=5,
    restarts=2,
)


@dataclass(frozen=True)
class Row:
    """One line of the table. ratio is measured / instead (below 1: faster or smaller); met is None without a target."""

    what: str
    measured: str
    instead: str
    ratio: float | None
    target: str
    met: bool | None
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as texts, in the order of HEADINGS."""
        ratio = "" if self.ratio is None else f"{self.ratio:.3g}"
        met = "" if self.met is None else ("yes" if self.met else "NO")
        return self.what, self.measured, self.instead, ratio, self.target, met


HEADINGS = ("what", "measured", "instead, in the same run", "ratio", "target", "met")
_WIDTHS = (30, 44, 44, 6, 30, 3)


def quantile(samples: Sequence[float], part: float) -> float:
    """The smallest sample that at least PART of all samples don't exceed."""
    ordered = sorted(samples)
    return ordered[max(0, -int(-part * len(ordered) // 1) - 1)]


def spread(samples: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile, least, most and number of SAMPLES."""
    return {
        "median": statistics.median(samples),
        "p99": quantile(samples, 0.99),
        "least": min(samples),
        "most": max(samples),
        "n": len(samples),
    }


def table(rows: Sequence[Row]) -> str:
    """For a terminal."""
    lines = [*_wrapped(HEADINGS), "-+-".join("-" * width for width in _WIDTHS)]
    for row in rows:
        lines += [*_wrapped(row.cells), ""]
    return "\n".join(lines)


def _wrapped(cells: Sequence[str]) -> list[str]:
    columns = [textwrap.wrap(cell, width) or [""] for cell, width in zip(cells, _WIDTHS, strict=True)]
    height = max(map(len, columns))
    return [
        " | ".join(
            (column[line] if line < len(column) else "").ljust(width)
            for column, width in zip(columns, _WIDTHS, strict=True)
        ).rstrip()
        for line in range(height)
    ]


def markdown(rows: Sequence[Row]) -> str:
    """For the documentation."""
    lines = [HEADINGS, tuple("---" for _heading in HEADINGS), *(row.cells for row in rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)
