# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ansible_collections.hostseal.secrets.plugins.module_utils._envelope import read_key_set, unverified_statement
from ansible_collections.hostseal.secrets.plugins.module_utils._model import (
    HostsealError,
    Mount,
    check_name,
    delivery_id,
    mode_text,
    split_volume,
    volume_name,
)
from ansible_collections.hostseal.secrets.plugins.module_utils._options import MOUNT
from ansible_collections.hostseal.secrets.plugins.modules import mount
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _sealing
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import Action, Result
from ansible_collections.hostseal.secrets.plugins.plugin_utils._audit import Event
from ansible_collections.hostseal.secrets.plugins.plugin_utils._records import Receipt, now_ms
from ansible_collections.hostseal.secrets.plugins.plugin_utils._sealing import Plan
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store
from ansible_collections.hostseal.secrets.plugins.plugin_utils._transaction import Transaction

# How a container gets the driver's volume, and not one that the engine makes by itself.
_NAMED = {
    "docker": "name the driver at launch",
    "podman": "make it with 'podman volume create --driver hostseal' before the container",
}


class ActionModule(Action):
    """Bring the mounts of one host to what is declared: one call of the module on the host, a second one at need."""

    ARGUMENT_SPEC = mount.ARGUMENT_SPEC
    CONSTRAINTS = {
        "mutually_exclusive": [["name", "mounts"], ["secrets", "mounts"]],
        "required_one_of": [["name", "mounts"]],
    }

    def work(self, options: dict[str, Any]) -> Result:
        self.options = options
        host = self.host_name(options["host"])
        with self.open_store(options) as store:
            mounts, remove = self.wanted(store, host)
            wanted = [(host, one) for one in mounts]
            plans, predicted = (
                _sealing.plan_for_check(store, wanted) if self.check else (_sealing.plan(store, wanted), {})
            )
            for reason in sorted(set(predicted.values())):
                self._display.warning(f"{reason}; predicted as if this run did so")
            answer = self._deliver(store, host, plans, remove)
            if not self.check:
                _record(store, host, plans, answer["results"], [*answer["refusals"], *answer["results"]])
                unconfirmed = [plan for plan in plans if plan.record.pinned_at != _issued_at(plan)]
                if unconfirmed:
                    _sealing.confirm_key_sets(
                        store, host, {plan.environment.name: _issued_at(plan) for plan in unconfirmed}
                    )
        _raise_trouble(host, answer)
        for engine, told in answer["engines"].items():
            if not told["ok"]:
                self._display.warning(
                    f"host {host!r}: {engine.capitalize()} could not be asked whether a local volume bears the name of a"
                    f" mount: {told['reason']}"
                )
        return self._result(mounts, plans, predicted, answer)

    def wanted(self, _store: Store, _host: str) -> tuple[list[Mount], list[tuple[str, str]]]:
        """The mounts to deliver, and those to remove as (environment, name)."""
        if self.options["state"] == "absent":
            return [], _names(self.options)
        given = self.options["mounts"] if self.options["mounts"] is not None else [_single(self.options)]
        return Mount.list_from_options(given, self.options["environment"]), []

    def purge(self) -> tuple[str, str | None] | None:
        """The environment and owner (None: any) whose other mounts are removed."""
        if not self.options["purge"]:
            return None
        if not self.options["environment"]:
            raise HostsealError("purge needs the option environment: it looks at the mounts of one environment alone")
        return self.options["environment"], self.options["owner"] or "default"

    def _deliver(
        self, store: Store, host: str, plans: Sequence[Plan], remove: Sequence[tuple[str, str]]
    ) -> dict[str, Any]:
        """Ask the host what it holds and bring it what it lacks."""
        if not plans and not remove and self.purge() is None:
            return {"installed": True, "marks": {}, "engines": {}, "pinned": {}, "results": [], "refusals": []}
        request = self._request(host, plans, remove)
        if not self.check:
            # What the host never confirmed goes with the first call already.
            fresh = self._envelopes(store, [plan for plan in plans if not plan.is_delivered], {}, anew=False)
            _enclose(request, fresh)
        answer = self._ask(request)
        # What was refused at first, and perhaps accepted then.
        answer["refusals"] = []
        again = {entry["volume"] for entry in answer["results"] if entry["action"] in ("wanted", "refused")}
        if again and not self.check:
            # Confirmed once but lost since, or refused: what the store holds may be old or edited, so seal anew.
            floors = {(host, volume): issued_at for volume, issued_at in answer["marks"].items()}
            anew = [plan for plan in plans if plan.mount.volume in again]
            request = self._request(host, anew, [])
            _enclose(request, self._envelopes(store, anew, floors, anew=True))
            second = self._ask({**request, "purge": None})
            settled = [entry for entry in answer["results"] if entry["volume"] not in again]
            refusals = [entry for entry in answer["results"] if entry["action"] == "refused"]
            results = settled + second["results"]
            answer = {**second, "results": results, "refusals": refusals, "pinned": answer["pinned"]}
        return answer

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The host's answer; what it refused with the time of issue, which the host does not tell."""
        answer = self.run_on_host("hostseal.secrets.mount", {"_request": request})
        sent = {entry["volume"]: entry["envelope"] for entry in request["mounts"]}
        for entry in answer["results"]:
            if entry["action"] == "refused":
                entry["issued_at"] = _time_of_issue(sent[entry["volume"]])
        return answer

    def _request(self, host: str, plans: Sequence[Plan], remove: Sequence[tuple[str, str]]) -> dict[str, Any]:
        return {
            "host": host,
            "key_sets": {
                plan.environment.name: (plan.environment.signing_kid, _issued_at(plan), plan.environment.key_set)
                for plan in plans
            },
            "mounts": [
                {
                    "volume": plan.mount.volume,
                    "state_digest": plan.digest,
                    # A held envelope that is older has reached half of its life.
                    "renew_before": now_ms() - plan.mount.options.expires_after * 500
                    if plan.mount.options.expires_after
                    else 0,
                    "envelope": None,
                }
                for plan in plans
            ],
            "remove": [volume_name(environment, name) for environment, name in remove],
            "purge": self.purge(),
        }

    def _envelopes(
        self, store: Store, plans: Sequence[Plan], floors: dict[tuple[str, str], int], anew: bool
    ) -> dict[str, str]:
        """The envelopes of plans by volume: those in the store, unless ANEW, and the rest sealed now."""
        fresh = [plan for plan in plans if anew or not plan.is_sealed]
        texts = {plan.mount.volume: plan.envelope.text for plan in plans if plan not in fresh and plan.envelope}
        if fresh:
            sealed = _sealing.seal(
                store, lambda environment: self.open_backend(environment, self.options), fresh, floors
            )
            texts |= {volume: envelope.text for (_host, volume), envelope in sealed.items()}
        return texts

    def _result(
        self,
        mounts: Sequence[Mount],
        plans: Sequence[Plan],
        predicted: dict[tuple[str, str], str],
        answer: dict[str, Any],
    ) -> Result:
        planned = {plan.mount.volume: plan for plan in plans}
        entries = [_entry(result, planned.get(result["volume"])) for result in answer["results"]]
        entries += [
            {"volume": volume, "action": "delivered", "live": None, "secrets": []} for _host, volume in predicted
        ]
        pinned = sorted(environment for environment, changed in answer["pinned"].items() if changed)
        result: Result = {
            "changed": bool(pinned) or any(entry["action"] != "unchanged" for entry in entries),
            "mounts": entries,
            "pinned": pinned,
        }
        if self._task.diff and result["changed"]:
            held = {
                entry["volume"]: entry["held"]
                for entry in answer["results"]
                if entry["action"] != "unchanged" and entry["held"]
            }
            changed = {entry["volume"] for entry in entries if entry["action"] == "delivered"}
            result["diff"] = {
                "before": "".join(_lines(volume, entry["secrets"], entry) for volume, entry in sorted(held.items())),
                "after": "".join(_after(one, planned.get(one.volume)) for one in mounts if one.volume in changed)
                + "".join(f"keys of environment {environment} pinned anew\n" for environment in pinned),
            }
        return result


def _single(options: dict[str, Any]) -> dict[str, Any]:
    names = ("name", *MOUNT)
    return {name: options[name] for name in names}


def _names(options: dict[str, Any]) -> list[tuple[str, str]]:
    items = options["mounts"] if options["mounts"] is not None else [{"environment": None, "name": options["name"]}]
    return [
        (check_name("environment", item["environment"] or options["environment"]), check_name("mount", item["name"]))
        for item in items
    ]


def _issued_at(plan: Plan) -> int:
    return read_key_set(plan.environment.key_set, None).issued_at


def _enclose(request: dict[str, Any], envelopes: dict[str, str]) -> None:
    for entry in request["mounts"]:
        entry["envelope"] = envelopes.get(entry["volume"])


def _time_of_issue(envelope: str) -> int | None:
    try:
        return unverified_statement(envelope).issued_at
    except HostsealError:  # damaged in the store
        return None


def _record(
    store: Store,
    host: str,
    plans: Sequence[Plan],
    results: Sequence[dict[str, Any]],
    told: Sequence[dict[str, Any]],
) -> None:
    """Keep what the host confirmed, and tell the audit log of it. Nothing is written when it is known already."""
    known = {plan.mount.volume: plan for plan in plans}
    confirmed = {
        entry["volume"]: _receipt(host, known[entry["volume"]], entry["receipt"])
        for entry in results
        if entry["volume"] in known and entry["action"] in ("delivered", "unchanged")
    }
    receipts = {volume: receipt for volume, receipt in confirmed.items() if _is_news(known[volume].receipt, receipt)}
    # What a run that was cut off did on the host is told by the next one, too.
    told = [entry for entry in told if entry["action"] != "unchanged" or entry["volume"] in receipts]
    absent = [entry["volume"] for entry in results if entry["volume"] not in known and entry["action"] == "unchanged"]
    if not receipts and not told and not absent:
        return
    store.run(lambda transaction: _write(transaction, host, known, receipts, results, told, absent))


def _write(
    transaction: Transaction,
    host: str,
    known: Mapping[str, Plan],
    receipts: Mapping[str, Receipt],
    results: Sequence[dict[str, Any]],
    told: Sequence[dict[str, Any]],
    absent: Sequence[str],
) -> None:
    transaction.put_receipts(receipts.values())
    events = [_event(host, entry, known.get(entry["volume"])) for entry in told]
    for volume in absent:
        environment, name = split_volume(volume)
        old = [one for one in transaction.receipts(environment, [host]) if one.mount == name]
        if old or (host, name) in transaction.envelopes(environment, [host]):
            transaction.remove_envelope(environment, host, name)
            secrets = old[0].secrets if old else []
            events.append(Event("mount.removed", environment, host, name, secrets, result="it was gone already"))
    for entry in results:
        if entry["action"] == "removed":
            environment, name = split_volume(entry["volume"])
            transaction.remove_envelope(environment, host, name)
    transaction.record(events)


def _receipt(host: str, plan: Plan, answer: dict[str, Any]) -> Receipt:
    life = plan.mount.options.expires_after * 1000
    return Receipt(
        environment=plan.environment.name,
        host=host,
        mount=plan.mount.name,
        issued_at=answer["issued_at"],
        expires_at=answer["issued_at"] + life if life else None,
        state_digest=answer["state_digest"],
        secrets=[{"name": version.name, "version": version.number} for version in plan.versions],
        delivered_at=now_ms(),
        signing_kid=plan.environment.signing_kid,
    )


def _is_news(known: Receipt | None, receipt: Receipt) -> bool:
    return known is None or (known.state_digest, known.issued_at) != (receipt.state_digest, receipt.issued_at)


def _event(host: str, entry: dict[str, Any], plan: Plan | None) -> Event:
    environment, name = split_volume(entry["volume"])
    action = "delivered" if entry["action"] == "unchanged" else entry["action"]
    if action == "removed":
        secrets, issued_at = entry["held"]["secrets"], entry["held"]["issued_at"]
    else:
        secrets = [{"name": version.name, "version": version.number} for version in plan.versions] if plan else []
        issued_at = entry["issued_at"] if action == "refused" else entry["receipt"]["issued_at"]
    return Event(
        f"mount.{action}",
        environment,
        host,
        name,
        [{"name": secret["name"], "version": secret["version"]} for secret in secrets],
        None if issued_at is None else delivery_id(host, entry["volume"], issued_at),
        entry.get("reason", "ok"),
    )


def _raise_trouble(host: str, answer: dict[str, Any]) -> None:
    refused = next((entry for entry in answer["results"] if entry["action"] == "refused"), None)
    if refused:
        raise HostsealError(f"host {host!r} refuses the envelope of mount {refused['volume']!r}: {refused['reason']}")
    for engine, told in answer["engines"].items():
        if told["shadowed"]:
            volumes = ", ".join(repr(volume) for volume in told["shadowed"])
            raise HostsealError(
                f"host {host!r} has a local {engine.capitalize()} volume that bears the name of a mount: {volumes}."
                f" Containers would get it, empty, in the place of the secrets: remove it with '{engine} volume rm', and"
                f" {_NAMED[engine]}"
            )


def _entry(result: dict[str, Any], plan: Plan | None) -> dict[str, Any]:
    action = "delivered" if result["action"] == "wanted" else result["action"]
    versions = plan.versions if plan and action != "removed" else ()
    return {
        "volume": result["volume"],
        "action": action,
        "live": result.get("live"),
        "secrets": [{"name": version.name, "version": version.number} for version in versions],
    }


def _after(one: Mount, plan: Plan | None) -> str:
    numbers = [version.number for version in plan.versions] if plan else [0] * len(one.entries)
    secrets = [
        {
            "name": entry.source,
            "version": number or "new",
            "target": entry.target,
            "uid": entry.uid,
            "gid": entry.gid,
            "mode": mode_text(entry.mode),
        }
        for entry, number in zip(one.entries, numbers)
    ]
    token = one.token.as_dict() if one.token else None
    return _lines(one.volume, secrets, {"owner": one.options.owner, "vault_token": token})


def _lines(volume: str, secrets: Sequence[dict[str, Any]], mount: dict[str, Any]) -> str:
    files = [(secret, f"{secret['name']} version {secret['version']}") for secret in secrets]
    token = mount.get("vault_token")
    if token:
        files.append((token, f"a Vault token of role {token['role']}, wrapped for {token['wrap_ttl']} s"))
    return "".join(
        f"{volume} owner {mount['owner']}: {file['target']} is {what},"
        f" uid {file['uid']}, gid {file['gid']}, mode {file['mode']}\n"
        for file, what in files
    )
