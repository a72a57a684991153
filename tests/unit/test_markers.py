# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The search for markers finds planted copies of each form: only then does an empty answer mean anything."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import urllib.parse
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import markers as marker_search
from tests.markers import Markers

# With what base64, quoting and escaping change: a template, quotes, control characters, no valid UTF-8.
VALUES = {
    "text": b"Kf83hsPq0aXz71LmWq9d",
    "odd": b"q{{ w }}/+?\"'\\ \n\t\xc3\xbc\xff\0 z==%41 end",
    "base64-looking": b"aGVsbG8gd29ybGQgaGVsbG8=",
}
PLANTS: dict[str, Callable[[bytes], bytes]] = {
    "raw": bytes,
    "hex": lambda value: value.hex().encode(),
    "upper hex": lambda value: value.hex().upper().encode(),
    "URL": lambda value: urllib.parse.quote(value, safe="").encode(),
    "lower URL": lambda value: re.sub(r"%..", lambda code: code[0].lower(), urllib.parse.quote(value, safe="")).encode(),
    "JSON": lambda value: json.dumps({"x": value.decode("latin-1")}).encode(),
    "repr": lambda value: repr(value).encode(),
    **{
        f"{name} behind {shift} bytes": lambda value, shift=shift, encode=encode: encode(b"#" * shift + value + b"tail")
        for shift in range(7)
        for name, encode in (("base64", base64.b64encode), ("base64url", base64.urlsafe_b64encode))
    },
}  # fmt: skip


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("plant", PLANTS)
def test_planted_copy_is_found(plant: str, name: str) -> None:
    markers = Markers(VALUES)
    planted = b"noise " + PLANTS[plant](VALUES[name]) + b" noise"
    assert {finding.marker for finding in markers.search_bytes(planted, "here")} == {name}
    assert markers.search_bytes(b"noise " * 100, "here") == []


def test_findings_tell_the_place_and_never_the_marker() -> None:
    markers = Markers(VALUES)
    found = markers.search_text(f"x {VALUES['text'].decode()} y", "the output")
    assert [(finding.place, finding.marker, finding.form) for finding in found] == [("the output", "text", "raw")]
    assert VALUES["text"].decode() not in repr(found) + repr(markers) + str(markers)


def test_copy_across_the_edge_of_a_chunk_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marker_search, "CHUNK", 64)
    markers = Markers(VALUES)
    for before in range(130):
        (tmp_path / "file").write_bytes(b"." * before + VALUES["text"] + b"." * 70)
        assert [finding.form for finding in markers.search_tree(tmp_path).findings] == ["raw"], before


def test_tree_with_everything_in_it(tmp_path: Path) -> None:
    markers = Markers(VALUES)
    value = VALUES["text"]
    for place in ("content", "a/b/c/deep", ".hidden/.file", "empty/x"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(value)
    (tmp_path / value.decode()).mkdir()
    (tmp_path / "link").symlink_to(value.decode())
    (tmp_path / "hard").hardlink_to(tmp_path / "content")
    (tmp_path / "innocent").write_bytes(b"x" * 1000)
    search = markers.search_tree(tmp_path)
    places = "\n".join(finding.place for finding in search.findings)
    for place in ("content", "a/b/c/deep", ".hidden/.file", "empty/x", "link", "the name of"):
        assert place in places or (place == "content" and "hard" in places), place
    assert value.decode() not in places
    assert (search.files, search.unreadable) == (5, [])
    left = markers.search_tree(tmp_path / "a", frozenset({str(tmp_path / "a" / "b")}))
    assert (left.findings, left.files) == ([], 0)


def test_what_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"x")

    def refuse(*_arguments: object) -> None:
        raise PermissionError(13, "Permission denied", str(tmp_path / "file"))

    monkeypatch.setattr("builtins.open", refuse)
    search = Markers(VALUES).search_tree(tmp_path)
    assert (search.files, search.unreadable) == (0, [f"{tmp_path}/file: Permission denied"])


def test_random_markers_are_long_and_different() -> None:
    markers = Markers.random("a", "b", length=30)
    assert len({markers.value("a"), markers.value("b")}) == 2
    assert len(markers.text("a")) == 30
    assert len(Markers.random("a").value("a")) >= 20
    with pytest.raises(ValueError, match="'short' is so short"):
        Markers({"short": b"abc"})


def test_markers_for_another_machine(tmp_path: Path) -> None:
    """The file runs there by itself, with markers on standard input and no value in its arguments."""
    (tmp_path / "file").write_bytes(VALUES["odd"])
    done = subprocess.run(
        [sys.executable, "-I", marker_search.__file__, "tree", str(tmp_path)],
        input=Markers(VALUES).dump(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    report = json.loads(done.stdout)
    assert [finding[1] for finding in report["findings"]] == ["odd"]
    assert (report["files"], report["unreadable"]) == (1, [])
    assert VALUES["text"].decode() not in done.stdout + done.stderr
