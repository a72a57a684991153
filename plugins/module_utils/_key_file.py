# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Files with private keys on a host: read only when nobody else could have, written durably, overwritten at their end."""

from __future__ import annotations

import os
import stat

from ._model import HostsealError


def read(path: str, remedy: str) -> bytes:
    """What is in the file; HostsealError when it is not to be trusted, with REMEDY as what to do after its removal."""
    try:
        # O_NONBLOCK: a FIFO must not hold us up.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise HostsealError(f"{path} can't be opened ({error.strerror}): it must be a regular file, no link") from None
    try:
        details = os.fstat(handle)
        if not stat.S_ISREG(details.st_mode):
            raise HostsealError(f"{path} is not a regular file: remove it and run again")
        if details.st_uid != os.geteuid():
            raise HostsealError(
                f"{path} belongs to uid {details.st_uid}, which could have read or changed it: remove it, {remedy}"
            )
        if stat.S_IMODE(details.st_mode) & 0o077:
            raise HostsealError(
                f"{path} has mode {stat.S_IMODE(details.st_mode):04o}, others could have read it: remove it, {remedy};"
                " or chmod 0600 if you know that nobody did"
            )
        return os.read(handle, 1 << 16)
    finally:
        os.close(handle)


def write(path: str, text: str, mode: int) -> str:
    """Write TEXT durably beside PATH; the name of the temporary file."""
    temporary = f"{path}.{os.getpid()}.new"
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with open(handle, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), mode)  # whatever the umask says
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def shred(path: str, *spared: str) -> None:
    """Overwrite a file with zeros and remove it; only its name goes if it is one of SPARED under another one."""
    with open(os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "wb") as file:
        in_use = [os.stat(other) for other in spared if os.path.lexists(other)]
        if not any(os.path.samestat(os.fstat(file.fileno()), other) for other in in_use):
            file.write(bytes(os.fstat(file.fileno()).st_size))
            file.flush()
            os.fsync(file.fileno())
    os.unlink(path)


def sync(folder: str) -> None:
    """Make renames and removals in FOLDER survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
