# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the holder of each policy can do and can't, by the server's answers to real requests."""

from __future__ import annotations

import base64
import itertools
from typing import Any

import pytest

from tests.integration.vault.setting_up import ask, data, set_up, tokens
from tests.rig.openbao import OpenBao

Request = tuple[str, str, dict[str, Any]]
KINDS = ("writer", "deployer", "rotator")
VALUE = base64.b64encode(b"value").decode()
CONTEXT = base64.b64encode(b"context").decode()
REFUSED = 403


def _encrypt(bao: OpenBao, mount: str, key: str) -> str:
    body = {"plaintext": VALUE, "context": CONTEXT}
    answer = ask(bao, "POST", f"{mount}/encrypt/{key}", body).json()
    return str(answer["data"]["ciphertext"])


def _work(mount: str, key: str, ciphertext: str) -> dict[str, Request]:
    """What somebody needs of the keys: exactly one policy has each."""
    return {
        "encrypt": ("POST", f"{mount}/encrypt/{key}", {"plaintext": VALUE, "context": CONTEXT}),
        "fingerprint": ("POST", f"{mount}/hmac/{key}-hmac/sha2-256", {"input": VALUE, "key_version": 1}),
        "decrypt": ("POST", f"{mount}/decrypt/{key}", {"ciphertext": ciphertext, "context": CONTEXT}),
        "sign": ("POST", f"{mount}/sign/{key}-sign", {"input": VALUE}),
        "read the public key": ("GET", f"{mount}/keys/{key}-sign", {}),
        "rewrap": ("POST", f"{mount}/rewrap/{key}", {"ciphertext": ciphertext, "context": CONTEXT}),
        "rotate": ("POST", f"{mount}/keys/{key}/rotate", {}),
    }


ALLOWED = {
    "writer": {"encrypt", "fingerprint"},
    "deployer": {"decrypt", "sign", "read the public key"},
    "rotator": {"rewrap", "rotate"},
}


def _never(mount: str, key: str, ciphertext: str) -> dict[str, Request]:
    """What nobody may do with one of these policies."""
    paths = [
        *[("GET", f"{mount}/keys/{name}") for name in (key, f"{key}-hmac", f"{key}-none")],
        *[("LIST", f"{mount}/keys{slash}") for slash in ("", "/")],
        *[("POST", f"{mount}/keys/{key}{end}/rotate") for end in ("-sign", "-hmac")],
        *[("POST", f"{mount}/keys/{key}{end}/config") for end in ("", "-sign", "-hmac")],
        *[("DELETE", f"{mount}/keys/{key}{end}") for end in ("", "-sign", "-hmac")],
        *[("POST", f"{mount}/keys/{key}{end}") for end in ("", "-sign", "-more")],
        *[("POST", f"{mount}/keys/{key}/{word}") for word in ("trim", "import", "import_version", "soft-delete")],
        *[("GET", f"{mount}/export/{kind}/{key}") for kind in ("encryption-key", "hmac-key")],
        ("GET", f"{mount}/export/signing-key/{key}-sign"),
        ("GET", f"{mount}/export/hmac-key/{key}-hmac"),
        *[("GET", f"{mount}/{word}/{key}") for word in ("backup", "byok-export")],
        ("POST", f"{mount}/restore"),
        ("POST", f"{mount}/restore/{key}"),
        *[("POST", f"{mount}/datakey/{kind}/{key}") for kind in ("plaintext", "wrapped")],
        *[("GET", f"{mount}/{word}") for word in ("wrapping_key", "cache-config", "config/keys")],
        *[("POST", f"{mount}/{word}") for word in ("cache-config", "config/keys", "random", "hash")],
        *[("GET", f"sys/{word}") for word in ("mounts", "auth", "policies/acl", "audit", "leases", "raw/x", "metrics")],
        *[("GET", f"sys/{kind}/{mount}") for kind in ("mounts", "auth", "policies/acl")],
        *[("POST", f"sys/{word}") for word in ("mounts/x", "auth/x", "policies/acl/x", "capabilities-self", "seal")],
        *[("DELETE", f"sys/{word}") for word in (f"mounts/{mount}", f"policies/acl/{mount}-{key}-writer")],
        *[
            ("POST", f"auth/token/{word}")
            for word in ("create", "create-orphan", "lookup", f"create/{mount}-{key}-writer")
        ],
        *[("GET", f"auth/{word}") for word in ("token/roles/x", "approle/role/x", "approle/role/x/role-id")],
        ("POST", f"auth/approle/role/{mount}-{key}-writer/secret-id"),
        ("GET", "cubbyhole/x"),
        ("GET", "identity/entity/id"),
    ]
    bodies: dict[str, Request] = {f"{method} {path}": (method, path, {}) for method, path in paths}
    return {
        **bodies,
        "encrypt under a new name": ("POST", f"{mount}/encrypt/{key}-new", {"plaintext": VALUE, "context": CONTEXT}),
        "encrypt with the signing key": ("POST", f"{mount}/encrypt/{key}-sign", {"plaintext": VALUE}),
        "hmac by another algorithm": ("POST", f"{mount}/hmac/{key}-hmac/sha2-512", {"input": VALUE}),
        "hmac by the default one": ("POST", f"{mount}/hmac/{key}-hmac", {"input": VALUE}),
        "hmac by the encrypting key": ("POST", f"{mount}/hmac/{key}/sha2-256", {"input": VALUE}),
        "sign with a hash": ("POST", f"{mount}/sign/{key}-sign/sha2-256", {"input": VALUE}),
        "verify a signature": ("POST", f"{mount}/verify/{key}-sign", {"input": VALUE, "signature": "vault:v1:AA=="}),
        "verify a fingerprint": ("POST", f"{mount}/verify/{key}-hmac", {"input": VALUE, "hmac": "vault:v1:AA=="}),
        "rewrap by the signing key": ("POST", f"{mount}/rewrap/{key}-sign", {"ciphertext": ciphertext}),
    }


def _statuses(bao: OpenBao, token: str, requests: dict[str, Request]) -> dict[str, int]:
    return {
        name: ask(bao, method, path, body if method == "POST" else None, token=token).status_code
        for name, (method, path, body) in requests.items()
    }


@pytest.mark.parametrize("kind", KINDS)
def test_each_does_all_of_its_own_and_nothing_else(bao: OpenBao, mount: str, kind: str) -> None:
    token = tokens(bao, mount)[kind]
    ciphertext = _encrypt(bao, mount, "prod")
    work = _statuses(bao, token, _work(mount, "prod", ciphertext))
    assert {name for name, status in work.items() if status == 200} == ALLOWED[kind]
    assert {status for name, status in work.items() if name not in ALLOWED[kind]} == {REFUSED}
    never = _statuses(bao, token, _never(mount, "prod", ciphertext))
    assert {name: status for name, status in never.items() if status != REFUSED} == {}
    own = [("GET", "lookup-self"), ("POST", "renew-self"), ("POST", "revoke-self")]
    assert [ask(bao, method, f"auth/token/{word}", token=token).status_code for method, word in own] == [200, 200, 204]
    assert ask(bao, "GET", "auth/token/lookup-self", token=token).status_code == REFUSED


def test_what_is_refused_is_refused_for_the_policy_alone(bao: OpenBao, mount: str) -> None:
    """With the root token the same requests find a real server behind them, or the refusals would say nothing."""
    set_up(bao, mount)
    ciphertext = _encrypt(bao, mount, "prod")
    destructive = ("DELETE", "seal", "sys/mounts/x", "sys/auth/x", "sys/policies/acl/x", "/trim")
    harmless = {
        name: request
        for name, request in _never(mount, "prod", ciphertext).items()
        if not any(word in name for word in destructive)
    }
    refused = {name for name, status in _statuses(bao, bao.root_token, harmless).items() if status == REFUSED}
    assert refused == set()
    assert set(_statuses(bao, bao.root_token, _work(mount, "prod", ciphertext)).values()) == {200}


def test_a_writer_makes_no_new_key_where_one_was_deleted(bao: OpenBao, mount: str) -> None:
    """The server would make one on the way, of its own kind, to a token that may create."""
    writer = tokens(bao, mount)["writer"]
    ask(bao, "POST", f"{mount}/keys/prod/config", {"deletion_allowed": True})
    assert ask(bao, "DELETE", f"{mount}/keys/prod").status_code == 204
    body = {"plaintext": VALUE, "context": CONTEXT}
    assert ask(bao, "POST", f"{mount}/encrypt/prod", body, token=writer).status_code == REFUSED
    assert data(bao, f"{mount}/keys/prod") == {}


def test_two_environments_open_nothing_of_each_other(bao: OpenBao, mount: str) -> None:
    """Also not one whose name begins with the other's, nor one of the same name in another engine."""
    places = [(mount, "prod"), (mount, "prod2"), (mount, "staging"), (f"{mount}-more", "prod")]
    held = {place: tokens(bao, *place) for place in places}
    work = {place: _work(*place, _encrypt(bao, *place)) for place in places}
    for mine, other in itertools.permutations(places, 2):
        for kind in KINDS:
            assert set(_statuses(bao, held[mine][kind], work[other]).values()) == {REFUSED}, (mine, other, kind)
    for place, kind in itertools.product(places, KINDS):
        statuses = _statuses(bao, held[place][kind], work[place])
        assert {name for name, status in statuses.items() if status == 200} == ALLOWED[kind]


def test_the_ciphertext_of_another_environment_does_not_open_with_the_own_key(bao: OpenBao, mount: str) -> None:
    deployer = tokens(bao, mount, "prod")["deployer"]
    set_up(bao, mount, "staging")
    body = {"ciphertext": _encrypt(bao, mount, "staging"), "context": CONTEXT}
    answer = ask(bao, "POST", f"{mount}/decrypt/prod", body, token=deployer)
    assert answer.status_code == 400
    assert "plaintext" not in answer.text


def _token(bao: OpenBao, *policies: str) -> str:
    body = {"policies": policies, "no_default_policy": True}
    return str(ask(bao, "POST", "auth/token/create", body).json()["auth"]["client_token"])


def test_denials_outweigh_broader_policies_of_the_same_token(bao: OpenBao, mount: str) -> None:
    set_up(bao, mount)
    every = '{ capabilities = ["create", "read", "update", "delete", "list", "sudo"] }'
    broad = [f"{mount}/*", f"{mount}/keys/*", f"{mount}/keys/+", f"{mount}/keys/+/*", "sys/*", "s*"]
    text = "\n".join(f'path "{path}" {every}' for path in broad)
    assert ask(bao, "POST", f"sys/policies/acl/{mount}-broad", {"policy": text}).status_code == 204
    alone, both = _token(bao, f"{mount}-broad"), _token(bao, f"{mount}-broad", f"{mount}-prod-deployer")
    denied: dict[str, Request] = {
        f"{method} {path}": (method, path, {})
        for method, path in (
            ("GET", f"{mount}/keys/prod"),
            ("LIST", f"{mount}/keys/"),
            ("POST", f"{mount}/keys/prod/config"),
            ("POST", f"{mount}/keys/prod/rotate"),
            ("GET", "sys/mounts"),
            ("GET", f"sys/policies/acl/{mount}-broad"),
        )
    }
    assert set(_statuses(bao, alone, denied).values()) == {200}
    assert set(_statuses(bao, both, denied).values()) == {REFUSED}
    assert ask(bao, "GET", f"{mount}/keys/prod-sign", token=both).status_code == 200


def test_one_token_may_have_the_policies_of_several_environments(bao: OpenBao, mount: str) -> None:
    names = ("prod", "staging")
    for name in names:
        set_up(bao, mount, name)
    token = _token(bao, *(f"{mount}-{name}-{kind}" for name in names for kind in KINDS))
    for name in names:
        assert set(_statuses(bao, token, _work(mount, name, _encrypt(bao, mount, name))).values()) == {200}
    assert ask(bao, "GET", f"{mount}/keys/prod", token=token).status_code == REFUSED


def test_the_returned_texts_are_what_is_written(bao: OpenBao, mount: str) -> None:
    """For people who may not let Ansible write policies: an export that works as it stands."""
    set_up(bao, mount, policies=False)
    assert not [name for name in data(bao, "sys/policies/acl", "LIST")["keys"] if name.startswith(mount)]
    from ansible_collections.hostseal.secrets.plugins.plugin_utils._policies import policy_text

    texts = {kind: policy_text(mount, "prod", kind) for kind in KINDS}
    for kind, text in texts.items():
        assert ask(bao, "POST", f"sys/policies/acl/{mount}-by-hand-{kind}", {"policy": text}).status_code == 204
        token = _token(bao, f"{mount}-by-hand-{kind}")
        statuses = _statuses(bao, token, _work(mount, "prod", _encrypt(bao, mount, "prod")))
        assert {name for name, status in statuses.items() if status == 200} == ALLOWED[kind]
