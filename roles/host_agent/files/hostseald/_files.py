# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Small files that are old or new, never a mixture."""

from __future__ import annotations

import json
import os
from typing import Any


def replace_file(path: str, data: bytes, durable: bool, mode: int = 0o600) -> None:
    """Write DATA to PATH at once; with DURABLE it is there after a power cut too. OSError leaves the old content."""
    folder, name = os.path.split(path)
    temporary = os.path.join(folder, f".{name}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        with open(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(data)
            if mode != 0o600:
                os.fchmod(file.fileno(), mode)  # whatever the umask says
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.rename(temporary, path)
    except OSError:
        remove_file(temporary)
        raise
    if durable:
        sync_folder(folder)


def write_json(path: str, value: Any, durable: bool = False) -> None:
    """replace_file with VALUE as JSON."""
    replace_file(path, json.dumps(value).encode(), durable)


def remove_file(path: str) -> bool:
    """Whether there was a file to remove."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def sync_folder(folder: str) -> None:
    """Make renames and removals in FOLDER survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def names(folder: str) -> list[str]:
    """The files of FOLDER, without the unfinished ones, which begin with a dot."""
    return sorted(name for name in os.listdir(folder) if not name.startswith("."))
