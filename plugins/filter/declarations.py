# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What hosts declare in their variables, united. For the playbooks hostseal.secrets.site and rotate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.hostseal.secrets.plugins.plugin_utils._action import plain

Item = dict[str, Any]
# Variable prefix -> what an item of its lists is.
KINDS = {
    "hostseal_environments": "environment",
    "hostseal_mounts": "mount",
    "hostseal_secrets": "secret",
}
_SECRETS = "hostseal_secrets"


def declarations(
    hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], prefix: str, environment: str | None = None
) -> list[Item]:
    """The items of all variables of HOSTS that begin with PREFIX, each once.

    With ENVIRONMENT only its own, without their key "environment".
    AnsibleFilterError when two variables declare one name differently. It names them; a value is never shown.
    """
    if prefix not in KINDS:
        raise AnsibleFilterError(f"declarations: {prefix!r} is none of {', '.join(KINDS)}")
    found: dict[tuple[str, str], tuple[Item, str]] = {}
    for host in plain(hosts):
        variables = hostvars[host]
        for variable in sorted(name for name in variables if name.startswith(prefix)):
            place = f"{variable} of host {host}"
            for item in _items(variables, variable, KINDS[prefix], place):
                key = (item.get("environment", ""), item["name"])
                known, first = found.setdefault(key, (item, place))
                if known != item:
                    name = f"{item['environment']}/{item['name']}" if "environment" in item else item["name"]
                    raise AnsibleFilterError(
                        f"{KINDS[prefix]} {name} is declared twice and differently: {first}, {place}"
                    )
    if environment is None:
        return [item for item, _place in found.values()]
    return [
        {key: value for key, value in item.items() if key != "environment"}
        for (owner, _name), (item, _place) in found.items()
        if owner == environment
    ]


def declarations_by_host(
    hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], prefix: str
) -> dict[str, list[Item]]:
    """The declarations of each host that has some, by the name that the host is enrolled under."""
    united = {
        plain(hostvars[host].get("hostseal_host_name") or host): declarations(hostvars, [host], prefix)
        for host in hosts
    }
    return {name: items for name, items in united.items() if items}


def rotations(
    hostvars: Mapping[str, Mapping[str, Any]], hosts: Iterable[str], wanted: str | Iterable[str]
) -> list[Item]:
    """What hostseal.secrets.secret needs to rotate WANTED, names like ENVIRONMENT/NAME: {"environment", "secrets"}.

    AnsibleFilterError when one of them is not declared by a variable of HOSTS with `generate`, or none is wanted.
    """
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    declared = {f"{item['environment']}/{item['name']}": item for item in declarations(hostvars, hosts, _SECRETS)}
    odd = [plain(name) for name in names if declared.get(name, {}).get("generate") is None]
    if odd or not names:
        raise AnsibleFilterError(
            f"{', '.join(map(repr, odd)) or 'nothing'} can't be rotated: name secrets as ENVIRONMENT/NAME that"
            f" {_SECRETS} declares with generate. Nothing was changed"
        )
    found: dict[str, list[Item]] = {}
    for name in dict.fromkeys(map(plain, names)):
        item = declared[name]
        secret: Item = {key: item[key] for key in ("name", "generate", "keep_versions") if key in item}
        found.setdefault(item["environment"], []).append(secret)
    return [{"environment": environment, "secrets": secrets} for environment, secrets in found.items()]


def _items(variables: Mapping[str, Any], variable: str, kind: str, place: str) -> list[Item]:
    try:
        value = plain(variables[variable])
    except Exception as error:  # pylint: disable=broad-exception-caught
        # Ansible's text quotes the template, and a secret may stand beside it.
        raise AnsibleFilterError(
            f"{place} can't be evaluated ({type(error).__name__}), perhaps a variable or the vault password is missing;"
            " details are withheld, they could hold a secret"
        ) from None
    if value is None:
        return []
    if not isinstance(value, list):
        raise AnsibleFilterError(f"{place} is not a list")
    return [_item(entry, kind, f"{place}, item {number}") for number, entry in enumerate(value, 1)]


def _item(entry: Any, kind: str, place: str) -> Item:
    item: Item = {"name": entry} if kind == "environment" and isinstance(entry, str) else entry
    if not isinstance(item, dict):
        raise AnsibleFilterError(f"{place} is not a dictionary")
    for key in ("name",) if kind == "environment" else ("name", "environment"):
        if not isinstance(item.get(key), str):
            raise AnsibleFilterError(f"{place}: {key} is missing or not a string")
    return item


class FilterModule:
    """The filters of this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """By name."""
        return {
            "declarations": declarations,
            "declarations_by_host": declarations_by_host,
            "rotations": rotations,
        }
