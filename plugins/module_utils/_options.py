# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Argument specs that modules share, and the guard of those that live on the control node alone."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule, env_fallback

STORE: dict[str, Any] = {
    "store": {"type": "str", "fallback": (env_fallback, ["HOSTSEAL_STORE"])},
    "store_password": {"type": "str", "no_log": True, "fallback": (env_fallback, ["HOSTSEAL_STORE_PASSWORD"])},
    "store_password_file": {
        "type": "path",
        "no_log": False,
        "fallback": (env_fallback, ["HOSTSEAL_STORE_PASSWORD_FILE"]),
    },
}

STORE_COPY: dict[str, Any] = {
    "copy_to": {"type": "str"},
    "copy_to_password": {"type": "str", "no_log": True},
    "copy_to_password_file": {"type": "path", "no_log": False},
}


def _vault_option(kind: str, *variables: str, **more: Any) -> dict[str, Any]:
    """An option with the environment variables of community.hashi_vault and of Vault's own tools."""
    names = [f"{prefix}_{variable}" for variable in variables for prefix in ("ANSIBLE_HASHI_VAULT", "VAULT")]
    return {"type": kind, "fallback": (env_fallback, names), **more}


# The names of community.hashi_vault; what holds a secret has a variant that names a file.
VAULT: dict[str, Any] = {
    "url": _vault_option("str", "ADDR"),
    "ca_cert": _vault_option("path", "CA_CERT", "CACERT", aliases=["cacert"]),
    "validate_certs": _vault_option("bool", "VALIDATE_CERTS", default=True),
    "namespace": _vault_option("str", "NAMESPACE"),
    "proxies": _vault_option("dict", "PROXIES"),
    "timeout": _vault_option("int", "TIMEOUT"),
    "retries": _vault_option("int", "RETRIES", "MAX_RETRIES"),
    "auth_method": _vault_option("str", "AUTH_METHOD", choices=["token", "approle", "jwt", "cert", "userpass"]),
    "mount_point": _vault_option("str", "MOUNT_POINT"),
    "token": _vault_option("str", "TOKEN", no_log=True),
    "token_path": _vault_option("path", "TOKEN_PATH", no_log=False),
    "token_file": _vault_option("str", "TOKEN_FILE", no_log=False),
    "role_id": _vault_option("str", "ROLE_ID"),
    "secret_id": _vault_option("str", "SECRET_ID", no_log=True),
    "secret_id_file": _vault_option("path", "SECRET_ID_FILE", no_log=False),
    "username": _vault_option("str", "USERNAME"),
    "password": _vault_option("str", "PASSWORD", no_log=True),
    "password_file": _vault_option("path", "PASSWORD_FILE", no_log=False),
    "jwt": _vault_option("str", "JWT", no_log=True),
    "jwt_file": _vault_option("path", "JWT_FILE", no_log=False),
    "cert_auth_public_key": _vault_option("path", "CERT_AUTH_PUBLIC_KEY", "CLIENT_CERT"),
    "cert_auth_private_key": _vault_option("path", "CERT_AUTH_PRIVATE_KEY", "CLIENT_KEY", no_log=False),
}
BACKEND: dict[str, Any] = {
    # A path, not a key: it may be shown.
    "key_path": {"type": "path", "no_log": False, "fallback": (env_fallback, ["HOSTSEAL_KEY_PATH", "ENC_KEY_PATH"])},
    **VAULT,
}
_FILE: dict[str, Any] = {
    "source": {"type": "str"},
    # Says which token, and holds none.
    "vault_token": {
        "type": "dict",
        "no_log": False,
        "options": {"role": {"type": "str", "required": True}, "wrap_ttl": {"type": "str"}},
    },
    "target": {"type": "str"},
    # raw: whether a number or a string was given decides what it means, see check_mode().
    "uid": {"type": "raw"},
    "gid": {"type": "raw"},
    "mode": {"type": "raw"},
    "version": {"type": "int"},
}
MOUNT: dict[str, Any] = {
    # Names and places of secrets, no values.
    "secrets": {
        "type": "list",
        "elements": "dict",
        "no_log": False,
        "options": _FILE,
        "required_one_of": [["source", "vault_token"]],
        "mutually_exclusive": [["source", "vault_token"], ["version", "vault_token"]],
    },
    "change_mode": {"type": "str", "choices": ["noop", "signal", "restart"]},
    "change_signal": {"type": "str"},
    "splay": {"type": "str"},
    "on_remove": {"type": "str", "choices": ["wipe", "keep"]},
    "owner": {"type": "str"},
    "expires_after": {"type": "str"},
    "on_expiry": {"type": "str", "choices": ["keep", "wipe"]},
    "match": {"type": "dict", "options": {"image": {"type": "str"}, "labels": {"type": "dict"}}},
    "while_booting": {"type": "str", "choices": ["refuse", "wait"]},
}
MOUNTS: dict[str, Any] = {
    "mounts": {
        "type": "list",
        "elements": "dict",
        "options": {"environment": {"type": "str"}, "name": {"type": "str", "required": True}, **MOUNT},
    },
}


def refuse_to_run_on_a_host(argument_spec: dict[str, Any]) -> None:
    """The main() of a module whose work is done by its action plugin on the control node."""
    module = AnsibleModule(argument_spec=argument_spec, supports_check_mode=True)
    module.fail_json(
        msg="it works on the control node through its action plugin of the same name, it can't be run on a host"
    )
