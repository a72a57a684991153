# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The bridge: gets one-time tokens for containers from Vault. It has the signing key and the network, and keeps nothing.

The agent asks it by a socket. It signs a short JWT (RFC 7519, EdDSA of RFC 8037), logs in with it at the host's own JWT
auth mount, and has a token of a token role made, response-wrapped: Vault denies the same request without wrapping. It
never sees the token inside. https://openbao.org/api-docs/auth/jwt/, https://openbao.org/docs/concepts/response-wrapping/
"""

from __future__ import annotations

import json
import os
import re
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from jwcrypto.jwk import JWK
from jwcrypto.jwt import JWT

from ._http import HttpError, Request
from ._https import tls_context
from ._jose import load_signing_key
from ._model import HostsealError, check_name, token_role
from ._vault_client import Reply, VaultClient, VaultError

ISSUER = AUDIENCE = "hostseal"
SECONDS_TO_ASK = 8.0
_JWT_SECONDS = 60
_CLOCK_SECONDS = 15
_TOKEN = re.compile(r"[!-~]{1,4096}")
_AGAIN = "run hostseal.secrets.vault_bridge for this host"


@dataclass(frozen=True)
class Login:
    """Where the host logs in, and with what."""

    host: str
    mount: str
    key: JWK

    def jwt(self, claims: dict[str, str]) -> str:
        """A JWT that is good for a minute."""
        now = int(time.time())
        usual = {"iss": ISSUER, "sub": self.host, "aud": AUDIENCE, "iat": now, "nbf": now, "exp": now + _JWT_SECONDS}
        token = JWT(
            header={"alg": "EdDSA", "typ": "JWT"}, claims={**usual, "jti": uuid.uuid4().hex, **claims}, algs=["EdDSA"]
        )
        token.make_signed_token(self.key)
        return str(token.serialize())


class Bridge:
    """Answers the agent. Whatever Vault does, an answer comes within SECONDS_TO_ASK, or the agent goes on without it."""

    def __init__(self, vault: VaultClient, login: Login) -> None:
        self._vault = vault
        self._login = login

    def handle(self, request: Request) -> tuple[int, dict[str, Any]]:
        """One request of the agent."""
        actions = {"/v1/token": self._token, "/v1/lookup": self._lookup, "/v1/end": self._end}
        action = actions.get(request.path)
        if action is None or request.method != "POST":
            raise HttpError(404, "there is no such request")
        try:
            return 200, action(request.json(), time.monotonic() + SECONDS_TO_ASK)
        except VaultError as error:
            raise HttpError(503, str(error)) from None
        except HostsealError as error:
            raise HttpError(400, str(error)) from None

    def _token(self, asked: dict[str, Any], deadline: float) -> dict[str, Any]:
        """A wrapped token: {"token", "accessor" of the token inside, "seconds" it can be unwrapped}."""
        role = token_role(asked.get("environment"), asked.get("role"))
        claims = {
            "environment": asked["environment"],
            "mount": check_name("mount", asked.get("mount")),
            "role": asked["role"],
        }
        wrap_ttl = asked.get("wrap_ttl")
        if not isinstance(wrap_ttl, int) or wrap_ttl < 1:
            raise HostsealError("wrap_ttl is not a number of seconds")
        client_token = self._log_in(role, claims, deadline)
        path = f"auth/token/create/{role}"
        headers = {"X-Vault-Token": client_token, "X-Vault-Wrap-TTL": f"{wrap_ttl}s"}
        meta = {"host": self._login.host, "environment": claims["environment"], "mount": claims["mount"]}
        try:
            reply = self._vault.post(path, {"meta": meta}, deadline, headers)
        finally:
            self._log_out(client_token)
        if reply.status != 200:
            raise self._refused(reply, path, f"its token role or its policy does not allow it: {_AGAIN}")
        if reply.member("wrap_info", "creation_path") != path:
            raise VaultError("Vault's answer was wrapped by another request: is there something between?")
        return {
            "token": reply.member("wrap_info", "token"),
            "accessor": reply.member("wrap_info", "wrapped_accessor"),
            "seconds": reply.member("wrap_info", "ttl"),
        }

    def _lookup(self, asked: dict[str, Any], deadline: float) -> dict[str, Any]:
        """Whether a wrapped token was unwrapped, or has expired: {"used"}."""
        path = "sys/wrapping/lookup"
        reply = self._vault.post(path, {"token": _token(asked, "token")}, deadline)
        if reply.status == 400 and "wrapping token" in reply.errors:
            return {"used": True}
        if reply.status != 200:
            raise self._refused(reply, path, "it does not look up wrapped tokens")
        return {"used": False}

    def _end(self, asked: dict[str, Any], deadline: float) -> dict[str, Any]:
        """Revoke a token by its accessor; fine when it is gone."""
        accessor = _token(asked, "accessor")
        client_token = self._log_in("revoke", {"role": "revoke"}, deadline)
        path = "auth/token/revoke-accessor"
        try:
            reply = self._vault.post(path, {"accessor": accessor}, deadline, {"X-Vault-Token": client_token})
        finally:
            self._log_out(client_token)
        if reply.status >= 300 and not (reply.status in (400, 403, 404) and "invalid accessor" in reply.errors):
            raise self._refused(reply, path, f"its policy does not allow it: {_AGAIN}")
        return {}

    def _log_in(self, role: str, claims: dict[str, str], deadline: float) -> str:
        path = f"auth/{self._login.mount}/login"
        reply = self._vault.post(path, {"role": role, "jwt": self._login.jwt(claims)}, deadline)
        if reply.status == 200:
            return str(reply.member("auth", "client_token"))
        why = f"this host's key, mount or role is not among what it trusts (retired?): {_AGAIN}"
        if reply.status == 400 and "could not be found" in reply.errors:
            why = f"it has no role {role}: {_AGAIN}"
        elif reply.status in (400, 403) and reply.ahead is not None and abs(reply.ahead) > _CLOCK_SECONDS:
            behind = "ahead of" if reply.ahead > 0 else "behind"
            why = f"this host's clock is {abs(reply.ahead):.0f} s {behind} Vault's"
        raise self._refused(reply, path, why)

    def _log_out(self, client_token: str) -> None:
        """Give up the right to ask, without holding anybody up; it ends by itself a minute later."""

        def revoke() -> None:
            with suppress(VaultError):
                deadline = time.monotonic() + SECONDS_TO_ASK
                self._vault.post("auth/token/revoke-self", {}, deadline, {"X-Vault-Token": client_token})

        threading.Thread(target=revoke, daemon=True).start()

    def _refused(self, reply: Reply, path: str, why: str) -> VaultError:
        if reply.status == 503 and "sealed" in reply.errors:
            why = "it is sealed"
        elif reply.status == 429 or reply.status >= 500:
            why = "it can't answer now"
        return VaultError(f"Vault at {self._vault.address} refuses {path} (status {reply.status}): {why}")


def load_bridge(folder: str) -> Bridge:
    """From what systemd's LoadCredential= put into FOLDER; HostsealError says what is wrong with it."""
    try:
        with open(os.path.join(folder, "bridge.json"), encoding="utf-8") as file:
            settings = json.load(file)
        with open(os.path.join(folder, "bridge.key"), encoding="utf-8") as file:
            key = load_signing_key(file.read(), private=True)
        host = check_name("host", settings["host"])
        vault = VaultClient(settings["address"], tls_context(folder, "bridge"), settings["namespace"])
        return Bridge(vault, Login(host, f"{settings['prefix']}/{host}", key))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise HostsealError(
            f"the bridge's files can't be read ({type(error).__name__}): run the role hostseal.secrets.host_agent"
        ) from None


def _token(asked: dict[str, Any], member: str) -> str:
    value = asked.get(member)
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise HostsealError(f"{member} is missing or malformed")
    return value
