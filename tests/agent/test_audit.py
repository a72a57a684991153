# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The audit file has whole lines only, whatever happened to the disk below it."""

from __future__ import annotations

import json
from pathlib import Path

from hostseald._audit import Audit


def write(path: Path, *notes: str) -> None:
    audit = Audit(str(path), "here")
    for note in notes:
        audit.write("test", {"note": note})
    audit.close(10)


def notes(path: Path) -> list[str]:
    return [json.loads(line)["note"] for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_full_disk_leaves_no_half_line(small_disk: Path) -> None:
    path = small_disk / "audit.jsonl"
    ballast = small_disk / "ballast"
    write(path, "first")
    with ballast.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)):
                pass
        except OSError:
            pass  # full
    long = "x" * 700
    write(path, *[f"{number} {long}" for number in range(20)])
    kept = notes(path)
    assert kept[0] == "first"
    assert 1 < len(kept) < 21
    ballast.unlink()
    write(path, "last")
    assert notes(path) == [*kept, "last"]


def test_half_a_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_text('{"time": "2026', encoding="utf-8")
    write(path, "whole", "again")
    first, *rest = path.read_text(encoding="utf-8").splitlines()
    assert first == '{"time": "2026'
    assert [json.loads(line)["note"] for line in rest] == ["whole", "again"]
