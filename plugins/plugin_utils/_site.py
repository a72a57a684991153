# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The directory that a static web server serves to hosts: ROOT/HOST/ENVIRONMENT/manifest, and envelopes beside it.

All of it may be read by everybody: envelopes are encrypted to their hosts. Names of hosts and environments show.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..module_utils._manifest import MANIFEST_FILE
from ..module_utils._model import HostsealError

_ENVELOPE = re.compile(r"[0-9a-f]{64}")


class Site:
    """ROOT has to be there, unless MISSING_OK: then it is an empty one, for looking at alone."""

    def __init__(self, root: str, missing_ok: bool) -> None:
        self._root = Path(root)
        if not self._root.is_dir() and not (missing_ok and not self._root.exists()):
            raise HostsealError(
                f"publish_to {root} is not a directory on the control node: make the one that is served"
            )

    def has(self, host: str, environment: str, manifest: str, envelopes: Collection[str]) -> bool:
        """Whether MANIFEST is there, and files of the names of ENVELOPES."""
        folder = self._folder(host, environment)
        try:
            same = (folder / MANIFEST_FILE).read_bytes() == manifest.encode()
        except OSError:
            return False
        return same and all((folder / name).is_file() for name in envelopes)

    def put_envelope(self, host: str, environment: str, name: str, text: str) -> None:
        """Write an envelope whose NAME is made of its content; one that is there is this one."""
        path = self._folder(host, environment) / name
        data = text.encode()
        with self._errors():
            if path.is_file() and path.stat().st_size == len(data):
                return
            _replace(path, data)

    def sync(self) -> None:
        """What is written so far outlives a power cut; in one go, as there may be thousands of files."""
        os.sync()

    def put_manifest(self, host: str, environment: str, text: str) -> None:
        """Write a manifest whose envelopes are there."""
        path = self._folder(host, environment) / MANIFEST_FILE
        with self._errors():
            _replace(path, text.encode())

    def prune(self, host: str, environment: str, keep: Collection[str]) -> None:
        """Remove envelopes but those of the names KEEP."""
        folder = self._folder(host, environment)
        with self._errors():
            for name in os.listdir(folder):
                if _ENVELOPE.fullmatch(name) and name not in keep:
                    with suppress(FileNotFoundError):
                        (folder / name).unlink()

    def _folder(self, host: str, environment: str) -> Path:
        """Names of hosts and environments are checked when they are declared: none leads out of the directory."""
        return self._root / host / environment

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise HostsealError(
                f"publish_to {error.filename or self._root} can't be written: {error.strerror}"
            ) from None


def _replace(path: Path, data: bytes) -> None:
    """Old or new, whenever it is read."""
    for folder in (path.parent.parent, path.parent):
        with suppress(FileExistsError):
            folder.mkdir()
            folder.chmod(0o755)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)
        beside.replace(path)
    except OSError:
        with suppress(OSError):
            beside.unlink()
        raise
