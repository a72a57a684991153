# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the quickstart tells its reader has to be true: its search finds, its playbook is the README's."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from tests.rig.paths import ROOT

SEARCH = ROOT / "quickstart/search.py"


def _search(directory: Path, value: bytes) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-I", str(SEARCH), str(directory)], input=value, capture_output=True, check=True
    )
    assert value not in done.stdout + done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("before", [0, 1, 2, 3, (4 << 20) - 7, (4 << 20) + 1])
@pytest.mark.parametrize("form", ["raw", "hex", "HEX", "base64"])
def test_search_finds_a_planted_copy(tmp_path: Path, form: str, before: int) -> None:
    value = secrets.token_urlsafe(24).encode()
    padding = b"x" * before
    planted = {
        "raw": padding + value,
        "hex": padding + value.hex().encode(),
        "HEX": padding + value.hex().upper().encode(),
        "base64": base64.b64encode(padding + value + b"tail"),
    }[form]
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/file").write_bytes(planted + b"\0" * 100)
    (tmp_path / "other").write_bytes(b"x" * 1000)
    result = _search(tmp_path, value)
    assert result["files"] == 2
    assert [path for path, _form in result["found"]] == [str(tmp_path / "deep/file")]


def test_search_finds_nothing_where_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(secrets.token_bytes(100_000))
    assert _search(tmp_path, b"a value that is not there")["found"] == []


def test_readme_shows_the_playbook() -> None:
    playbook = (ROOT / "quickstart/playbook.yml").read_text(encoding="utf-8").removeprefix("---\n")
    assert f"```yaml\n{playbook}```\n" in (ROOT / "README.md").read_text(encoding="utf-8")
