# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The page of the playbook hostseal.secrets.report: what the store and the agents say, compared. Never a value."""

from __future__ import annotations

import base64
import datetime
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import plain

Item = dict[str, Any]
# Environment, mount, host.
Key = tuple[str, str, str]

COLLECTION = Path(__file__).resolve().parents[2]
TEMPLATE = COLLECTION / "playbooks" / "templates" / "report.html.j2"

# Every word that the page uses for a state, the worst first, and how serious it is.
STATES = {
    "log broken": "bad",
    "unreadable": "bad",
    "unreachable": "bad",
    "failed": "bad",
    "unusable": "bad",
    "files gone": "bad",
    "missing": "bad",
    "deleted": "bad",
    "drift": "bad",
    "refused": "bad",
    "attention": "warn",
    "no agent": "warn",
    "not delivered": "warn",
    "expires soon": "warn",
    "behind": "warn",
    "published": "info",
    "unconfirmed": "info",
    "not asked": "info",
    "not read": "info",
    "unused": "info",
    "pinned": "info",
    "ok": "good",
}
_RANK = {state: rank for rank, state in enumerate(STATES)}
# What is said of mounts in these states. That they are unusable, or their files gone, the agent says itself.
_ADVICE = {
    "missing": "The host confirmed it once and does not have it now. Deliver it again.",
    "deleted": "The host still has secrets that are deleted. Run the playbook hostseal.secrets.revoke.",
    "drift": "The host has other versions than it confirmed last. Deliver it again.",
    "not delivered": "The inventory declares it, and the host does not have it. Run the playbook hostseal.secrets.site.",
    "expires soon": "Less than a quarter of its time is left. Deliver it again.",
    "behind": "The host has other versions than the current ones. Deliver it again.",
}
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def _worst(states: Iterable[str]) -> str:
    return min(states, key=_RANK.__getitem__)


@dataclass
class Mount:
    """A mount of a host, as last confirmed (the store), and as it is now (the agent). pins: what the inventory pins.

    is_published: the host may fetch it, or something newer than it has confirmed.
    """

    environment: str
    name: str
    host: str
    pins: set[tuple[str, int]] = field(default_factory=set)
    confirmed: set[tuple[str, int]] | None = None
    delivered_at: str = ""
    is_published: bool = False
    agent: Item | None = None
    state: str = "ok"
    # State by secret and version.
    secrets: dict[tuple[str, int], str] = field(default_factory=dict)

    @property
    def volume(self) -> str:
        """Its name in Docker."""
        return f"{self.environment}.{self.name}"

    @property
    def containers(self) -> list[str]:
        """The containers that use it now."""
        return self.agent["containers"] if self.agent else []

    @property
    def expires_at(self) -> int | None:
        """In milliseconds since 1970; None for never, and when it is not known."""
        return self.agent["expires_at"] if self.agent else None

    def judge(self, current: Mapping[str, int | None] | None, answered: bool, now: datetime.datetime) -> None:
        """Set the states. CURRENT: the current versions of the environment's secrets, None when it was not read."""
        here = {(secret["name"], secret["version"]) for secret in self.agent["secrets"]} if self.agent else None
        if answered and here is None:
            self.state = self._undelivered if self.confirmed is None else "missing"
            self.secrets = dict.fromkeys(self.confirmed or (), "missing")
            return
        whole = self._of_the_whole(now)
        for name, version in (self.confirmed or set()) if here is None else here:
            self.secrets[name, version] = _worst((whole, self._of_one(name, version, current, here)))
        if self.confirmed is None and here is None:
            whole = self._undelivered
        elif current is not None and here is not None and here != (self.confirmed or set()):
            whole = _worst((whole, "drift"))
        self.state = _worst({whole, *self.secrets.values()})

    @property
    def _undelivered(self) -> str:
        return "published" if self.is_published else "not delivered"

    def _of_the_whole(self, now: datetime.datetime) -> str:
        if self.agent is None:
            return "unconfirmed"
        if not self.agent["valid"]:
            return "unusable"
        if self.agent["users"] and not self.agent["live"]:
            return "files gone"
        if self.expires_at is not None:
            left = self.expires_at - now.timestamp() * 1000
            if left * 4 < self.expires_at - self.agent["issued_at"]:
                return "expires soon"
        return "ok"

    def _of_one(
        self, name: str, version: int, current: Mapping[str, int | None] | None, here: set[tuple[str, int]] | None
    ) -> str:
        if current is None:
            return "not read"
        if current.get(name) is None:
            return "deleted"
        if here is not None and self.confirmed is not None and (name, version) not in self.confirmed:
            return "drift"
        if current[name] != version:
            return "pinned" if (name, version) in self.pins else "behind"
        return "ok"


def report(
    hostvars: Mapping[str, Mapping[str, Any]],
    hosts: Iterable[str],
    secrets: Iterable[Mapping[str, Any]],
    audit: Mapping[str, Any],
    declared: Mapping[str, Iterable[Mapping[str, Any]]],
) -> str:
    """The page as HTML, from the results that the playbook has registered.

    SECRETS are the results of secret_info, one for each environment (its name in "item"), AUDIT is that of audit_info,
    DECLARED the mounts that the inventory declares, by host. Of HOSTVARS only two variables are looked at.
    """
    agents = {}
    for host in plain(hosts):
        variables = hostvars[host]
        answer = plain(variables.get("hostseal_seen_agent")) or {}
        agents[host] = {"name": plain(variables.get("hostseal_host_name")) or host, **answer}
    now = datetime.datetime.now(datetime.timezone.utc)
    return render(gather(agents, plain(secrets), plain(audit), plain(declared), now))


def gather(
    agents: Mapping[str, Item],
    environments: Iterable[Item],
    audit: Item,
    declared: Mapping[str, Iterable[Item]],
    now: datetime.datetime,
) -> Item:
    """Everything that the page shows, in plain types, sorted with the worst first.

    AGENTS are results of agent_info by the host's name in the inventory, each with "name", the enrolled one.
    """
    read = {found["item"]["name"]: found for found in environments}
    current = {
        name: {secret["name"]: secret["version"] for secret in found["secrets"]}
        for name, found in read.items()
        if "secrets" in found
    }
    hosts = [_host(inventory, answer) for inventory, answer in agents.items()]
    mounts = _mounts(hosts, read, declared)
    answered = {host["name"] for host in hosts if host["agent"]}
    for mount in mounts.values():
        mount.judge(current.get(mount.environment), mount.host in answered, now)
    # A host that had something delivered and is not in this run.
    known = {host["name"] for host in hosts}
    for name in sorted({mount.host for mount in mounts.values()} - known):
        hosts.append({"name": name, "inventory": name, "state": "not asked", "text": "", "agent": None, "problems": []})
    for host in hosts:
        _complete(host, [mount for mount in mounts.values() if mount.host == host["name"]])
    attention = [*_of_the_log(audit), *_of_environments(read), *_of_hosts(hosts), *_of_mounts(mounts.values())]
    by_environment: dict[str, list[Mount]] = {}
    for mount in sorted(mounts.values(), key=lambda mount: natural(mount.host)):
        by_environment.setdefault(mount.environment, []).append(mount)
    return {
        "made_at": now,
        "version": version(),
        "attention": sorted(attention, key=_worst_first),
        "hosts": sorted(hosts, key=_worst_first),
        "environments": [
            {"name": name, "secrets": _secrets(found["secrets"], by_environment.get(name, []))}
            for name, found in sorted(read.items())
            if "secrets" in found
        ],
        "mounts": sorted(mounts.values(), key=lambda mount: (_RANK[mount.state], mount.volume, natural(mount.host))),
        "records": list(reversed(audit["records"])),
        "intact": audit["intact"],
    }


def _worst_first(item: Item) -> tuple[Any, ...]:
    return (_RANK[item["state"]], natural(str(item.get("name", ""))))


def natural(text: str) -> list[tuple[int, str]]:
    """A sort key with web2 before web10."""
    return [
        (int(part), "") if number % 2 else (-1, part) for number, part in enumerate(re.split(r"([0-9]{1,18})", text))
    ]


def _host(inventory: str, answer: Item) -> Item:
    """What a host has answered."""
    agent = answer.get("agent") or {}
    host: Item = {
        "name": agent.get("host") or answer["name"],
        "inventory": inventory,
        "state": "ok",
        "text": "",
        "agent": answer if agent.get("installed") else None,
        "problems": answer.get("problems", []),
    }
    if host["agent"]:
        host["state"] = "attention" if host["problems"] else "ok"
    elif answer.get("unreachable"):
        host.update(state="unreachable", text=str(answer.get("msg") or ""))
    elif agent:
        host.update(state="no agent", text="hostseald is not installed, or does not run")
    elif "failed" in answer or "msg" in answer:
        host.update(state="failed", text=str(answer.get("msg") or "agent_info failed without a message"))
    else:
        host["state"] = "not asked"
    return host


def _complete(host: Item, mounts: list[Mount]) -> None:
    """What the table of hosts tells of its mounts."""
    there = [mount for mount in mounts if mount.state not in ("not delivered", "published", "missing")]
    agent = host["agent"]["agent"] if host["agent"] else {}
    host.update(
        version=agent.get("version", ""),
        tmpfs=agent.get("tmpfs"),
        environments=sorted({mount.environment for mount in there}),
        mounts=len(there),
        secrets=len({(mount.environment, name) for mount in there for name, _version in mount.secrets}),
        containers=sorted({container for mount in there for container in mount.containers}),
        delivered_at=max((mount.delivered_at for mount in mounts), default=""),
    )
    if host["state"] == "ok" and any(STATES[mount.state] in ("bad", "warn") for mount in mounts):
        host["state"] = "attention"


def _mounts(hosts: list[Item], read: Mapping[str, Item], declared: Mapping[str, Iterable[Item]]) -> dict[Key, Mount]:
    """All mounts that anybody speaks of."""
    mounts: dict[Key, Mount] = {}

    def at(*key: str) -> Mount:
        environment, name, host = key
        if (environment, name, host) not in mounts:
            mounts[environment, name, host] = Mount(environment, name, host)
        return mounts[environment, name, host]

    enrolled = {host["inventory"]: host["name"] for host in hosts}
    for host, items in declared.items():
        for item in items:
            mount = at(item["environment"], item["name"], enrolled.get(host, host))
            mount.pins = {
                (secret["source"], secret["version"])
                for secret in item.get("secrets") or []
                if secret.get("version") is not None
            }
    for environment, found in read.items():
        for secret in found.get("secrets", ()):
            for place in secret["delivered"]:
                mount = at(environment, place["mount"], place["host"])
                mount.confirmed = mount.confirmed or set()
                mount.confirmed.add((secret["name"], place["version"]))
                mount.delivered_at = place["delivered_at"]
            for place in secret["published"]:
                at(environment, place["mount"], place["host"]).is_published = True
    for answer in hosts:
        for found in answer["agent"]["mounts"] if answer["agent"] else ():
            at(found["environment"], found["mount"], answer["name"]).agent = found
    return mounts


def _of_the_log(audit: Item) -> Iterable[Item]:
    if not audit["intact"]:
        text = (
            f"Record {audit['broken_at']} of the audit log does not follow from the one before it: somebody edited it."
        )
        yield {"state": "log broken", "name": "audit log", "hosts": [], "text": text}
    # The last word on each mount of a host.
    last = {
        (record["environment"], record["mount"], record["host"]): record
        for record in audit["records"]
        if record["action"] in ("mount.delivered", "mount.refused", "mount.removed")
    }
    for (environment, mount, host), record in last.items():
        if record["action"] == "mount.refused":
            text = f"Refused at {clock(record['at'])}: {record['result']}"
            yield {"state": "refused", "name": f"{environment}.{mount}", "hosts": [host], "text": text}


def _of_environments(read: Mapping[str, Item]) -> Iterable[Item]:
    for name, found in read.items():
        if "secrets" not in found:
            text = str(found.get("msg") or "secret_info failed without a message")
            yield {"state": "unreadable", "name": name, "hosts": [], "text": text}


def _of_hosts(hosts: list[Item]) -> Iterable[Item]:
    seen: dict[str, str] = {}
    for host in hosts:
        name, inventory = host["name"], host["inventory"]
        other = seen.setdefault(name, inventory)
        if other != inventory:
            text = f"The inventory's hosts {other} and {inventory} answer under one name."
            yield {"state": "attention", "name": name, "hosts": [name], "text": text}
        if STATES[host["state"]] in ("bad", "warn") and not host["agent"]:
            yield {"state": host["state"], "name": name, "hosts": [name], "text": host["text"]}
        for problem in host["problems"]:
            yield {"state": "attention", "name": name, "hosts": [name], "text": problem}


def _of_mounts(mounts: Iterable[Mount]) -> Iterable[Item]:
    """One line for each mount and state, however many hosts have it."""
    found: dict[tuple[str, str], tuple[set[str], set[str]]] = {}
    for mount in mounts:
        states = {mount.state, *mount.secrets.values()}
        for state in states & _ADVICE.keys():
            hosts, names = found.setdefault((state, mount.volume), (set(), set()))
            hosts.add(mount.host)
            names |= {name for (name, _version), of_one in mount.secrets.items() if of_one == state}
    for (state, volume), (hosts, names) in found.items():
        which = f" Secrets: {listed(sorted(names, key=natural))}." if names else ""
        yield {
            "state": state,
            "name": volume,
            "hosts": sorted(hosts, key=natural),
            "text": _ADVICE[state] + which,
        }


def _secrets(secrets: list[Item], mounts: list[Mount]) -> list[Item]:
    """The secrets of an environment: the hosts by mount and version, who uses them, and the worst of their states."""
    places: dict[str, list[tuple[Mount, int, str]]] = {}
    for mount in mounts:
        for (name, number), state in mount.secrets.items():
            places.setdefault(name, []).append((mount, number, state))
    return sorted((_secret(secret, places.get(secret["name"], [])) for secret in secrets), key=_worst_first)


def _secret(secret: Item, places: list[tuple[Mount, int, str]]) -> Item:
    groups: dict[tuple[str, int, str], list[str]] = {}
    for mount, number, state in places:
        groups.setdefault((mount.name, number, state), []).append(mount.host)
    return {
        "name": secret["name"],
        "version": secret["version"],
        "made": next((entry for entry in secret["versions"] if entry["version"] == secret["version"]), None),
        "kept": len(secret["versions"]),
        "state": _worst({state for _mount, _number, state in places} or {"unused"}),
        "groups": [
            {"mount": mount, "version": number, "state": state, "hosts": hosts}
            for (mount, number, state), hosts in sorted(groups.items(), key=lambda at: (_RANK[at[0][2]], at[0]))
        ],
        "hosts": len({mount.host for mount, _number, state in places if state != "missing"}),
        "expires_at": min((mount.expires_at for mount, *_rest in places if mount.expires_at), default=None),
        "containers": list(
            dict.fromkeys(f"{container} on {mount.host}" for mount, *_rest in places for container in mount.containers)
        ),
    }


def version() -> str:
    """The collection's: an installed one has a manifest, a checkout galaxy.yml."""
    manifest = COLLECTION / "MANIFEST.json"
    if manifest.exists():
        return str(json.loads(manifest.read_text(encoding="utf-8"))["collection_info"]["version"])
    found = re.search(r"^version: *(\S+)", (COLLECTION / "galaxy.yml").read_text(encoding="utf-8"), re.MULTILINE)
    return found[1] if found else "unknown"


def render(page: Item) -> str:
    """PAGE as HTML. Not by Ansible's own templating: it does not escape."""
    from jinja2 import Environment, StrictUndefined

    engine = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    now = page["made_at"]
    engine.filters.update(
        listed=listed,
        clock=clock,
        span=span,
        csp_hash=csp_hash,
        level=STATES.__getitem__,
        rank=_RANK.__getitem__,
        tally=tally,
        when=lambda milliseconds: _EPOCH + datetime.timedelta(milliseconds=milliseconds),
        left=lambda milliseconds: span(milliseconds / 1000 - now.timestamp()),
    )
    return engine.from_string(TEMPLATE.read_text(encoding="utf-8")).render(page)


def csp_hash(text: str) -> str:
    """The source expression that allows this very inline script or style (CSP level 3, section 2.3.1)."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"


def listed(names: list[str], longest: int = 12) -> str:
    """The first names, and how many there are more."""
    if len(names) <= longest:
        return ", ".join(names)
    return f"{', '.join(names[:longest])} and {len(names) - longest} more"


def tally(items: Iterable[Any]) -> list[tuple[str, int]]:
    """How many items are in each state, the worst first."""
    states = Counter(item["state"] if isinstance(item, dict) else item.state for item in items)
    return sorted(states.items(), key=lambda state: _RANK[state[0]])


def clock(time: str | datetime.datetime) -> str:
    """A time in UTC, to the minute."""
    return (time if isinstance(time, str) else time.isoformat())[:16].replace("T", " ")


def span(seconds: float) -> str:
    """A duration in its largest unit; one that is over is 'over'."""
    if seconds < 0:
        return "over"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def _report(*arguments: Any, **options: Any) -> str:
    try:
        return report(*arguments, **options)
    except (KeyError, TypeError, AttributeError) as error:
        # Its text would quote what it was given.
        raise AnsibleFilterError(
            f"report: what was given is not what the playbook hostseal.secrets.report gives ({type(error).__name__})"
        ) from None


class FilterModule:
    """The filter of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """By name."""
        return {"report": _report}
