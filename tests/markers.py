# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Search for values that must not be there: in bytes, texts, trees of files, processes, a whole machine.

A marker is a random value that stands for a secret. Findings name it and its form, nothing here prints it. Only the
standard library is used, so that the same file runs on a host: `python3 -c SOURCE ACTION ARGUMENT...` with a line of
JSON on standard input, {name: value in hex}; the answer is JSON.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import secrets
import stat
import string
import sys
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

CHUNK = 4 << 20
SHORTEST = 12
FIRST_LOOKS = 10
# File systems of the kernel's own making. Everything else that is mounted can hold files.
_PSEUDO = frozenset(
    {"autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "efivarfs", "fusectl"}
    | {"mqueue", "nsfs", "proc", "pstore", "securityfs", "selinuxfs", "sysfs", "tracefs"}
)


class Finding(NamedTuple):
    """MARKER was found in PLACE in FORM."""

    place: str
    marker: str
    form: str


def forms(value: bytes) -> dict[str, bytes]:
    """What VALUE looks like in a file, by the name of the form; equal ones once."""
    found = {
        "raw": value,
        "hex": value.hex().encode(),
        "HEX": value.hex().upper().encode(),
        "url": urllib.parse.quote(value, safe="").encode(),
        "url lower": re.sub(r"%..", lambda code: code[0].lower(), urllib.parse.quote(value, safe="")).encode(),
        "escaped": repr(value)[2:-1].encode(),
        "json": json.dumps(value.decode("latin-1"))[1:-1].encode(),
    }
    # In the midst of something longer, base64 of the value begins at one of three places. Characters that depend on
    # the neighbours are left out.
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + value)[-(-shift * 4 // 3) : (shift + len(value)) * 4 // 3]
        found[f"base64 at {shift}"] = encoded
        found[f"base64url at {shift}"] = encoded.replace(b"+", b"-").replace(b"/", b"_")
    return {form: pattern for pattern, form in {pattern: form for form, pattern in reversed(found.items())}.items()}


class Markers:
    """Values by name, and where they are found."""

    def __init__(self, values: Mapping[str, bytes]) -> None:
        for name, value in values.items():
            if len(value) < SHORTEST:
                raise ValueError(f"marker {name!r} is so short that it would be found by chance")
        self._values = dict(values)
        self._patterns = [
            (name, form, pattern) for name, value in values.items() for form, pattern in forms(value).items()
        ]
        self._overlap = max((len(pattern) for _name, _form, pattern in self._patterns), default=1) - 1

    def __repr__(self) -> str:
        return f"Markers({', '.join(self._values)})"

    @classmethod
    def random(cls, *names: str, length: int = 24) -> Markers:
        """Letters and digits, in which no form is cut by quoting."""
        letters = string.ascii_letters + string.digits
        return cls({name: "".join(secrets.choice(letters) for _place in range(length)).encode() for name in names})

    def __or__(self, other: Markers) -> Markers:
        return Markers({**self._values, **other._values})

    def value(self, name: str) -> bytes:
        return self._values[name]

    def text(self, name: str) -> str:
        return self._values[name].decode()

    def dump(self) -> str:
        """For standard input of this file on a host; one line."""
        return json.dumps({name: value.hex() for name, value in self._values.items()}) + "\n"

    @classmethod
    def load(cls, line: str) -> Markers:
        return cls({name: bytes.fromhex(value) for name, value in json.loads(line).items()})

    # -- searches -----------------------------------------------------------------------------------------------------

    def search_stream(self, stream: BinaryIO, place: str) -> list[Finding]:
        """Read STREAM to its end."""
        found: dict[tuple[str, str], None] = {}
        tail = b""
        while chunk := stream.read(CHUNK):
            data = tail + chunk
            found.update({(name, form): None for name, form, pattern in self._patterns if pattern in data})
            tail = data[-self._overlap :] if self._overlap else b""
        return [Finding(self._masked(place), name, form) for name, form in found]

    def _masked(self, place: str) -> str:
        for name, _form, pattern in self._patterns:
            place = place.replace(pattern.decode("latin-1"), f"<{name}>")
        return place

    def search_bytes(self, data: bytes, place: str) -> list[Finding]:
        return self.search_stream(io.BytesIO(data), place)

    def search_text(self, text: str, place: str) -> list[Finding]:
        return self.search_bytes(text.encode(errors="surrogateescape"), place)

    def search_tree(self, top: str | Path, leave_out: frozenset[str] = frozenset()) -> Search:
        """Every file below TOP: content, name, and where links point to. LEAVE_OUT holds directories and files."""
        search = Search(self)
        search.tree(str(top), leave_out)
        return search


class Search:
    """A search of files: what was found, and how much was read. Nothing is left out in silence."""

    def __init__(self, markers: Markers) -> None:
        self._markers = markers
        self._seen: set[tuple[int, int]] = set()
        self.findings: list[Finding] = []
        self.unreadable: list[str] = []
        self.files = 0
        self.bytes = 0

    def tree(self, top: str, leave_out: frozenset[str] = frozenset()) -> None:
        """Add what is below TOP."""
        for directory, subdirectories, names in os.walk(top, onerror=self._trouble):
            subdirectories[:] = [name for name in subdirectories if os.path.join(directory, name) not in leave_out]
            for name in (*subdirectories, *names):
                path = os.path.join(directory, name)
                if path not in leave_out:
                    self.findings += self._markers.search_bytes(os.fsencode(name), f"the name of {directory}/…")
                    self._entry(path)

    def _trouble(self, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            self.unreadable.append(f"{error.filename}: {error.strerror}")

    def _entry(self, path: str) -> None:
        try:
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                self.findings += self._markers.search_bytes(os.fsencode(os.readlink(path)), f"link {path}")
            if not stat.S_ISREG(status.st_mode) or (status.st_dev, status.st_ino) in self._seen:
                return
            self._seen.add((status.st_dev, status.st_ino))
            with open(path, "rb") as stream:
                self.findings += self._markers.search_stream(stream, path)
                self.bytes += stream.tell()
            self.files += 1
        except OSError as error:
            self._trouble(error)

    def machine(self, *leave_out: str) -> None:
        """Add every file system that is mounted and can be written, but those that are mounted on LEAVE_OUT."""
        mounts = list(_mounts())
        devices = {device for device, place, _kind, _options in mounts if place in leave_out}
        places = frozenset(place for _device, place, _kind, _options in mounts) | frozenset(leave_out)
        for device, place, kind, options in mounts:
            # Docker's overlays show directories that are searched by themselves.
            docker_overlay = kind == "overlay" and place != "/"
            if kind in _PSEUDO or device in devices or docker_overlay or "ro" in options or place.startswith("/proc"):
                continue
            if os.path.isdir(place):
                self.tree(place, places - {place})
            else:
                self._entry(place)

    def report(self) -> str:
        """As JSON."""
        return json.dumps(
            {"findings": self.findings, "unreadable": self.unreadable, "files": self.files, "bytes": self.bytes}
        )


def _mounts() -> Iterator[tuple[str, str, str, list[str]]]:
    """Device, place, kind and options, see proc_pid_mountinfo(5)."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        fields, _dash, rest = line.partition(" - ")
        _id, _parent, device, _root, place, options, *_more = fields.split(" ")
        yield device, place.encode().decode("unicode_escape"), rest.split(" ")[0], options.split(",")


class Collector(threading.Thread):
    """Collects in the background what exists for a short time only; search it when the markers are all known."""

    def __init__(self, look: Callable[[], Iterator[tuple[str, bytes]]], pause: float) -> None:
        super().__init__(daemon=True)
        self._look = look
        self._pause = pause
        self._stop_asked = threading.Event()
        self._digests: set[bytes] = set()
        self.pieces: list[tuple[str, bytes]] = []
        self.rounds = 0

    def run(self) -> None:
        while not self._stop_asked.is_set():
            self._round()
            self._stop_asked.wait(self._pause)
        self._round()

    def _round(self) -> None:
        self.rounds += 1
        for place, data in self._look():
            digest = hashlib.blake2b(data).digest()
            if digest not in self._digests:
                self._digests.add(digest)
                self.pieces.append((place, data))

    def finish(self) -> None:
        """Stop after one last look."""
        self._stop_asked.set()
        self.join()

    def search(self, markers: Markers) -> list[Finding]:
        return [finding for place, data in self.pieces for finding in markers.search_bytes(data, place)]


def process_collector(pause: float = 0.05) -> Collector:
    """Arguments and environments of all processes of the machine. Those that are closed even to root from the
    beginning (of a sandbox around it all) are left out, a later one is an error."""
    closed: set[str] = set()

    def read(pid: str) -> Iterator[tuple[str, bytes]]:
        for what in ("cmdline", "environ"):
            with suppress(FileNotFoundError, ProcessLookupError):
                yield f"/proc/{pid}/{what}", Path(f"/proc/{pid}/{what}").read_bytes()

    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            list(read(pid))
        except PermissionError:
            closed.add(pid)

    looks: dict[str, int] = {}

    def look() -> Iterator[tuple[str, bytes]]:
        nonlocal looks
        # A new process is looked at some times: it is a copy of its parent at first. Later it hardly changes.
        looks = {pid: looks.get(pid, 0) + 1 for pid in filter(str.isdigit, os.listdir("/proc")) if pid not in closed}
        for pid, count in looks.items():
            if count <= FIRST_LOOKS:
                yield from read(pid)

    return Collector(look, pause)


def file_collector(*tops: Path, pause: float = 0.05) -> Collector:
    """What files below TOPS hold, also those that are soon removed."""
    known: dict[str, tuple[int, int, int]] = {}

    def look() -> Iterator[tuple[str, bytes]]:
        for top in tops:
            for directory, _subdirectories, names in os.walk(top):
                for name in names:
                    path = os.path.join(directory, name)
                    try:
                        status = os.lstat(path)
                        state = (status.st_ino, status.st_size, status.st_mtime_ns)
                        if known.get(path) == state or not stat.S_ISREG(status.st_mode):
                            continue
                        known[path] = state
                        yield path, Path(path).read_bytes()
                    except FileNotFoundError:
                        continue

    return Collector(look, pause)


def main() -> None:
    """tree TOP...: search trees. machine LEAVE_OUT...: search all file systems. processes: until input ends."""
    action, *arguments = sys.argv[1:]
    markers = Markers.load(sys.stdin.readline())
    search = Search(markers)
    if action == "tree":
        for top in arguments:
            search.tree(os.path.expanduser(top))
    elif action == "machine":
        search.machine(*arguments)
    elif action == "processes":
        collector = process_collector()
        collector.start()
        print("ready", flush=True)
        sys.stdin.read()
        collector.finish()
        search.findings = collector.search(markers)
        search.files = len(collector.pieces)
    else:
        raise SystemExit(f"unknown action {action}")
    print(search.report())


if __name__ == "__main__":
    main()
