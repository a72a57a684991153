# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The tmpfs with the volumes' files, swapped as a set.

    volumes/prod.db/            0755, what Docker binds; stays the same directory while a container may hold it
        ..1700000000000/        one generation, named after the envelope's time of issue
            db_password
        ..data                  -> ..1700000000000
        db_password             -> ..data/db_password

Renaming a new ``..data`` over the old one changes all files at once (Kubernetes' AtomicWriter does the same). The
generation before stays for a moment: somebody may have read the old link and be about to follow it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from typing import Any

from ._envelope import File
from ._files import names
from ._model import MAX_ID, HostsealError

# The socket by which a container reports, see _reports.
REPORT = "..report"
_GENERATION = re.compile(r"\.\.[0-9]+")


class Volumes:
    """ROOT is the tmpfs, PUBLISHED the read-only view of it that Docker gets.

    OWNER_OF_ZERO are the host's uid and gid of a container's root: not 0 when Docker remaps users (userns-remap).
    """

    def __init__(self, root: str, published: str, owner_of_zero: tuple[int, int] = (0, 0)) -> None:
        self._root = root
        self._published = published
        self._owner_of_zero = owner_of_zero
        self._tmpfs: tuple[int, int] | None = None

    def path(self, volume: str) -> str:
        """The directory that Docker binds."""
        return os.path.join(self._published, volume)

    def check(self) -> None:
        """HostsealError unless there is a tmpfs of its own, and Docker sees the same one.

        Which file system it is, is looked up once: an unmounted one leaves a directory of another file system, and the
        id of a tmpfs is random (statfs(2); zero before Linux 6.0).
        """
        file_system = (os.stat(self._root).st_dev, os.statvfs(self._root).f_fsid)
        if file_system != self._tmpfs:
            self._tmpfs_options()
            self._tmpfs = file_system
        if not self._same(self._root, self._published):
            raise HostsealError(f"{self._published} is not a view of {self._root}: start its mount unit")

    def _tmpfs_options(self) -> str:
        """From /proc/self/mountinfo, see proc_pid_mountinfo(5). It is long on a host with many containers."""
        device = os.stat(self._root).st_dev
        with open("/proc/self/mountinfo", "rb") as file:
            mounts = file.read()
        place = re.escape(f" {os.major(device)}:{os.minor(device)} / {self._root} ".encode())
        found = re.search(place + rb"[^\n]* - tmpfs [^ \n]+ ([^\n]+)", mounts)
        if found:
            return found[1].decode("ascii", "replace")
        raise HostsealError(f"{self._root} is not a tmpfs: nothing is written to it; start its mount unit")

    @staticmethod
    def _same(one: str, other: str) -> bool:
        try:
            return os.path.samestat(os.stat(one), os.stat(other))
        except OSError:
            return False

    def status(self) -> dict[str, Any]:
        """Health and size in bytes for the control API."""
        try:
            self.check()
            options: str | None = self._tmpfs_options()
            reason = None
        except (HostsealError, OSError) as error:
            options = None
            reason = str(error)
        size = os.statvfs(self._root)
        return {
            "ok": options is not None,
            "noswap": options is not None and "noswap" in options.split(","),
            "size": size.f_frsize * size.f_blocks if options is not None else None,
            "free": size.f_frsize * size.f_bavail if options is not None else None,
            "reason": reason,
        }

    def names(self) -> list[str]:
        """The volumes that have a directory."""
        return names(self._root)

    def current(self, volume: str) -> int | None:
        """Issue time of the generation that containers see."""
        try:
            target = os.readlink(os.path.join(self._root, volume, "..data"))
        except OSError:
            return None
        return int(target[2:]) if _GENERATION.fullmatch(target) else None

    def is_prepared(self, volume: str, issued_at: int) -> bool:
        """Whether a generation is there, seen or not."""
        return os.path.isdir(os.path.join(self._root, volume, f"..{issued_at}"))

    def make(self, volume: str) -> str:
        """Make VOLUME's directory, empty when it was not there."""
        self.check()
        folder = os.path.join(self._root, volume)
        _make_folder(folder)
        if not self._same(folder, self.path(volume)):
            raise HostsealError(f"{self.path(volume)} does not show {folder}")
        return folder

    def prepare(self, volume: str, issued_at: int, files: Iterable[File]) -> None:
        """Write a generation that nobody sees yet. On HostsealError or OSError nothing of it is left."""
        folder = self.make(volume)
        complete = os.path.join(folder, f"..{issued_at}")
        if self.is_prepared(volume, issued_at):
            return
        self.settle(volume)  # never three generations: the file system is small
        generation = os.path.join(folder, "..writing")
        _remove_tree(generation)
        try:
            _make_folder(generation)
            for file in files:
                parent = generation
                *parents, name = file.target.split("/")
                for part in parents:
                    parent = os.path.join(parent, part)
                    _make_folder(parent)
                self._write(os.path.join(parent, name), file)
            os.rename(generation, complete)
        except (HostsealError, OSError):
            _remove_tree(generation)
            raise

    def _write(self, path: str, file: File) -> None:
        uid, gid = self._owner_of_zero[0] + file.uid, self._owner_of_zero[1] + file.gid
        if max(uid, gid) > MAX_ID:
            raise HostsealError(f"owner {file.uid}:{file.gid} of {file.target!r} is outside Docker's user namespace")
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            data = memoryview(file.data)
            while data:
                data = data[os.write(handle, data) :]
            # The mode first: afterwards the file may be another user's, and changing it would need CAP_FOWNER.
            os.fchmod(handle, file.mode)
            os.fchown(handle, uid, gid)
        finally:
            os.close(handle)

    def discard(self, volume: str, issued_at: int) -> None:
        """Remove a prepared generation that is not going to be published."""
        if self.current(volume) != issued_at:
            _remove_tree(os.path.join(self._root, volume, f"..{issued_at}"))

    def publish(self, volume: str, issued_at: int) -> None:
        """Show a prepared generation instead of the one before, which is left to a later settle()."""
        folder = os.path.join(self._root, volume)
        before = self.current(volume)
        link = os.path.join(folder, "..new")
        if os.path.lexists(link):
            os.unlink(link)
        os.symlink(f"..{issued_at}", link)
        os.rename(link, os.path.join(folder, "..data"))
        self.settle(volume, keep=before)

    def settle(self, volume: str, keep: int | None = None) -> None:
        """Make the names in a volume those of its generation: ends a swap, also one that a crash cut off."""
        folder = os.path.join(self._root, volume)
        if not os.path.isdir(folder):
            return
        issued_at = self.current(volume)
        generation = f"..{issued_at}" if issued_at is not None else None
        wanted = set(os.listdir(os.path.join(folder, generation))) if generation else set()
        present = set(os.listdir(folder))
        for name in wanted - present:
            os.symlink(f"..data/{name}", os.path.join(folder, name))
        for name in present - wanted - {"..data", REPORT, generation, f"..{keep}"}:
            _remove_tree(os.path.join(folder, name))

    def wipe(self, volume: str, held: bool) -> None:
        """Remove a volume's files; its directory too unless a container holds it (HELD)."""
        folder = os.path.join(self._root, volume)
        if not os.path.isdir(folder):
            return
        for name in sorted(os.listdir(folder), key=lambda name: name != "..data"):  # all names dangle at once
            _remove_tree(os.path.join(folder, name))
        if not held:
            os.rmdir(folder)


def _make_folder(path: str) -> None:
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return
    os.chmod(path, 0o755)  # noqa: S103 - whatever the umask says; its parent is 0700


def _remove_tree(path: str) -> None:
    """Remove a file, a link or a directory with all in it; fine when there is none."""
    if os.path.isdir(path) and not os.path.islink(path):
        for name in os.listdir(path):
            _remove_tree(os.path.join(path, name))
        os.rmdir(path)
    elif os.path.lexists(path):
        os.unlink(path)
