# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Requests to Vault or OpenBao: hosts have no hvac."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

from ._https import HttpsClient, HttpsError
from ._model import HostsealError

_MAX_ANSWER_BYTES = 1 << 20


class VaultError(HostsealError):
    """Vault did not answer, or not as it should; the message says why."""


@dataclass(frozen=True)
class Reply:
    """STATUS and JSON body. AHEAD is by how many seconds the host's clock is ahead of the server's, None if unknown."""

    status: int
    body: dict[str, Any]
    ahead: float | None

    def __repr__(self) -> str:
        return f"Reply({self.status})"

    @property
    def errors(self) -> str:
        """The server's own words, for telling one cause from another; they are not repeated."""
        errors = self.body.get("errors")
        return " ".join(map(str, errors)) if isinstance(errors, list) else ""

    def member(self, *names: str) -> Any:
        """A member of the body that has to be there."""
        value: Any = self.body
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        if not value:
            raise VaultError(f"Vault's answer has no {'.'.join(names)}: is the address Vault's?")
        return value


class VaultClient:
    """ADDRESS is Vault's, or that of a reverse proxy before it."""

    def __init__(self, address: str, context: ssl.SSLContext, namespace: str = "") -> None:
        self.address = address
        self._client = HttpsClient("Vault", address, context)
        self._headers = {"X-Vault-Request": "true", "Content-Type": "application/json"}
        if namespace:
            self._headers["X-Vault-Namespace"] = namespace

    def post(
        self, path: str, body: Mapping[str, Any], deadline: float, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Ask PATH (below /v1/); the reply whatever its status. DEADLINE is one of time.monotonic()."""
        try:
            answer = self._client.ask(
                "POST",
                f"/v1/{quote(path)}",
                deadline,
                _MAX_ANSWER_BYTES,
                json.dumps(body),
                {**self._headers, **(headers or {})},
            )
        except HttpsError as error:
            raise VaultError(str(error)) from None
        return Reply(answer.status, self._json(answer.status, answer.body), _ahead(answer.headers.get("Date")))

    def _json(self, status: int, text: bytes) -> dict[str, Any]:
        if not text.strip():
            return {}
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise VaultError(
                f"what answers at {self.address} is no Vault, or a proxy that can't reach it (status {status})"
            )
        return body


def _ahead(date: str | None) -> float | None:
    try:
        return time.time() - parsedate_to_datetime(date).timestamp() if date else None
    except (ValueError, TypeError, IndexError):
        return None
