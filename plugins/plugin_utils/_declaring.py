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
from ._backends import Backend, Binding
from ._store import Transaction, Version, new_version_id, now_ms

ALPHABET = string.ascii_letters + string.digits
_SOURCES = ("value", "value_base64", "value_file", "generate")


@dataclass(frozen=True)
class Declaration:
    """One secret as asked for. value is None when it is to be generated, or when state is absent."""

    name: str
    state: str
    on_difference: str
    value: bytes | None = field(default=None, repr=False)
    generate: tuple[int, str] | None = None
    rotate_after: int = 0

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
            return cls(name, state, options["on_difference"])
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
        )


@dataclass(frozen=True)
class Outcome:
    """What became, or in check mode would become, of one declaration. before and version are numbers or None."""

    name: str
    action: str
    before: int | None
    version: int | None

    @property
    def changed(self) -> bool:
        return self.action != "unchanged"


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
        else:
            new.append(declaration)
            outcomes.append(Outcome(declaration.name, action, before, last.get(declaration.name, 0) + 1))
    if not check:
        transaction.remove_versions(environment, gone)
        if new:
            transaction.add_versions(_encrypt(environment, backend(), new, last))
    return outcomes


def _action(declaration: Declaration, current: Version | None, same: bool | None) -> str:
    if declaration.state == "absent":
        return "deleted" if current else "unchanged"
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
