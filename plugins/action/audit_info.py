# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ansible_collections.hostseal.secrets.plugins.module_utils._model import check_duration
from ansible_collections.hostseal.secrets.plugins.modules import audit_info
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import Action, Result, iso
from ansible_collections.hostseal.secrets.plugins.plugin_utils._audit import Record, first_broken
from ansible_collections.hostseal.secrets.plugins.plugin_utils._records import now_ms

_COLUMNS = ("environment", "host", "mount", "user", "job", "delivery")


class ActionModule(Action):
    """List records of the audit log and check the whole of it."""

    ARGUMENT_SPEC = audit_info.ARGUMENT_SPEC
    _supports_diff = False

    def work(self, options: dict[str, Any]) -> Result:
        with self.open_store(options, read_only=True) as store, store.transaction() as transaction:
            records = transaction.audit()
        broken = first_broken(records)
        head = records[-1] if records else None
        expected = options["expected_head"]
        if broken is None and expected and expected not in {record.hash for record in records}:
            broken = len(records) + 1
        return {
            "changed": False,
            "records": [_describe(record) for record in _chosen(records, options)],
            "intact": broken is None,
            "broken_at": broken,
            "head": head and {"number": head.number, "hash": head.hash},
        }


def _chosen(records: list[Record], options: dict[str, Any]) -> list[Record]:
    since = now_ms() - check_duration("since", options["since"]) * 1000 if options["since"] else 0
    found = [
        record
        for record in records
        if record.at >= since
        and all(options[name] in (None, getattr(record, name)) for name in _COLUMNS)
        and options["action"] in (None, record.action, record.action.partition(".")[0])
        and (options["secret"] is None or options["secret"] in {secret["name"] for secret in record.secrets})
    ]
    return found if options["newest"] is None else found[max(0, len(found) - options["newest"]) :]


def _describe(record: Record) -> dict[str, Any]:
    shown = asdict(record)
    for name in ("previous", "hash"):
        del shown[name]
    return {**shown, "at": iso(record.at)}
