# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What tests of a store in a folder do to it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.plugin_utils._records import Receipt, Version

from tests.unit.folder.places import FolderPlace

PASSWORD = "environments/prod/secrets/password.json"


def file_names(folder: Path) -> list[str]:
    return sorted(
        str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts
    )


def add_versions(place: FolderPlace, *versions: Version) -> None:
    with place.store() as store, store.transaction() as transaction:
        for one in versions:
            transaction.add_versions([one])


def version_numbers(place: FolderPlace, read_only: bool = False) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    with place.store(read_only=read_only) as store, store.transaction() as transaction:
        for one in transaction.versions("prod"):
            found.setdefault(one.name, []).append(one.number)
    return found


def git(place: FolderPlace, *arguments: str, fails: bool = False) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-c", "core.hooksPath=/dev/null", *arguments],
        cwd=place.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"},
    )
    assert bool(done.returncode) is fails, done.stdout + done.stderr
    return done.stdout


def commit(place: FolderPlace) -> None:
    git(place, "add", "-A")
    git(place, "commit", "-qm", "x")


def new_receipt(**changes: Any) -> Receipt:
    fields: dict[str, Any] = {
        "environment": "prod",
        "host": "db1",
        "mount": "db",
        "issued_at": 5,
        "expires_at": None,
        "state_digest": "d",
        "secrets": [],
        "delivered_at": 6,
        "signing_kid": "kid",
    }
    return Receipt(**{**fields, **changes})


def check_refused(place: FolderPlace, reason: str) -> None:
    """Whoever reads and whoever writes is told REASON, a regular expression, and nothing is changed."""
    before = place.content()
    for read_only in (False, True):
        with (
            pytest.raises(HostsealError, match=reason),
            place.store(read_only=read_only) as store,
            store.transaction(),
        ):
            pass
    assert place.content() == before
