# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What a fault led to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Result:
    """Counts of one fault, and what was found to be wrong."""

    fault: str
    runs: int = 0
    reached: int = 0
    done: int = 0
    survived: int = 0
    mended: int = 0
    violations: list[str] = field(default_factory=list)
    remark: str = ""

    def note(self, where: str, after_fault: list[str], after_run: list[str]) -> None:
        """One run: what was wrong right after the fault, and after the next run."""
        self.runs += 1
        self.survived += not after_fault
        self.mended += not after_run
        self.violations += [f"{where}, after the fault: {text}" for text in after_fault]
        self.violations += [f"{where}, after the next run: {text}" for text in after_run]


def tried(work: Callable[[], list[str] | None]) -> list[str]:
    """The violations that WORK finds; an error is one."""
    try:
        return work() or []
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
