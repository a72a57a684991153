# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The audit log of the control side: who did what, to which version, when. Names and numbers, never a value.

Each record carries the hash of the one before, so a record that was changed, taken out or put in later shows. That the
newest ones were cut off shows only to who has noted a later hash elsewhere.
"""

from __future__ import annotations

import getpass
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..module_utils._jose import canonical

FIRST = "0" * 64


@dataclass(frozen=True)
class Actor:
    """Who acts: a user name, and the id of the AWX job if it is one."""

    user: str
    job: str | None = None

    @classmethod
    def of(cls, variables: Mapping[str, Any]) -> Actor:
        """From a task's variables, where AWX tells its user and job, else from the process.

        https://docs.ansible.com/automation-controller/latest/html/userguide/job_templates.html#extra-variables
        """
        job = variables.get("awx_job_id") or variables.get("tower_job_id") or os.environ.get("JOB_ID")
        user = variables.get("awx_user_name") or variables.get("tower_user_name") or os.environ.get("SUDO_USER")
        try:
            return cls(str(user or getpass.getuser())[:128], str(job)[:64] if job else None)
        except (OSError, KeyError):  # a user id without a name, in a container
            return cls(str(os.getuid()), str(job)[:64] if job else None)


@dataclass(frozen=True)
class Event:
    """What happened. secrets holds {"name", "version"} dicts; delivery is the id that the host's log has too."""

    action: str
    environment: str
    host: str | None = None
    mount: str | None = None
    secrets: list[dict[str, Any]] = field(default_factory=list)
    delivery: str | None = None
    result: str = "ok"


@dataclass(frozen=True)
class Record:
    """An event in the log. at is in milliseconds since the epoch."""

    number: int
    at: int
    user: str
    job: str | None
    action: str
    environment: str
    host: str | None
    mount: str | None
    secrets: list[dict[str, Any]]
    delivery: str | None
    result: str
    previous: str
    hash: str


def chain(events: Sequence[Event], number: int, previous: str, actor: Actor, at: int) -> list[Record]:
    """The records of EVENTS after the record NUMBER, whose hash is PREVIOUS."""
    records = []
    for event in events:
        number += 1
        body = {"number": number, "at": at, **asdict(actor), **asdict(event), "previous": previous}
        previous = _hash(body)
        records.append(Record(**body, hash=previous))
    return records


def first_broken(records: Iterable[Record]) -> int | None:
    """The number of the first record that does not follow from the one before; None when all do."""
    number, previous = 0, FIRST
    for record in records:
        body = asdict(record)
        if record.number != number + 1 or record.previous != previous or _hash(body) != record.hash:
            return number + 1
        number, previous = record.number, record.hash
    return None


def _hash(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical({name: value for name, value in body.items() if name != "hash"})).hexdigest()
