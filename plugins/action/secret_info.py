# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError, check_name
from ansible_collections.hostseal.secrets.plugins.modules import secret_info
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import Action, Result, iso
from ansible_collections.hostseal.secrets.plugins.plugin_utils._records import Publication, Receipt, Version, now_ms


class ActionModule(Action):
    """List secrets, never their values."""

    ARGUMENT_SPEC = secret_info.ARGUMENT_SPEC
    _supports_diff = False

    def work(self, options: dict[str, Any]) -> Result:
        environment = check_name("environment", options["environment"])
        names = [check_name("secret", name) for name in options["names"]] if options["names"] is not None else None
        with self.open_store(options, read_only=True) as store, store.transaction() as transaction:
            if self.check and not store.exists:
                return {"changed": False, "secrets": []}
            transaction.environment(environment)
            versions = transaction.versions(environment, names)
            current = transaction.current_versions(environment, names)
            ever = transaction.last_numbers(environment, names or [])
            receipts = transaction.receipts(environment)
            publications = transaction.publications(environment)
        by_name: dict[str, list[Version]] = {}
        for version in versions:
            by_name.setdefault(version.name, []).append(version)
        delivered = _by_secret(receipts)
        published = _published(publications.values(), receipts)
        # A deleted one is listed as long as a host has it, and whenever it is asked for.
        for name in [name for name in delivered if names is None] + [name for name in names or [] if name in ever]:
            by_name.setdefault(name, [])
        missing = [name for name in names or [] if name not in by_name]
        if missing:
            raise HostsealError(
                f"secret {missing[0]!r} is not in environment {environment!r}: check its name, or declare it with"
                " hostseal.secrets.secret"
            )
        now = now_ms()
        secrets = [
            {
                **_describe(name, found, current.get(name), delivered.get(name, []), now),
                "published": published.get(name, []),
            }
            for name, found in sorted(by_name.items())
        ]
        return {"changed": False, "secrets": secrets}


def _describe(
    name: str, versions: list[Version], current: Version | None, delivered: list[dict[str, Any]], now: int
) -> dict[str, Any]:
    number = current.number if current else None
    return {
        "name": name,
        "version": number,
        "behind": sorted({place["host"] for place in delivered if place["version"] != number}),
        "versions": [
            {
                "version": version.number,
                "created_at": iso(version.created_at),
                "age": (now - version.created_at) // 1000,
            }
            for version in versions
        ],
        "delivered": delivered,
    }


def _by_secret(receipts: list[Receipt]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for receipt in receipts:
        for secret in receipt.secrets:
            found.setdefault(secret["name"], []).append(
                {
                    "host": receipt.host,
                    "mount": receipt.mount,
                    "version": secret["version"],
                    "delivered_at": iso(receipt.delivered_at),
                }
            )
    return found


def _published(publications: Iterable[Publication], receipts: list[Receipt]) -> dict[str, list[dict[str, Any]]]:
    """By secret what is published and not confirmed yet."""
    confirmed = {(receipt.host, receipt.mount): receipt.issued_at for receipt in receipts}
    found: dict[str, list[dict[str, Any]]] = {}
    for one in publications:
        for mount, listed in one.mounts.items():
            if confirmed.get((one.host, mount), 0) >= listed["issued_at"]:
                continue
            for secret in listed["secrets"]:
                found.setdefault(secret["name"], []).append(
                    {
                        "host": one.host,
                        "mount": mount,
                        "version": secret["version"],
                        "published_at": iso(one.issued_at),
                    }
                )
    return found
