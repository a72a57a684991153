# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Search file systems for a value: raw, in base64, in hex. Runs on the host, `python3 - DIRECTORY... < value`.

The value comes on standard input and is never printed. Reads every regular file below each DIRECTORY on the same
file system. Prints JSON: {"files", "bytes", "unreadable": count, "found": [[path, form], ...]}.
"""

from __future__ import annotations

import base64
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from typing import BinaryIO

CHUNK = 4 << 20


def forms(value: bytes) -> dict[str, bytes]:
    """What to look for, by the name of the form."""
    found = {"raw": value, "hex": value.hex().encode(), "HEX": value.hex().upper().encode()}
    # In the midst of something longer, base64 of the value begins at one of three places. Characters that
    # neighbours would change are left out.
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + value)
        found[f"base64 at {shift}"] = encoded[-(-shift * 4 // 3) : (shift + len(value)) * 4 // 3]
    return found


def search_stream(stream: BinaryIO, wanted: dict[str, bytes]) -> tuple[set[str], int]:
    """Forms that are in STREAM, and its length."""
    overlap = max(map(len, wanted.values())) - 1
    found: set[str] = set()
    tail, length = b"", 0
    while chunk := stream.read(CHUNK):
        length += len(chunk)
        data = tail + chunk
        found |= {form for form, pattern in wanted.items() if pattern in data}
        tail = data[-overlap:]
    return found, length


def files(top: str) -> Iterator[str]:
    """Regular files below TOP that are on its file system."""
    device = os.lstat(top).st_dev
    for directory, subdirectories, names in os.walk(top):
        subdirectories[:] = [
            name for name in subdirectories if _on(os.path.join(directory, name), device, stat.S_ISDIR)
        ]
        for name in names:
            path = os.path.join(directory, name)
            if _on(path, device, stat.S_ISREG):
                yield path


def _on(path: str, device: int, is_kind: Callable[[int], bool]) -> bool:
    try:
        status = os.lstat(path)
    except OSError:
        return False
    # Overlay file systems give files the device of the layer they are in; directories tell mounts apart.
    return is_kind(status.st_mode) and (is_kind is stat.S_ISREG or status.st_dev == device)


def search(tops: list[str], value: bytes) -> dict[str, object]:
    """The whole search."""
    wanted = forms(value)
    count = length = unreadable = 0
    found: list[list[str]] = []
    for top in tops:
        for path in files(top):
            try:
                with open(path, "rb") as stream:
                    hits, size = search_stream(stream, wanted)
            except OSError:
                unreadable += 1
                continue
            count += 1
            length += size
            found += [[path, form] for form in sorted(hits)]
    return {"files": count, "bytes": length, "unreadable": unreadable, "found": found}


if __name__ == "__main__":
    print(json.dumps(search(sys.argv[1:], sys.stdin.buffer.read())))
