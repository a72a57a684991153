# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Declaring secrets: what was asked for, compared with the store by fingerprint, becomes new versions."""

from __future__ import annotations

import base64
import binascii
import functools
import secrets
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..module_utils._model import MAX_SECRET_BYTES, HostsealError, check_duration, check_name, shorten
from ._audit import Event
from ._backends import Backend, Binding
from ._records import Version, new_version_id, now_ms
from ._transaction import Transaction

ALPHABET = string.ascii_letters + string.digits
_SOURCES = ("value", "value_base64", "value_file", "generate")


@dataclass(frozen=True)
class Declaration:
    """One secret as asked for. value is None when it is to be generated, or when state is absent.

    version is the number of a stored version to make current, keep_versions how many of the newest to keep (0: all).
    """

    name: str
    state: str
    on_difference: str
    value: bytes | None = field(default=None, repr=False)
    generate: tuple[int, str] | None = None
    rotate_after: int = 0
    version: int | None = None
    keep_versions: int = 0
    force: bool = False

    def new_value(self) -> bytes:
        """The value of a new version: the given one, or LENGTH characters of the alphabet."""
        if self.value is not None:
            return self.value
        if self.generate is None:
            raise HostsealError(f"secret {self.name!r}: give a value or generate")
        length, alphabet = self.generate
        return "".join(secrets.choice(alphabet) for _index in range(length)).encode()

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Declaration:
        """From an entry of the module's options, checked as far as it can be without the store."""
        name = check_name("secret", options.get("name"))
        try:
            return cls._checked(name, options)
        except HostsealError as error:
            raise HostsealError(f"secret {shorten(name)}: {error}") from None

    @classmethod
    def _checked(cls, name: str, options: Mapping[str, Any]) -> Declaration:
        given = [source for source in _SOURCES if options.get(source) is not None]
        state = options["state"]
        if state == "absent":
            if given:
                raise HostsealError(f"state absent goes without {given[0]}")
            return cls(name, state, options["on_difference"], force=bool(options.get("force")))
        keep_versions = _count("keep_versions", options.get("keep_versions"))
        if options.get("version") is not None:
            if given or state == "rotated" or options.get("rotate_after"):
                raise HostsealError(
                    "version makes a stored version current: it goes without a value, generate or rotating"
                )
            number = _count("version", options["version"])
            return cls(name, state, options["on_difference"], version=number, keep_versions=keep_versions)
        if len(given) != 1:
            raise HostsealError(
                f"give exactly one of {', '.join(_SOURCES)}" + (f", not {' and '.join(given)}" if given else "")
            )
        value = None if given == ["generate"] else _given_value(given[0], options[given[0]])
        if value == b"":
            raise HostsealError(f"{given[0]} is empty: perhaps what it was looked up from is not set")
        if value is not None and len(value) > MAX_SECRET_BYTES:
            raise HostsealError(f"{given[0]} has {len(value)} bytes, at most {MAX_SECRET_BYTES} are allowed")
        rotate_after = check_duration("rotate_after", options.get("rotate_after") or 0)
        if rotate_after and value is not None:
            raise HostsealError("rotate_after needs generate: a given value does not change by itself")
        return cls(
            name=name,
            state=state,
            on_difference=options["on_difference"],
            value=value,
            generate=_generate(options["generate"]) if value is None else None,
            rotate_after=rotate_after,
            keep_versions=keep_versions,
        )


@dataclass(frozen=True)
class Outcome:
    """What became, or in check mode would become, of one declaration. before and version are numbers or None."""

    name: str
    action: str
    before: int | None
    version: int | None
    pruned: list[int] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        return self.action != "unchanged" or bool(self.pruned)


def declare(
    transaction: Transaction,
    environment: str,
    backend: Callable[[], Backend],
    declarations: Sequence[Declaration],
    check: bool,
) -> list[Outcome]:
    """Bring the secrets of ENVIRONMENT to what is declared, one batch each way; with CHECK only predict."""
    # Opening a backend may be a login: once is enough.
    backend = functools.cache(backend)
    names = [declaration.name for declaration in declarations]
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice:
        raise HostsealError(f"secret {twice!r} is declared twice in one task")
    last = transaction.last_numbers(environment, names)
    current = transaction.current_versions(environment, names)
    same = _same_values(environment, backend, declarations, current)
    new: list[Declaration] = []
    gone: list[str] = []
    outcomes: list[Outcome] = []
    for declaration in declarations:
        version = current.get(declaration.name)
        before = version.number if version else None
        action = _action(declaration, version, same.get(declaration.name))
        if action == "deleted":
            gone.append(declaration.name)
            outcomes.append(Outcome(declaration.name, action, before, None))
        elif action == "unchanged":
            outcomes.append(Outcome(declaration.name, action, before, before))
        elif action == "rolled_back":
            outcomes.append(Outcome(declaration.name, action, before, declaration.version))
        else:
            new.append(declaration)
            outcomes.append(Outcome(declaration.name, action, before, last.get(declaration.name, 0) + 1))
    _refuse_to_delete_what_is_used(transaction, environment, [one for one in declarations if one.name in set(gone)])
    back = [outcome for outcome in outcomes if outcome.action == "rolled_back"]
    _refuse_unknown_versions(transaction, environment, back)
    if not check:
        transaction.remove_versions(environment, gone)
        if new:
            transaction.add_versions(_encrypt(environment, backend(), new, last))
        for outcome in back:
            transaction.make_current(environment, outcome.name, int(outcome.version or 0))
    _prune(transaction, environment, declarations, outcomes, check)
    if not check:
        transaction.record([event for outcome in outcomes for event in _events(environment, outcome)])
    return outcomes


def _events(environment: str, outcome: Outcome) -> list[Event]:
    events = []
    if outcome.action != "unchanged":
        number = outcome.before if outcome.action == "deleted" else outcome.version
        secrets = [{"name": outcome.name, "version": number}]
        events.append(Event(f"secret.{outcome.action}", environment, secrets=secrets))
    if outcome.pruned:
        secrets = [{"name": outcome.name, "version": number} for number in outcome.pruned]
        events.append(Event("secret.pruned", environment, secrets=secrets))
    return events


def _action(declaration: Declaration, current: Version | None, same: bool | None) -> str:
    if declaration.state == "absent":
        return "deleted" if current else "unchanged"
    if declaration.version is not None:
        return "unchanged" if current and current.number == declaration.version else "rolled_back"
    if current is None:
        return "created"
    if declaration.state == "rotated":
        return "rotated"
    if declaration.rotate_after and now_ms() - current.created_at >= declaration.rotate_after * 1000:
        return "rotated"
    if same is not False or declaration.on_difference == "keep":
        return "unchanged"
    if declaration.on_difference == "rotate":
        return "rotated"
    raise HostsealError(
        f"secret {declaration.name!r} has another value than its version {current.number} in the store:"
        " on_difference: rotate makes a new version of it, keep leaves the store's, and nothing was changed"
    )


def _refuse_unknown_versions(transaction: Transaction, environment: str, back: Sequence[Outcome]) -> None:
    stored: dict[str, list[int]] = {}
    for version in transaction.versions(environment, [outcome.name for outcome in back]):
        stored.setdefault(version.name, []).append(version.number)
    for outcome in back:
        if outcome.version not in stored.get(outcome.name, []):
            known = ", ".join(str(number) for number in stored.get(outcome.name, [])) or "none"
            raise HostsealError(
                f"secret {outcome.name!r} has no version {outcome.version} (there: {known}). Nothing was changed"
            )


def _refuse_to_delete_what_is_used(transaction: Transaction, environment: str, gone: Sequence[Declaration]) -> None:
    names = {declaration.name for declaration in gone if not declaration.force}
    if not names:
        return
    used: dict[str, list[str]] = {}
    for receipt in transaction.receipts(environment):
        for name in names & {secret["name"] for secret in receipt.secrets}:
            used.setdefault(name, []).append(f"{receipt.host} in mount {receipt.mount!r}")
    for name, places in sorted(used.items()):
        raise HostsealError(
            f"secret {name!r} is still on hosts: {', '.join(places[:10])}"
            f"{f' and {len(places) - 10} more' if len(places) > 10 else ''}. Their containers are listed by"
            " hostseal.secrets.agent_info and on the page of the playbook hostseal.secrets.report. Deliver these mounts"
            " without it first, or take it away everywhere by the playbook hostseal.secrets.revoke, or say force: true. Nothing was"
            " changed"
        )


def _prune(
    transaction: Transaction,
    environment: str,
    declarations: Sequence[Declaration],
    outcomes: Sequence[Outcome],
    check: bool,
) -> None:
    """Delete what keep_versions leaves out, except what is current or on a host."""
    keep = {declaration.name: declaration.keep_versions for declaration in declarations if declaration.keep_versions}
    if not keep:
        return
    on_hosts = {
        (secret["name"], secret["version"])
        for receipt in transaction.receipts(environment)
        for secret in receipt.secrets
    }
    stored: dict[str, list[Version]] = {}
    for version in transaction.versions(environment, list(keep)):
        stored.setdefault(version.name, []).append(version)
    for outcome in outcomes:
        if outcome.name not in keep:
            continue
        # In check mode the new version is not there yet.
        coming = 1 if check and outcome.action in ("created", "rotated") else 0
        old = stored.get(outcome.name, [])
        surplus = old[: max(0, len(old) + coming - keep[outcome.name])]
        gone = [
            version
            for version in surplus
            if version.number != outcome.version and (version.name, version.number) not in on_hosts
        ]
        outcome.pruned.extend(version.number for version in gone)
        if not check:
            transaction.prune_versions(gone)


def _same_values(
    environment: str,
    backend: Callable[[], Backend],
    declarations: Sequence[Declaration],
    current: Mapping[str, Version],
) -> dict[str, bool]:
    """Whether given values are the stored ones, by fingerprint. Without one to compare, no backend is asked."""
    compared = [
        (Binding(environment, declaration.name, current[declaration.name].number), declaration.value)
        for declaration in declarations
        if declaration.value is not None and declaration.state == "present" and declaration.name in current
    ]
    if not compared:
        return {}
    labels = backend().fingerprint(compared)
    return {
        binding.name: label == current[binding.name].fingerprint
        for (binding, _value), label in zip(compared, labels, strict=True)
    }


def _encrypt(environment: str, backend: Backend, new: Sequence[Declaration], last: Mapping[str, int]) -> list[Version]:
    items = [
        (Binding(environment, declaration.name, last.get(declaration.name, 0) + 1), declaration.new_value())
        for declaration in new
    ]
    created_at = now_ms()
    return [
        Version(environment, binding.name, binding.version, new_version_id(), ciphertext, fingerprint, created_at)
        for (binding, _value), ciphertext, fingerprint in zip(
            items, backend.encrypt(items), backend.fingerprint(items), strict=True
        )
    ]


def _count(what: str, value: object) -> int:
    if value is None:
        return 0
    if not isinstance(value, int) or value < 1:
        raise HostsealError(f"{what} {shorten(value)} is not a number from 1 on")
    return value


def _given_value(source: str, given: Any) -> bytes:
    if source == "value":
        return _utf8("value", str(given))
    if source == "value_base64":
        try:
            return base64.b64decode("".join(str(given).split()), validate=True)
        except (binascii.Error, ValueError):
            raise HostsealError("value_base64 is not base64 (RFC 4648 section 4)") from None
    path = Path(str(given))
    try:
        # One byte more than is allowed tells a file that is too large without reading all of it.
        with open(path, "rb") as file:
            return file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise HostsealError(f"value_file {path} can't be read on the control node: {error.strerror}") from None
    except ValueError:
        raise HostsealError(f"value_file {shorten(given)} can't be read on the control node: it is no path") from None


def _utf8(what: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise HostsealError(f"{what} is not valid Unicode: it has a lone surrogate") from None


def _generate(options: Mapping[str, Any]) -> tuple[int, str]:
    length = 32 if options.get("length") is None else int(options["length"])
    alphabet = ALPHABET if options.get("alphabet") is None else str(options["alphabet"])
    if not 1 <= length <= MAX_SECRET_BYTES:
        raise HostsealError(f"generate: length {length} is outside 1 to {MAX_SECRET_BYTES}")
    if len(set(alphabet)) < 2 or len(set(alphabet)) != len(alphabet):
        raise HostsealError("generate: the alphabet needs two or more characters, each of them once")
    if max(len(_utf8("alphabet", char)) for char in alphabet) * length > MAX_SECRET_BYTES:
        raise HostsealError(
            f"generate: {length} characters of that alphabet may have more than {MAX_SECRET_BYTES} bytes"
        )
    return length, alphabet
