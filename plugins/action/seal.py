# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ansible_collections.hostseal.secrets.plugins.module_utils._model import (
    HostsealError,
    Mount,
    check_duration,
    check_name,
    split_volume,
    volume_name,
)
from ansible_collections.hostseal.secrets.plugins.modules import seal
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _sealing
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import Action, Result
from ansible_collections.hostseal.secrets.plugins.plugin_utils._publishing import Change, predict, publish
from ansible_collections.hostseal.secrets.plugins.plugin_utils._site import Site
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store
from ansible_collections.hostseal.secrets.plugins.plugin_utils._transaction import Transaction


class ActionModule(Action):
    """Seal mounts for many hosts, once per run, and publish them for hosts that fetch them."""

    ARGUMENT_SPEC = seal.ARGUMENT_SPEC
    CONSTRAINTS = {
        "required_by": {"mounts": ["hosts"]},
        "required_one_of": [["mounts", "mounts_by_host", "publish_to"]],
        "required_if": [["state", "absent", ["publish_to"]]],
    }

    def work(self, options: dict[str, Any]) -> Result:
        life = check_duration("manifest_expires_after", options["manifest_expires_after"])
        if options["publish_to"] and not life:
            raise HostsealError("manifest_expires_after is 0: a manifest that never expires can be withheld unnoticed")
        site = Site(options["publish_to"], missing_ok=self.check) if options["publish_to"] else None
        if options["hosts"] is not None and options["mounts"] is None and site is None:
            raise HostsealError("hosts is given without mounts: say which mounts to seal for them")
        with self.open_store(options) as store:
            if options["state"] == "absent":
                wanted, sealed, withdrawn = [], set[tuple[str, str]](), _named(options)
                if not self.check:
                    store.run(lambda transaction: _withdraw(transaction, withdrawn))
            else:
                wanted, withdrawn = _wanted(options), []
                sealed = self._seal(store, wanted, options)
            changes: list[Change] = []
            if site:
                hosts = _to_publish(options, wanted, withdrawn)
                changes = self._publish(store, site, life, hosts, sealed, withdrawn, options)
        result: Result = {
            "changed": bool(sealed or changes),
            "envelopes": [
                {"host": host, "volume": mount.volume, "sealed": (host, mount.volume) in sealed}
                for host, mount in wanted
            ],
            "published": [
                {
                    "host": change.host,
                    "environment": change.environment,
                    "added": [volume_name(change.environment, name) for name in change.added],
                    "removed": [volume_name(change.environment, name) for name in change.removed],
                }
                for change in changes
            ],
        }
        if self._task.diff and result["changed"]:
            result["diff"] = {
                "before": "",
                "after": "".join(f"{volume} sealed for {host}\n" for host, volume in sorted(sealed))
                + "".join(_line(change) for change in result["published"]),
            }
        return result

    def _seal(self, store: Store, wanted: list[tuple[str, Mount]], options: dict[str, Any]) -> set[tuple[str, str]]:
        """What was sealed now, or would be, as (host, volume)."""
        plans, predicted = _sealing.plan_for_check(store, wanted) if self.check else (_sealing.plan(store, wanted), {})
        fresh = [plan for plan in plans if not plan.is_sealed]
        if fresh and not self.check:
            _sealing.seal(store, lambda environment: self.open_backend(environment, options), fresh)
        for reason in sorted(set(predicted.values())):
            self._display.warning(f"{reason}; predicted as if this run did so")
        return {(plan.host, plan.mount.volume) for plan in fresh} | set(predicted)

    def _publish(
        self,
        store: Store,
        site: Site,
        life: int,
        hosts: Mapping[str, set[str]],
        sealed: set[tuple[str, str]],
        withdrawn: list[tuple[str, str, str]],
        options: dict[str, Any],
    ) -> list[Change]:
        """Publish for HOSTS, by environment; what was SEALED and WITHDRAWN in this task is not in the store in check mode."""
        changes = []
        for environment, names in sorted(hosts.items()):
            if self.check:
                fresh: dict[str, set[str]] = {}
                for host, volume in sealed:
                    of, name = split_volume(volume)
                    if of == environment:
                        fresh.setdefault(host, set()).add(name)
                gone = {(host, name) for of, host, name in withdrawn if of == environment}
                changes += predict(store, environment, names, site, life, fresh, gone)
            else:
                changes += publish(
                    store, lambda record: self.open_backend(record, options), environment, names, site, life
                )
        return changes


def _to_publish(
    options: dict[str, Any], wanted: list[tuple[str, Mount]], withdrawn: list[tuple[str, str, str]]
) -> dict[str, set[str]]:
    """The hosts of the task by environment."""
    hosts: dict[str, set[str]] = {}
    if options["environment"]:
        named = (options["hosts"] or []) if options["mounts"] is None else []
        hosts[check_name("environment", options["environment"])] = {check_name("host", host) for host in named}
    for environment, host in [(mount.environment, host) for host, mount in wanted] + [one[:2] for one in withdrawn]:
        hosts.setdefault(environment, set()).add(host)
    if not hosts:
        raise HostsealError("publish_to needs the option environment, or mounts: what is to be published?")
    return hosts


def _wanted(options: dict[str, Any]) -> list[tuple[str, Mount]]:
    hosts = [check_name("host", host) for host in options["hosts"] or []]
    wanted = [
        (host, mount)
        for mount in Mount.list_from_options(options["mounts"] or [], options["environment"])
        for host in hosts
    ]
    for host, mounts in _by_host(options).items():
        wanted += [(host, mount) for mount in Mount.list_from_options(mounts, options["environment"])]
    return wanted


def _by_host(options: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    for host, mounts in (options["mounts_by_host"] or {}).items():
        check_name("host", host)
        if not isinstance(mounts, list):
            raise HostsealError(f"mounts_by_host: the mounts of host {host!r} are not a list")
    return options["mounts_by_host"] or {}


def _named(options: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The mounts of the task as (environment, host, name)."""
    mounts = [(host, mount) for mount in options["mounts"] or [] for host in options["hosts"]]
    mounts += [(host, mount) for host, of in _by_host(options).items() for mount in of]
    return [
        (
            check_name("environment", mount.get("environment") or options["environment"]),
            check_name("host", host),
            check_name("mount", mount.get("name")),
        )
        for host, mount in mounts
    ]


def _withdraw(transaction: Transaction, mounts: list[tuple[str, str, str]]) -> None:
    for environment in {of for of, _host, _name in mounts}:
        transaction.environment(environment)  # a misspelt one must not look as if it was done
        transaction.withdraw_envelopes(environment, [(host, name) for of, host, name in mounts if of == environment])


def _line(change: dict[str, Any]) -> str:
    told = [f"{volume} published for {change['host']}\n" for volume in change["added"]]
    told += [f"{volume} withdrawn from {change['host']}\n" for volume in change["removed"]]
    return "".join(told) or f"manifest of {change['environment']} renewed for {change['host']}\n"
