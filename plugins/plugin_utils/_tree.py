# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The files of a store in a folder, made to be committed to Git: their names, their text, reading and writing them.

    hostseal.json                               which store this is
    environments/prod/environment.json
    environments/prod/hosts/db1.json
    environments/prod/secrets/password.json     with all versions that are kept, the newest last

A file has a digest of all else in it. Two branches that changed the same file differ in that line, so Git never joins
halves of both without a conflict, and what was joined by hand is refused. It keeps out accidents, not attackers: who
may commit is trusted no more than who may write to a database. No symbolic link is followed, the folder itself or below.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..module_utils._jose import canonical
from ..module_utils._model import HostsealError, check_name, shorten
from ._database import WAIT_SECONDS
from ._database_errors import LOCKED, TransientError

MARKER = "hostseal.json"
# Of the files; the state has its own.
FORMAT = 1
_ENVIRONMENTS = "environments"
# Servers for Git refuse files of 100 MB.
_LARGEST = 64 << 20
_MANY = 100
_STRAY = re.compile(r"\.hostseal-[0-9a-f]{16}\.tmp")
_CONFLICT = re.compile(r"^(<{7}|>{7}) ", re.MULTILINE)
_NUMBERS = {"number": 2**31 - 1, "last_number": 2**31 - 1, "current_number": 2**31 - 1}
_MAY_BE_NULL = {"engine_mount_point", "current_number"}
_SHAPES: dict[str, dict[str, type]] = {
    "store": {"created_at": int, "format": int},
    "environment": {
        "name": str,
        "backend": str,
        "key_name": str,
        "engine_mount_point": str,
        "signing_key": str,
        "signing_kid": str,
        "key_set": str,
        "created_at": int,
    },
    "host": {"environment": str, "name": str, "kid": str, "record": str, "enrolled_at": int},
    "secret": {"environment": str, "name": str, "last_number": int, "current_number": int, "versions": list},
    "version": {"number": int, "id": str, "ciphertext": str, "fingerprint": str, "created_at": int},
}


@dataclass(frozen=True)
class File:
    """What a file says. kind is store, environment, host or secret, digest the SHA-256 of its text, size its bytes."""

    kind: str
    content: dict[str, Any]
    digest: str
    size: int


def path_of(kind: str, content: Mapping[str, Any]) -> str:
    """Where in the folder the file of an environment, a host or a secret is."""
    if kind == "environment":
        return f"{_ENVIRONMENTS}/{_file_name(content['name'])}/environment.json"
    return f"{_ENVIRONMENTS}/{_file_name(content['environment'])}/{kind}s/{_file_name(content['name'])}.json"


def kind_of(path: str) -> str:
    """Whether the file at a path is of an environment, a host or a secret."""
    folder, leaf = path.split("/")[-2:]
    return folder[:-1] if folder in ("hosts", "secrets") and path.count("/") == 3 else leaf.partition(".")[0]


@functools.lru_cache(maxsize=1 << 16)
def _file_name(name: str) -> str:
    """NAME, unless on some file system another name could be the same file, or it is too long, or has a colon."""
    if re.fullmatch(r"[a-z0-9_][a-z0-9_.@-]{0,199}", name):
        return name
    readable = re.sub(r"[^A-Za-z0-9_.@-]", "_", name)[:180]
    return f"{readable}~{hashlib.sha256(name.encode()).hexdigest()[:12]}"


def render(content: Mapping[str, Any]) -> str:
    """The text of a file: sorted keys, one value a line."""
    return json.dumps({**content, "sha256": _sum(content)}, indent=2, sort_keys=True) + "\n"


def digest(text: str | bytes) -> str:
    """What two texts of a file are told apart by."""
    return hashlib.sha256(text.encode() if isinstance(text, str) else text).hexdigest()


def parse(kind: str, text: bytes) -> File:
    """The file that has TEXT; HostsealError says what is wrong with it."""
    try:
        decoded = text.decode()
        if _CONFLICT.search(decoded):
            raise HostsealError(
                "has the marks of a conflict in Git: take the file of one side with 'git checkout --ours' or"
                " 'git checkout --theirs', then 'git add', and declare again what the other side had changed"
            )
        content = json.loads(decoded)
    except (ValueError, RecursionError):
        raise HostsealError("is not JSON") from None
    if not isinstance(content, dict):
        raise HostsealError("is not a JSON object")
    if kind == "store" and content.get("format", FORMAT) != FORMAT:
        raise HostsealError(f"says that the files are of another format than {FORMAT}: upgrade this collection")
    given = content.pop("sha256", None)
    _check_shape(kind, content)
    if given != _sum(content):
        raise HostsealError(
            "has a sha256 that is not of what it says: it was edited by hand, or put together from two. Have Git bring"
            " back one that was committed"
        )
    return File(kind, content, digest(text), len(text))


def _sum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(content)).hexdigest()


def _check_shape(kind: str, content: Mapping[str, Any]) -> None:
    shape = _SHAPES[kind]
    odd = sorted(shape.keys() ^ content.keys())
    if odd:
        raise HostsealError(f"has {'no' if odd[0] in shape else 'the unknown'} member {shorten(odd[0])}")
    for name, value in content.items():
        if not (value is None and name in _MAY_BE_NULL) and not _is_of(shape[name], value, _NUMBERS.get(name)):
            raise HostsealError(f"has something else in {name} than belongs there")
    if kind in ("host", "secret"):
        check_name("environment", content["environment"])
    if "name" in content:
        check_name(kind, content["name"])
    last = 0
    for version in content.get("versions", ()):
        if not isinstance(version, dict):
            raise HostsealError("has a version that is not an object")
        _check_shape("version", version)
        if version["number"] <= last:
            raise HostsealError(f"has version {version['number']} twice or out of order")
        last = version["number"]


def _is_of(kind: type, value: object, largest: int | None) -> bool:
    if isinstance(value, str):
        # A JWS with several signatures has several lines.
        return kind is str and value.isascii() and value.replace("\n", "").isprintable()
    if isinstance(value, int) and not isinstance(value, bool):
        return kind is int and 0 <= value <= (largest or 2**63 - 1)
    return isinstance(value, list) and kind is list


class Tree:
    """The folder at ROOT. Paths are relative to it."""

    def __init__(self, root: Path, label: str) -> None:
        self._root = root
        self._label = label
        # What was read, by path, with what tells whether it is still the same file.
        self._seen: dict[str, tuple[tuple[int, ...], File]] = {}
        # Written, and not in their places yet: path by temporary path.
        self._staged: dict[str, str] = {}
        self._kept: dict[str, int] | None = None

    # Reading

    def marker(self) -> File | None:
        """The file that makes a folder a store; None when there is neither it nor anything of a store."""
        if self._root.is_symlink():
            # It could have been committed, to have files written elsewhere.
            raise self._trouble("", "is a symbolic link: name the folder itself")
        try:
            with self._open("") as top:
                names = os.listdir(top)
                if MARKER in names:
                    return self._file(top, MARKER, "store")
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._trouble("", f"can't be read: {error.strerror}") from None
        if _ENVIRONMENTS in names:
            raise self._trouble(MARKER, "is missing: have Git bring it back")
        return None

    def read(self, tidy: bool, noted: Mapping[str, str | None]) -> dict[str, File]:
        """All files but the marker, by path. NOTED are texts that count more than what is in a file (None: removed).

        With TIDY what a run left that was cut off is removed.
        """
        if tidy:
            # Where the marker was being made; and all else is tidied where it is read.
            with contextlib.suppress(OSError), self._open("") as top:
                for name in os.listdir(top):
                    _tidy(top, name)
        found = {path: parse(kind_of(path), text.encode()) for path, text in noted.items() if text is not None}
        for environment in self._folders(_ENVIRONMENTS):
            path = f"{_ENVIRONMENTS}/{environment}"
            inside = self._folders(path)
            for kind, folder in (("environment", path), ("host", f"{path}/hosts"), ("secret", f"{path}/secrets")):
                if folder == path or _leaf(folder) in inside:
                    found.update(self._read_folder(folder, kind, noted, tidy))
        self._seen = {path: entry for path, entry in self._seen.items() if path in found}
        for file in found.values():
            if file.kind != "environment":
                path = path_of("environment", {"name": file.content["environment"]})
                if path not in found:
                    raise self._trouble(path, f"is missing, and there is a {file.kind} in it: have Git bring it back")
        return found

    def _folders(self, path: str) -> list[str]:
        """The folders in a folder, none when it is not there."""
        try:
            with self._open(path) as folder, os.scandir(folder) as entries:
                found = sorted(
                    (entry.name, entry.is_symlink(), entry.is_dir(follow_symlinks=False)) for entry in entries
                )
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._trouble(path, f"can't be read: {error.strerror}") from None
        for name, is_link, _is_folder in found:
            if is_link and not name.endswith(".json"):
                raise self._trouble(f"{path}/{name}", "is a symbolic link, which is not followed")
        return [name for name, _is_link, is_folder in found if is_folder]

    def _read_folder(
        self, path: str, kind: str, noted: Mapping[str, str | None], tidy: bool
    ) -> Iterator[tuple[str, File]]:
        """The files of KIND in a folder; what else lies there is nobody's business."""
        try:
            with self._open(path) as folder:
                for name in sorted(os.listdir(folder)):
                    if tidy:
                        _tidy(folder, name)
                    where = f"{path}/{name}"
                    is_ours = name == "environment.json" if kind == "environment" else name.endswith(".json")
                    if not is_ours or where in noted:
                        continue
                    file = self._file(folder, where, kind)
                    place = path_of(kind, file.content)
                    if place != where:
                        raise self._trouble(where, f"has what belongs into {place}: it was moved or copied")
                    yield where, file
        except FileNotFoundError:
            # Another run has just removed the last file in it, and the folder.
            return
        except OSError as error:
            raise self._trouble(path, f"can't be read: {error.strerror}") from None

    def _file(self, folder: int, where: str, kind: str) -> File:
        """The file at the path WHERE, in the folder of it that is open."""
        try:
            if where in self._seen:
                signature, known = self._seen[where]
                if _signature(os.stat(_leaf(where), dir_fd=folder, follow_symlinks=False)) == signature:
                    return known
            descriptor = os.open(
                _leaf(where), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder
            )
            with os.fdopen(descriptor, "rb") as file:
                found = os.fstat(descriptor)
                signature = _signature(found)
                if not stat.S_ISREG(found.st_mode):
                    raise self._trouble(where, "is not a regular file")
                if found.st_size > _LARGEST:
                    raise self._trouble(where, f"has more than {_LARGEST} bytes")
                text = file.read(_LARGEST)
        except OSError as error:
            reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
            raise self._trouble(where, f"can't be read: {reason}") from None
        try:
            parsed = parse(kind, text)
        except HostsealError as error:
            raise self._trouble(where, str(error)) from None
        self._seen[where] = (signature, parsed)
        return parsed

    @contextlib.contextmanager
    def _many(self) -> Iterator[None]:
        """Meanwhile folders stay open that files are written to."""
        self._kept = {}
        try:
            yield
        finally:
            for folder in self._kept.values():
                os.close(folder)
            self._kept = None

    @contextlib.contextmanager
    def _open(self, path: str, make: bool = False) -> Iterator[int]:
        """A folder while the context lasts; with MAKE it is made when it is not there."""
        if self._kept is not None and path in self._kept:
            yield self._kept[path]
            return
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
        folder = os.open(self._root, flags)
        try:
            for part in path.split("/") if path else ():
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, 0o755, dir_fd=folder)
                inner = os.open(part, flags, dir_fd=folder)
                os.close(folder)
                folder = inner
            if self._kept is not None:
                self._kept[path] = os.dup(folder)
            yield folder
        finally:
            os.close(folder)

    # Writing

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """No other run writes meanwhile, whoever runs it."""
        end = time.monotonic() + WAIT_SECONDS
        with contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(self._open(""))
                while not _is_locked(folder):
                    if time.monotonic() > end:
                        raise HostsealError(f"store {self._label}: {LOCKED}")
                    time.sleep(0.02)
            except OSError as error:
                raise self._trouble("", f"can't be locked: {error.strerror}") from None
            yield

    def make_root(self) -> None:
        """Have the folder."""
        try:
            self._root.mkdir(mode=0o755, parents=True, exist_ok=True)
        except OSError as error:
            raise self._trouble("", f"can't be made: {error.strerror}") from None

    def refuse_changed(self, paths: Iterable[str]) -> None:
        """TransientError when one of the files is another one than was read."""
        with self._many():
            for path in paths:
                if self._stat(path) != self._seen.get(path, (None, None))[0]:
                    raise TransientError(
                        f"store {self._label}: {path} was changed by something else; nothing was changed"
                    )

    def stage(self, texts: Mapping[str, str | None]) -> None:
        """Write the texts beside the places that they are for, durably; None is for a file to be removed."""
        path = ""
        try:
            with self._many():
                for path, text in texts.items():
                    if text is not None:
                        self._write(path, text.encode())
                if len(self._staged) > _MANY and sys.platform == "linux":
                    # One wait instead of thousands. Elsewhere it does not wait.
                    os.sync()
                else:
                    for path in self._staged:
                        self._sync(path)
        except OSError as error:
            raise self._trouble(
                self._staged.get(path, path), f"can't be written: {error.strerror}; nothing was changed"
            ) from None

    def publish(self, texts: Mapping[str, str | None]) -> None:
        """Bring what was staged to its place, and remove what is to be removed."""
        path = ""
        try:
            with self._many():
                for temporary, path in list(self._staged.items()):
                    with self._open(path.rpartition("/")[0]) as folder:
                        os.rename(_leaf(temporary), _leaf(path), src_dir_fd=folder, dst_dir_fd=folder)
                    del self._staged[temporary]
            for path in [path for path, text in texts.items() if text is None]:
                self._remove(path)
            for folder_path in sorted({parent for path in texts for parent in _parents(path)}):
                with contextlib.suppress(FileNotFoundError):
                    self._sync(folder_path)
        except OSError as error:
            raise self._trouble(
                path, f"can't be written: {error.strerror}. The change is kept, the next run writes the file"
            ) from None

    def discard(self) -> None:
        """Remove what was staged and is not wanted any more."""
        for temporary in self._staged:
            with contextlib.suppress(OSError):
                self._remove(temporary)
        self._staged.clear()

    def current(self, path: str) -> str | None:
        """The digest of what is in a file, None when there is none."""
        try:
            with self._open(path.rpartition("/")[0]) as folder:
                descriptor = os.open(_leaf(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
                with os.fdopen(descriptor, "rb") as file:
                    return digest(file.read(_LARGEST))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._trouble(path, f"can't be read: {error.strerror}") from None

    def _write(self, path: str, text: bytes) -> None:
        if len(text) > _LARGEST:
            raise HostsealError(
                f"store {self._label}: {path} would have more than {_LARGEST} bytes: keep fewer versions with"
                " keep_versions. Nothing was changed"
            )
        parent = path.rpartition("/")[0]
        temporary = f"{parent}/.hostseal-{secrets.token_hex(8)}.tmp".lstrip("/")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._open(parent, make=True) as folder:
            # As Git would make it: there is nothing in clear in it.
            descriptor = os.open(_leaf(temporary), flags, 0o644, dir_fd=folder)
            self._staged[temporary] = path
            with os.fdopen(descriptor, "wb") as file:
                file.write(text)

    def _sync(self, path: str) -> None:
        with self._open(path.rpartition("/")[0]) as folder:
            descriptor = os.open(_leaf(path) or ".", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _remove(self, path: str) -> None:
        parent = path.rpartition("/")[0]
        with contextlib.suppress(FileNotFoundError), self._open(parent) as folder:
            os.unlink(_leaf(path), dir_fd=folder)
        # Git knows no empty folders.
        while parent.count("/"):
            try:
                with self._open(parent.rpartition("/")[0]) as folder:
                    os.rmdir(_leaf(parent), dir_fd=folder)
            except OSError:
                return
            parent = parent.rpartition("/")[0]

    def _stat(self, path: str) -> tuple[int, ...] | None:
        try:
            with self._open(path.rpartition("/")[0]) as folder:
                return _signature(os.stat(_leaf(path), dir_fd=folder, follow_symlinks=False))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._trouble(path, f"can't be read: {error.strerror}") from None

    def _trouble(self, path: str, reason: str) -> HostsealError:
        return HostsealError(f"store {self._label}: {path} {reason}" if path else f"store {self._label} {reason}")


def _tidy(folder: int, name: str) -> None:
    """Remove the file NAME in a folder that is open if it is what a run was writing when it was cut off."""
    if _STRAY.fullmatch(name):
        with contextlib.suppress(OSError):
            os.unlink(name, dir_fd=folder)


def _leaf(path: str) -> str:
    return path.rpartition("/")[2]


def _parents(path: str) -> Iterator[str]:
    while path:
        path = path.rpartition("/")[0]
        yield path


def _signature(found: os.stat_result) -> tuple[int, ...]:
    return (found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _is_locked(folder: int) -> bool:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
