# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Small files that are old or new, never a mixture."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping
from typing import Any


def replace_file(path: str, data: bytes, durable: bool, mode: int = 0o600) -> None:
    """Write DATA to PATH at once; with DURABLE it is there after a power cut too. OSError leaves the old content."""
    try:
        with _written(path, data, mode) as file:
            if durable:
                os.fsync(file.fileno())
        os.rename(_beside(path), path)
    except OSError:
        remove_file(_beside(path))
        raise
    if durable:
        sync_folder(os.path.dirname(path))


def replace_files(folder: str, contents: Mapping[str, bytes]) -> dict[str, OSError]:
    """replace_file, durable, for files of FOLDER by name; the errors of those that are not replaced.

    All are written before the first one is waited for, so that the disk gets them together.
    """
    failed = {}
    files = {}
    for name, data in contents.items():
        path = os.path.join(folder, name)
        try:
            files[path] = _written(path, data)
        except OSError as error:
            remove_file(_beside(path))
            failed[name] = error
    for path, file in files.items():
        try:
            with file:
                os.fsync(file.fileno())
            os.rename(_beside(path), path)
        except OSError as error:
            remove_file(_beside(path))
            failed[os.path.basename(path)] = error
    try:
        sync_folder(folder)
    except OSError as error:
        failed.update(dict.fromkeys(contents, error))
    return failed


def _beside(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}")


def _written(path: str, data: bytes, mode: int = 0o600) -> io.FileIO:
    """The open file beside PATH that is to take its place."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    file = io.FileIO(os.open(_beside(path), flags, 0o600), "wb")
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(file.fileno(), rest) :]
        if mode != 0o600:
            os.fchmod(file.fileno(), mode)  # whatever the umask says
    except OSError:
        file.close()
        raise
    return file


def write_json(path: str, value: Any, durable: bool = False, mode: int = 0o600) -> None:
    """replace_file with VALUE as JSON."""
    replace_file(path, json.dumps(value).encode(), durable, mode)


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
