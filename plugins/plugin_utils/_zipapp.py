# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Build the agent's single file from its sources in this collection. Equal sources give equal bytes."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

PACKAGE = "hostseald"
SHARED = ("_agent_client.py", "_envelope.py", "_jose.py", "_manifest.py", "_model.py", "_proof.py")
# The zip format's own beginning of time: a fixed date for all members.
_DATE = (1980, 1, 1, 0, 0, 0)
_MAIN = f"""\
import sys

from {PACKAGE}.__main__ import main

sys.exit(main(sys.argv[1:]))
"""


def agent_sources(collection: Path) -> dict[str, bytes]:
    """Member name to content; COLLECTION is the collection's root directory."""
    folders = [collection / "roles" / "host_agent" / "files" / PACKAGE, collection / "plugins" / "module_utils"]
    files = [*folders[0].glob("*.py"), *(folders[1] / name for name in SHARED)]
    return {"__main__.py": _MAIN.encode(), **{f"{PACKAGE}/{file.name}": file.read_bytes() for file in files}}


def build(sources: dict[str, bytes]) -> bytes:
    """A zip application (PEP 441) of SOURCES."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(sources):
            member = zipfile.ZipInfo(name, _DATE)
            member.create_system = 3
            member.external_attr = 0o644 << 16
            archive.writestr(member, sources[name])
    return target.getvalue()
