# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the marker hunt has to know of each backend: how its keys are made, and what of it must be found nowhere."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.markers import Markers
from tests.rig.fault_proxy import FaultProxy
from tests.rig.openbao import OpenBao

Task = dict[str, Any]
SECRET = "hostseal.secrets.secret"
_PROD = {"environment": "prod"}
_POLICIES = [f"hostseal-prod-{kind}" for kind in ("writer", "deployer", "rotator")]


class LocalKeys:
    """A key file, below a directory that is not searched."""

    def __init__(self, secure: Path) -> None:
        self._keys = secure / "keys"

    def settings(self) -> dict[str, str]:
        """What the run gets in its environment."""
        return {"HOSTSEAL_KEY_PATH": str(self._keys)}

    def values(self) -> dict[str, str]:
        """More values for the vaulted file of variables, by the name of their marker."""
        return {}

    def markers(self) -> Markers:
        """What of the backend must not be found; all of it is known after the run only."""
        keys = json.loads((self._keys / "prod.jwks").read_text(encoding="utf-8"))["keys"]
        material = {f"key file, {key.get('kid', 'signing key')}": unbase64(key.get("k") or key["d"]) for key in keys}
        assert len(material) >= 3
        return Markers(material)

    def tasks(self) -> list[Task]:
        """Keys and environment."""
        return [
            {"name": "Key", "hostseal.secrets.localkey": {"name": "prod"}},
            {"name": "Environment", "hostseal.secrets.environment": {"name": "prod"}},
        ]

    def failing(self, _named: dict[str, str]) -> list[Task]:
        """More tasks that fail, with values by their names in the file of variables."""
        return []


class Tapping(FaultProxy):
    """It learns every token and secret id that the server hands out."""

    def __init__(self, bao: OpenBao) -> None:
        super().__init__(bao.url, bao.ca_cert, bao._server)
        self._learning = threading.Lock()
        self.learnt: dict[str, bytes] = {}

    def _answer(
        self, request: Any, status: int, fields: Sequence[tuple[str, str]], content: bytes, forwarded: bool
    ) -> None:
        with self._learning:
            for kind, text in _handed_out(json.loads(content) if content else {}):
                self.learnt[f"{kind} {len(self.learnt)}"] = text.encode()
        super()._answer(request, status, fields, content, forwarded)


def _handed_out(body: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for kind, part, member in (
        ("token", "auth", "client_token"),
        ("wrapping token", "wrap_info", "token"),
        ("secret id", "data", "secret_id"),
    ):
        text = (body.get(part) or {}).get(member)
        if text:
            yield kind, text


class VaultKeys:
    """A server, and every way to log in to it. Whatever proves who one is comes from a file or a vaulted variable."""

    def __init__(self, secure: Path, bao: OpenBao, tap: Tapping) -> None:
        self._bao = bao
        self._tap = tap
        _mount, sign = bao.enable_jwt("ci", _POLICIES)
        _mount, password = bao.enable_userpass("ann", _POLICIES)
        _mount, self._role_id, secret_id = bao.enable_approle("ci", _POLICIES)
        token = bao.client().auth.token.create(policies=_POLICIES)["auth"]["client_token"]
        self._secret_id = secure / "secret-id"
        self._secret_id.write_text(secret_id, encoding="ascii")
        self._given = {
            "vault-root": bao.root_token,
            "vault-token": token,
            "vault-jwt": sign(),
            "vault-password": password,
        }
        # Not one of them may be in a file of variables: it is read from its own.
        self._more = {"vault-secret-id": secret_id, "vault-wrong-jwt": sign(aud="another")}

    def settings(self) -> dict[str, str]:
        return {
            "VAULT_ADDR": self._tap.url,
            "VAULT_CACERT": self._bao.ca_cert,
            "VAULT_AUTH_METHOD": "approle",
            "VAULT_ROLE_ID": self._role_id,
            "VAULT_SECRET_ID_FILE": str(self._secret_id),
        }

    def values(self) -> dict[str, str]:
        return {**self._given, "vault-wrong-jwt": self._more["vault-wrong-jwt"]}

    def markers(self) -> Markers:
        kinds = {name.rpartition(" ")[0] for name in self._tap.learnt}
        assert kinds == {"token", "wrapping token"}, kinds
        # Nearly each task has one of its own.
        assert len(self._tap.learnt) > 15
        given = {name: text.encode() for name, text in {**self._given, **self._more}.items()}
        return Markers({**given, **self._tap.learnt})

    def tasks(self) -> list[Task]:
        root = {"auth_method": "token", "token": "{{ value_vault_root }}"}
        logins: dict[str, dict[str, str]] = {
            "token": {"token": "{{ value_vault_token }}"},
            "jwt": {"role_id": "ci", "jwt": "{{ value_vault_jwt }}"},
            "userpass": {"username": "ann", "password": "{{ value_vault_password }}"},
        }
        return [
            {
                "name": "Keys",
                "hostseal.secrets.vault_transit": {"name": "prod", "credentials": "approle", **root},
                # Wrapping tokens are what it returns.
                "no_log": True,
                "register": "transit",
            },
            {
                "name": "Environment",
                "hostseal.secrets.environment": {"name": "prod", "backend": "vault"},
            },
            *(
                {
                    "name": f"Login by {method}",
                    SECRET: {**_PROD, "name": f"by-{method}", "generate": {}, "auth_method": method, **login},
                    "register": "by_method",
                }
                for method, login in logins.items()
            ),
            {
                "name": "Login by variables",
                SECRET: {**_PROD, "name": "by-variables", "generate": {}},
                "vars": {
                    "ansible_hashi_vault_auth_method": "token",
                    "ansible_hashi_vault_token": "{{ value_vault_token }}",
                },
            },
        ]

    def failing(self, named: dict[str, str]) -> list[Task]:
        wrong = named["failing"]
        given = {**_PROD, "name": "x", "value": wrong}
        return [
            {SECRET: {**given, "auth_method": "token", "token": wrong}},
            {SECRET: {**given, "auth_method": "token", "token": f"{named['vault-token']}\n{wrong}"}},
            {SECRET: {**given, "auth_method": "approle", "secret_id": wrong}},
            {SECRET: {**given, "auth_method": "userpass", "username": "ann", "password": wrong}},
            {SECRET: {**given, "auth_method": "jwt", "role_id": "ci", "jwt": named["vault-wrong-jwt"]}},
            {SECRET: {**given, "auth_method": "token", "token": named["vault-token"], "tokenn": wrong}},
            {SECRET: {**given, "url": "https://127.0.0.1:9", "secret_id": wrong}},
            {
                SECRET: {**given, "auth_method": "token", "token": "{{ item }}"},
                "loop": [wrong],
            },
        ]


def unbase64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "==")
