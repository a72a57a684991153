# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Requests to Vault or OpenBao by the standard library: hosts have no hvac. Every one has a deadline."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit

from ._model import HostsealError, shorten

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
    """ADDRESS is Vault's, or that of a reverse proxy before it. No redirect is followed and no proxy of the environment used."""

    def __init__(self, address: str, context: ssl.SSLContext, namespace: str = "") -> None:
        parts = urlsplit(address)
        if parts.scheme != "https" or not parts.hostname or parts.query or parts.username:
            raise VaultError(f"Vault's address {shorten(address)} is not like https://vault.example.com:8200")
        self.address = address
        self._host, self._port = parts.hostname, parts.port or 443
        self._path = parts.path.rstrip("/")
        self._context = context
        self._headers = {"X-Vault-Request": "true", "Content-Type": "application/json"}
        if namespace:
            self._headers["X-Vault-Namespace"] = namespace

    def post(
        self, path: str, body: Mapping[str, Any], deadline: float, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """Ask PATH (below /v1/); the reply whatever its status. DEADLINE is one of time.monotonic()."""
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise self._slow()
        connection = http.client.HTTPSConnection(self._host, self._port, timeout=remaining, context=self._context)
        try:
            target = f"{self._path}/v1/{quote(path)}"
            connection.request("POST", target, json.dumps(body), {**self._headers, **(headers or {})})
            response = connection.getresponse()
            text = b""
            while len(text) < _MAX_ANSWER_BYTES and (more := response.read1(1 << 16)):
                text += more
                if time.monotonic() > deadline:
                    raise self._slow()
            return Reply(response.status, self._json(response.status, text), _ahead(response.headers.get("Date")))
        except ssl.SSLError as error:
            # An SSLCertVerificationError has the reason as a number's text of OpenSSL's own.
            why = getattr(error, "verify_message", None) or error.reason or type(error).__name__
            raise VaultError(f"no trusted connection with Vault at {self.address}: {why}") from None
        except TimeoutError:  # also socket.timeout, from Python 3.10 on
            raise self._slow() from None
        except (OSError, http.client.HTTPException) as error:
            if type(error).__name__ == "timeout":
                raise self._slow() from None
            why = getattr(error, "strerror", None) or type(error).__name__
            raise VaultError(f"Vault at {self.address} can't be reached: {why}") from None
        finally:
            connection.close()

    def _slow(self) -> VaultError:
        return VaultError(f"Vault at {self.address} did not answer in time")

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
