# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Image archives (`docker save` files) that the engine inside a throwaway host loads: there is no registry."""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.rig.engine import Engine, RigError
from tests.rig.images import MARIADB, built, host_recipe
from tests.rig.paths import RIG, locked

FOLDER = RIG / "archives"
NAMES = ("busybox", "busybox-secrets", "mariadb")


def image_name(name: str) -> str:
    """What an archive calls its image. Not NAME: the outer engine may be the machine's own, with a NAME of its user's."""
    return f"hostseal-rig-archive/{name}:latest"


def _busybox_root(extra: dict[str, bytes]) -> bytes:
    """A root file system as a tar: static busybox with its commands, plus files (relative path: content)."""
    busybox = Path("/bin/busybox").read_bytes()
    commands = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:

        def add(
            name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", link: str = "", mode: int = 0o755
        ) -> None:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname, member.mode = kind, len(content), link, mode
            tar.addfile(member, io.BytesIO(content))

        for folder in ("bin", "dev", "etc", "proc", "root", "run", "sys", "tmp", "var"):
            add(folder, tarfile.DIRTYPE, mode=0o1777 if folder == "tmp" else 0o755)
        add("bin/busybox", content=busybox)
        for command in commands:
            if command != "busybox":
                add(f"bin/{command}", tarfile.SYMTYPE, link="busybox")
        add("etc/passwd", content=b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n", mode=0o644)
        add("etc/group", content=b"root:x:0:\nnogroup:x:65534:\n", mode=0o644)
        for path, content in extra.items():
            add(str(Path(path).parent), tarfile.DIRTYPE)
            add(path, content=content, mode=0o644)
    return buffer.getvalue()


def _save(engine: Engine, name: str, digest: str, image: Callable[[], str]) -> Path:
    """Keep the image that IMAGE() returns as an archive; the file's name tells its content by DIGEST."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    saved, part = FOLDER / f"{name}@{digest[:12]}.tar", FOLDER / f"{name}.part"
    with locked(f"archive-{name}"):
        if not saved.exists():
            tag = image_name(name)
            engine.docker("tag", image(), tag)
            engine.docker("save", "--output", str(part), tag)
            engine.docker("rmi", tag)
            for old in FOLDER.glob(f"{name}@*.tar"):
                old.unlink()
            part.rename(saved)
    return saved


def _imported(engine: Engine, root: bytes) -> str:
    """The id of an image with the file system ROOT."""
    return engine.docker("import", "-c", 'CMD ["sh"]', "-", input=root).stdout.decode().strip()


def _busybox(engine: Engine, name: str, extra: dict[str, bytes]) -> Path:
    root = _busybox_root(extra)
    return _save(engine, name, hashlib.sha256(root).hexdigest(), lambda: _imported(engine, root))


def archive(engine: Engine, name: str) -> Path:
    """The archive of the image NAME, made when it is missing.

    busybox: static, 2 MB. busybox-secrets: the same, but ships a file /run/secrets/stale. mariadb: Debian's server.
    """
    if name == "busybox":
        return _busybox(engine, name, {})
    if name == "busybox-secrets":
        return _busybox(engine, name, {"run/secrets/stale": b"from the image\n"})
    if name == "mariadb":
        digest = hashlib.sha256(MARIADB.tag.encode()).hexdigest()
        return _save(engine, name, digest, lambda: built(engine, MARIADB))
    raise RigError(f"no image archive {name!r}; there are {', '.join(NAMES)}")


def prepare(engine: Engine, release: str, names: Sequence[str]) -> str:
    """The tag of RELEASE's host image, with the archives NAMES made too; side by side, each may take a minute."""
    with ThreadPoolExecutor() as pool:
        archives = [pool.submit(archive, engine, name) for name in names]
        tag = built(engine, host_recipe(release))
        for done in archives:
            done.result()
    return tag
