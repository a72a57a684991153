# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Names, limits and the mount: what control node and host agree on before any cryptography.

Plain Python for the control node, the modules and the agent. Everything that is wrong raises HostsealError.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

MAX_SECRET_BYTES = 1 << 20
MAX_MOUNT_BYTES = 8 << 20
MAX_MOUNT_FILES = 256
# In one request to an agent.
MAX_ENVELOPES = 128
# 2**32 - 1 is (uid_t) -1, which chown(2) reads as "leave as it is".
MAX_ID = 2**32 - 2

CHANGE_MODES = ("noop", "signal", "restart")
ON_REMOVE = ("wipe", "keep")
ON_EXPIRY = ("keep", "wipe")
WHILE_BOOTING = ("refuse", "wait")
# Below, a container that starts slowly would find its wrapped token expired; above, a stolen one lives too long.
MIN_WRAP_TTL, MAX_WRAP_TTL = 5, 3600
MAX_LABELS = 64

_NAMES = {
    # An environment and a mount together are a Docker volume name and a file name: 63 + 1 + 128 < 255.
    "environment": (re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*"), 63, "letters, digits, '_' and '-', no dot"),
    "mount": (re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*"), 128, "letters, digits, '_', '.' and '-'"),
    "secret": (re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*"), 255, "letters, digits, '_', '.' and '-', no leading dot"),
    "key": (re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*"), 63, "letters, digits, '_' and '-'"),
    "host": (re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@-]*"), 253, "letters, digits and '_.:@-'"),
    "owner": (re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*"), 128, "letters, digits, '_', '.' and '-'"),
    # Vault keeps the names of policies and roles in lower case: two that differ by that alone would be one there.
    "role": (re.compile(r"[a-z0-9]([a-z0-9_-]*[a-z0-9])?"), 63, "lower case letters, digits, '_' and '-' in between"),
}
_ENGINE = re.compile(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*")
# A hundred years: times in milliseconds stay far below what JSON numbers and databases hold.
MAX_DURATION = 36525 * 86400
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


class HostsealError(Exception):
    """Something is wrong and the message says what. The message never holds a secret's value."""


def check_name(kind: str, value: object) -> str:
    """Return VALUE when it is a good name of KIND (environment, mount, secret, key, host, owner or role).

    The name is what a person typed, so it is quoted in the error, shortened.
    """
    pattern, longest, alphabet = _NAMES[kind]
    if value is None:
        raise HostsealError(f"{kind} name is missing")
    if not isinstance(value, str):
        raise HostsealError(f"{kind} name {value!r} is not a string")
    if not value:
        raise HostsealError(f"{kind} name is empty")
    if len(value) > longest:
        raise HostsealError(f"{kind} name {shorten(value)} has {len(value)} characters, at most {longest} are allowed")
    if not pattern.fullmatch(value):
        raise HostsealError(
            f"{kind} name {shorten(value)} is not allowed: use {alphabet}, beginning with a letter or a digit"
        )
    return str(value)


def check_engine_mount_point(value: object) -> str:
    """Return the path of a Transit engine as it is in an API path, without slashes around it."""
    path = value.strip("/") if isinstance(value, str) else ""
    if not _ENGINE.fullmatch(path) or len(path) > 255 or {".", ".."} & set(path.split("/")):
        raise HostsealError(
            f"engine_mount_point {shorten(value)} is not allowed: use letters, digits, '_', '-', '.' and '/'"
        )
    return path


def shorten(value: object) -> str:
    """Quote what a person typed for an error message."""
    text = repr(value)
    return text if len(text) <= 60 else text[:56] + "..." + text[-1]


def volume_name(environment: str, mount: str) -> str:
    """The Docker volume of a mount. An environment has no dot, so the first dot parts them again."""
    return f"{environment}.{mount}"


def delivery_id(host: str, volume: str, issued_at: int) -> str:
    """One envelope, in the logs of both sides: issue times only ever grow for a mount of a host."""
    return f"{host}/{volume}/{issued_at}"


def split_volume(name: str) -> tuple[str, str]:
    """Environment and mount of a volume name; HostsealError when it is none of ours."""
    environment, dot, mount = name.partition(".")
    if not dot:
        raise HostsealError(f"volume name {shorten(name)} is not ENVIRONMENT.MOUNT")
    return check_name("environment", environment), check_name("mount", mount)


def token_role(environment: object, role: object) -> str:
    """The token role of Vault that a mount's role is, of its policy too: an environment has no dot, so it is unique."""
    name = f"{check_name('environment', environment)}.{check_name('role', role)}"
    if name != name.lower():
        raise HostsealError(
            f"environment {shorten(environment)} can have no tokens: Vault keeps the names of policies in lower case, so"
            f" that it would share them with environment {str(environment).lower()!r}"
        )
    return name


def check_target(value: object) -> str:
    """Return VALUE when it is a relative path that stays inside the volume.

    A component may not begin with two dots: '..data' and the generations beside it are ours.
    """
    if not isinstance(value, str) or not value:
        raise HostsealError(f"target {shorten(value)} is not a file name")
    if value.startswith("/"):
        raise HostsealError(f"target {shorten(value)} is absolute: targets are relative to /run/secrets")
    if len(value.encode("utf-8", "replace")) > 1024:
        raise HostsealError(f"target {shorten(value)} is longer than 1024 bytes")
    if any(ord(char) < 32 or ord(char) == 127 or 0xD800 <= ord(char) <= 0xDFFF for char in value):
        raise HostsealError(f"target {shorten(value)} has a control character or a lone surrogate")
    for part in value.split("/"):
        if part in ("", ".") or part.startswith(".."):
            raise HostsealError(
                f"target {shorten(value)} is not allowed: no empty part, no '.', and no part that begins with '..'"
            )
        if len(part.encode()) > 255:
            raise HostsealError(f"target {shorten(value)} has a part longer than 255 bytes")
    return str(value)


def check_targets(targets: Iterable[str]) -> None:
    """Refuse a set of targets in which two are the same, or one is a directory of another."""
    seen: set[str] = set()
    for target in targets:
        if target in seen:
            raise HostsealError(f"target {shorten(target)} is used twice in one mount")
        seen.add(target)
    for target in seen:
        parent = target
        while "/" in parent:
            parent = parent.rpartition("/")[0]
            if parent in seen:
                raise HostsealError(f"target {shorten(parent)} would be a file and, for {shorten(target)}, a directory")


def check_id(kind: str, value: object) -> int:
    """A uid or gid (KIND) as a number, 0 to 2**32 - 2. Decimal digits in a string are taken too."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,10}", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise HostsealError(f"{kind} {shorten(value)} is not a number: names of the host mean nothing in a container")
    if not 0 <= value <= MAX_ID:
        raise HostsealError(f"{kind} {value} is outside 0 to {MAX_ID}")
    return int(value)


def check_mode(value: object) -> int:
    """A file mode from a string of octal digits such as "0444". Numbers are refused: YAML has eaten their base."""
    if isinstance(value, int) and not isinstance(value, bool):
        raise HostsealError(
            f"mode {value} is a number, which would be 0{value & 0o7777:03o} in octal: quote it,"
            f' for example mode: "0{value & 0o777:03o}" for that or mode: "0444" to read for all'
        )
    if not isinstance(value, str) or not re.fullmatch(r"0{0,2}[0-7]{3}", value):
        raise HostsealError(f'mode {shorten(value)} is not three octal digits with permission bits alone, like "0400"')
    return int(value, 8)


def mode_text(mode: int) -> str:
    """A mode as people write it: "0444"."""
    return f"{mode:04o}"


def check_duration(kind: str, value: object) -> int:
    """Seconds from "90d", "12h", "30m", "10s", "2w" or a plain number of seconds."""
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise HostsealError(f"{kind} {shorten(value)} is not a duration like 30s, 10m, 12h or 90d")
    found = re.fullmatch(r"([0-9]{1,9})([smhdw]?)", str(value).strip())
    if not found:
        raise HostsealError(f"{kind} {shorten(value)} is not a duration like 30s, 10m, 12h or 90d")
    seconds = int(found[1]) * _UNITS[found[2] or "s"]
    if seconds > MAX_DURATION:
        raise HostsealError(f"{kind} {shorten(value)} is more than a hundred years")
    return seconds


def check_signal(value: object) -> str:
    """A signal's name, SIGHUP or HUP, as Docker takes it."""
    name = value.upper() if isinstance(value, str) else ""
    if not name.startswith("SIG"):
        name = "SIG" + name
    if name not in signal.Signals.__members__:
        raise HostsealError(f"change_signal {shorten(value)} is not the name of a signal, like SIGHUP")
    return name


def check_choice(kind: str, value: object, choices: Collection[str]) -> str:
    """VALUE when it is one of CHOICES."""
    if value not in choices:
        raise HostsealError(f"{kind} {shorten(value)} is not one of {', '.join(choices)}")
    return str(value)


def _place(members: Mapping[str, object]) -> tuple[str, int, int, int]:
    """Target, uid, gid and mode of a file: root's and 0444 where MEMBERS say nothing else."""
    return (
        check_target(members.get("target")),
        check_id("uid", members.get("uid", 0)),
        check_id("gid", members.get("gid", 0)),
        check_mode(members.get("mode", "0444")),
    )


@dataclass(frozen=True)
class Entry:
    """One file of a mount. VERSION is a pinned secret version, None for the current one."""

    source: str
    target: str
    uid: int = 0
    gid: int = 0
    mode: int = 0o444
    version: int | None = None

    @classmethod
    def from_options(cls, options: object) -> Entry:
        """From what a playbook says: a dict with Compose's words, or the secret's name alone."""
        if isinstance(options, str):
            options = {"source": options}
        if not isinstance(options, Mapping):
            raise HostsealError(f"a secret of a mount is {shorten(options)}: it needs at least a source")
        given = {key: value for key, value in options.items() if value is not None}
        unknown = sorted(set(given) - {"source", "target", "uid", "gid", "mode", "version"})
        if unknown:
            raise HostsealError(f"a secret of a mount has the unknown option {shorten(unknown[0])}")
        if "source" not in given:
            raise HostsealError("a secret of a mount has no source")
        source = check_name("secret", given["source"])
        version = given.get("version")
        if version is not None and (not isinstance(version, int) or isinstance(version, bool) or version < 1):
            raise HostsealError(f"secret {shorten(source)}: version {shorten(version)} is not a version number")
        try:
            return cls(source, *_place({"target": source, **given}), version)
        except HostsealError as error:
            raise HostsealError(f"secret {shorten(source)}: {error}") from None


@dataclass(frozen=True)
class Token:
    """The file of a mount in which each starting container finds a wrapped Vault token of its own. Times in seconds."""

    role: str
    target: str
    uid: int = 0
    gid: int = 0
    mode: int = 0o444
    wrap_ttl: int = 60

    def as_dict(self) -> dict[str, Any]:
        """The token as it stands in the statement of an envelope."""
        return {**vars(self), "mode": mode_text(self.mode)}

    @classmethod
    def from_options(cls, options: Mapping[str, object]) -> Token:
        """From what a playbook says: a dict with vault_token and where the file is to be."""
        given = {key: value for key, value in options.items() if value is not None}
        unknown = sorted(set(given) - {"vault_token", "target", "uid", "gid", "mode"}, key=str)
        if unknown:
            raise HostsealError(f"a vault_token of a mount has the option {shorten(unknown[0])}, which is not for it")
        wanted = given["vault_token"]
        if not isinstance(wanted, Mapping):
            raise HostsealError(f"vault_token {shorten(wanted)} is not a dictionary with a role")
        rest = {key: value for key, value in wanted.items() if value is not None}
        unknown = sorted(set(rest) - {"role", "wrap_ttl"}, key=str)
        if unknown:
            raise HostsealError(f"vault_token has the unknown option {shorten(unknown[0])}")
        return cls.from_dict({"target": "vault-token", **given, **rest})

    @classmethod
    def from_dict(cls, members: Mapping[str, object]) -> Token:
        """From the members of a statement; what is missing takes its default."""
        role = check_name("role", members.get("role"))
        try:
            wrap_ttl = check_duration("wrap_ttl", members.get("wrap_ttl", 60))
            if not MIN_WRAP_TTL <= wrap_ttl <= MAX_WRAP_TTL:
                raise HostsealError(f"wrap_ttl {wrap_ttl} s is outside {MIN_WRAP_TTL} s to {MAX_WRAP_TTL} s")
            return cls(role, *_place(members), wrap_ttl)
        except HostsealError as error:
            raise HostsealError(f"vault_token of role {shorten(role)}: {error}") from None


@dataclass(frozen=True)
class Match:
    """Which containers may use a mount: those of an image, with labels."""

    image: str | None = None
    labels: tuple[tuple[str, str], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The match as it stands in the statement of an envelope."""
        return {"image": self.image, "labels": dict(self.labels)}

    @classmethod
    def from_options(cls, options: object) -> Match:
        """From what a playbook or a statement says."""
        if not isinstance(options, Mapping):
            raise HostsealError(f"match {shorten(options)} is not a dictionary with image and labels")
        given = {key: value for key, value in options.items() if value is not None}
        unknown = sorted(set(given) - {"image", "labels"}, key=str)
        if unknown:
            raise HostsealError(f"match has the unknown option {shorten(unknown[0])}")
        image, labels = given.get("image"), given.get("labels", {})
        if image is not None and (not isinstance(image, str) or not re.fullmatch(r"[\w./:@-]{1,512}", image, re.ASCII)):
            raise HostsealError(f"match: image {shorten(image)} is not the name of an image")
        if not isinstance(labels, Mapping) or len(labels) > MAX_LABELS:
            raise HostsealError(f"match: labels are not a dictionary of at most {MAX_LABELS}")
        for label, value in labels.items():
            if not isinstance(label, str) or not 1 <= len(label) <= 255:
                raise HostsealError(f"match: label {shorten(label)} is not a label's name")
            if not isinstance(value, str) or len(value) > 4096:
                raise HostsealError(f"match: label {shorten(label)} has a value that is not a string: quote it")
        if image is None and not labels:
            raise HostsealError("match says neither image nor labels")
        return cls(image, tuple(sorted((str(label), str(value)) for label, value in labels.items())))

    def refusal(self, image: str, image_id: str, labels: Mapping[str, str]) -> str | None:
        """Why a container may not use the mount, or None. IMAGE, IMAGE_ID and LABELS are as Docker lists them."""
        if self.image is not None and self.image != image_id and _tagged(self.image) != _tagged(image):
            return f"its image is {shorten(image)}, not {shorten(self.image)}"
        for label, value in self.labels:
            if labels.get(label) != value:
                return f"its label {shorten(label)} is not {shorten(value)}"
        return None


def _tagged(image: str) -> str:
    """IMAGE with the tag that Docker takes where none is given."""
    return image if ":" in image.rpartition("/")[2] or "@" in image else f"{image}:latest"


@dataclass(frozen=True)
class Options:
    """What to do with a mount beside showing its files. Times in seconds."""

    change_mode: str = "noop"
    change_signal: str = "SIGHUP"
    splay: int = 0
    on_remove: str = "wipe"
    owner: str = "default"
    expires_after: int = 0
    on_expiry: str = "keep"
    match: Match | None = None
    while_booting: str = "refuse"

    def as_dict(self) -> dict[str, Any]:
        """The options as they stand in the statement of an envelope.

        Without the default of what came after the first release: digests that hosts hold stay what they are.
        """
        options = dict(vars(self))
        if self.on_expiry == "keep":
            del options["on_expiry"]
        if self.while_booting == "refuse":
            del options["while_booting"]
        if self.match is None:
            del options["match"]
        else:
            options["match"] = self.match.as_dict()
        return options

    @classmethod
    def from_options(cls, options: Mapping[str, object]) -> Options:
        """From what a playbook or a statement says; what is missing or None takes its default."""
        given = {key: value for key, value in options.items() if value is not None}
        unknown = sorted(set(given) - set(cls.__dataclass_fields__))
        if unknown:
            raise HostsealError(f"unknown option {shorten(unknown[0])}")
        made = cls(
            change_mode=check_choice("change_mode", given.get("change_mode", "noop"), CHANGE_MODES),
            change_signal=check_signal(given.get("change_signal", "SIGHUP")),
            splay=check_duration("splay", given.get("splay", 0)),
            on_remove=check_choice("on_remove", given.get("on_remove", "wipe"), ON_REMOVE),
            owner=check_name("owner", given.get("owner", "default")),
            expires_after=check_duration("expires_after", given.get("expires_after", 0)),
            on_expiry=check_choice("on_expiry", given.get("on_expiry", "keep"), ON_EXPIRY),
            match=Match.from_options(given["match"]) if "match" in given else None,
            while_booting=check_choice("while_booting", given.get("while_booting", "refuse"), WHILE_BOOTING),
        )
        if made.on_expiry == "wipe" and not made.expires_after:
            raise HostsealError("on_expiry: wipe needs expires_after: without it, nothing expires")
        if made.on_expiry == "wipe" and made.on_remove == "keep":
            # What a removed mount leaves to its containers has no envelope any more that could expire.
            raise HostsealError("on_expiry: wipe and on_remove: keep contradict each other")
        return made


def _is_token(options: object) -> bool:
    return isinstance(options, Mapping) and options.get("vault_token") is not None


@dataclass(frozen=True)
class Mount:
    """What one service's containers see in /run/secrets: the files of secrets, and at most one wrapped Vault token."""

    environment: str
    name: str
    entries: tuple[Entry, ...]
    options: Options = field(default_factory=Options)
    token: Token | None = None

    @property
    def volume(self) -> str:
        return volume_name(self.environment, self.name)

    @classmethod
    def from_options(cls, options: Mapping[str, object]) -> Mount:
        """From what a playbook says: environment, name, secrets and the fields of Options."""
        environment = check_name("environment", options.get("environment"))
        name = check_name("mount", options.get("name"))
        rest = {key: value for key, value in options.items() if key not in ("environment", "name", "secrets")}
        secrets = options.get("secrets")
        try:
            if not isinstance(secrets, (list, tuple)) or not secrets:
                raise HostsealError("it has no secrets")
            if len(secrets) > MAX_MOUNT_FILES:
                raise HostsealError(f"it has {len(secrets)} secrets, at most {MAX_MOUNT_FILES} are allowed")
            tokens = [Token.from_options(secret) for secret in secrets if _is_token(secret)]
            if len(tokens) > 1:
                raise HostsealError("it has several vault_token: a container has one, whose role has all its policies")
            entries = tuple(Entry.from_options(secret) for secret in secrets if not _is_token(secret))
            check_targets([*(entry.target for entry in entries), *(token.target for token in tokens)])
            if tokens:
                token_role(environment, tokens[0].role)
            made = cls(environment, name, entries, Options.from_options(rest), tokens[0] if tokens else None)
            if made.options.while_booting != "refuse" and not (tokens or made.options.match):
                raise HostsealError("while_booting is about a vault_token or a match, and it has neither")
            return made
        except HostsealError as error:
            raise HostsealError(f"mount {shorten(volume_name(environment, name))}: {error}") from None

    @classmethod
    def list_from_options(cls, items: Iterable[Mapping[str, object]], environment: object) -> list[Mount]:
        """From a list; ENVIRONMENT is that of items which name none."""
        mounts = []
        for item in items:
            if not isinstance(item, Mapping):
                raise HostsealError(f"a mount is {shorten(item)}: it needs a name and secrets")
            mounts.append(cls.from_options({**item, "environment": item.get("environment") or environment}))
        return mounts
