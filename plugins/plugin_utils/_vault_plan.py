# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Changing a Vault server by a plan: what there is, what would be there, and the requests in between."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..module_utils._model import HostsealError
from ._vault import Answer, VaultSession


@dataclass(frozen=True)
class Step:
    """A POST, or a DELETE, that changes something. take() is given the body of its answer."""

    path: str
    body: Mapping[str, Any]
    take: Callable[[dict[str, Any]], None] = lambda _body: None
    # Wrapped for so long, in seconds.
    wrap_ttl: int | None = None
    # Added to the error when it fails.
    advice: str = ""
    method: str = "POST"

    def do(self, session: VaultSession) -> None:
        """Once: a request that may have arrived is not sent again."""
        wrap_ttl = f"{self.wrap_ttl}s" if self.wrap_ttl else None
        try:
            answer = session.ask(self.method, self.path, self.body, repeatable=False, wrap_ttl=wrap_ttl)
            self.take(accepted(session, answer, self.method, self.path, self.body).body)
        except HostsealError as error:
            if not self.advice:
                raise
            raise HostsealError(f"{error}. {self.advice}") from None


@dataclass
class Plan:
    """Steps in their order, readable lines of before and after, and what to tell of it (filled in by steps)."""

    steps: list[Step] = field(default_factory=list)
    before: list[str] = field(default_factory=list)
    after: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    keys: list[dict[str, Any]] = field(default_factory=list)
    credentials: list[dict[str, Any]] = field(default_factory=list)

    def line(self, before: str | None, after: str | None) -> None:
        """What there is of one thing (None: nothing), and what will be."""
        self.before += [before] if before is not None else []
        self.after += [after] if after is not None else []

    def carry_out(self, session: VaultSession) -> None:
        """Do it; nothing when the token is known to lack a right."""
        self._refuse_missing_rights(session)
        for step in self.steps:
            step.do(session)

    def _refuse_missing_rights(self, session: VaultSession) -> None:
        rights = {step.path: {"delete"} if step.method == "DELETE" else {"create", "update"} for step in self.steps}
        paths = list(rights)
        if not paths:
            return
        answer = session.ask("POST", "sys/capabilities-self", {"paths": paths})
        told = answer.body.get("data") or {}
        # A token may not be allowed to ask; the requests themselves show it then.
        missing = [path for path in paths if path in told and not ({"root"} | rights[path]) & set(told[path])]
        if missing:
            raise HostsealError(
                f"Vault at {session.address}: permission denied: the token may not write {', '.join(missing)}. {_SET_UP}."
                " Nothing was changed"
            )


_SET_UP = (
    "A token with the rights for set-up is needed once; with policies: false none are written, and the returned texts"
    " can be written by whoever may"
)


def accepted(
    session: VaultSession, answer: Answer, method: str, path: str, body: Mapping[str, Any] | None = None
) -> Answer:
    """ANSWER when it is a good one, else HostsealError."""
    if answer.status < 400:
        return answer
    error = session.refusal(answer, method, path, body)
    raise HostsealError(f"{error}. {_SET_UP}") if answer.status == 403 else error


def names(session: VaultSession, path: str) -> list[str]:
    """The names of what is below PATH."""
    answer = session.ask("LIST", path)
    if answer.status == 404:
        return []
    return list((accepted(session, answer, "LIST", path).body.get("data") or {}).get("keys") or [])


def policy_lines(name: str, text: str) -> str:
    """A policy for people."""
    return "\n".join([f"policy {name}:", *(f"  {line}" for line in text.splitlines())])


def read(session: VaultSession, path: str) -> dict[str, Any] | None:
    """The data that is at PATH, or None."""
    answer = session.ask("GET", path)
    if answer.status == 404:
        return None
    return dict(accepted(session, answer, "GET", path).body.get("data") or {})


def mount_type(session: VaultSession, kind: str, path: str) -> Answer:
    """Of KIND mounts or auth, what is mounted at PATH: data.type; status 404 for nothing, 403 when it isn't told."""
    answer = session.ask("GET", f"sys/{kind}/{path}")
    if answer.status == 400 and any("engine mount at" in error or "auth engine at" in error for error in answer.errors):
        return Answer(404, {})
    if answer.status == 403 and kind == "mounts":
        # Told to everyone who may do anything at all with the engine.
        seen = session.ask("GET", f"sys/internal/ui/mounts/{path}")
        return seen if seen.status == 200 else answer
    return answer if answer.status == 403 else accepted(session, answer, "GET", f"sys/{kind}/{path}")
