# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Setting Transit up: from nothing to ready, again without a change, and nothing half done when it can't be."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError

from tests.integration.control.conftest import Control, Run, Task, task
from tests.integration.vault.setting_up import ask, data, set_up, snapshot, tokens, unwrap
from tests.rig.fault_proxy import Rule
from tests.rig.openbao import OpenBao

KINDS = ["writer", "deployer", "rotator"]
TYPES = {"prod": "aes256-gcm96", "prod-sign": "ed25519", "prod-hmac": "hmac"}


@dataclass(frozen=True)
class VaultControl(Control):
    """A control node that knows a server's address, and no token."""

    server: OpenBao

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "VAULT_ADDR": self.server.url, "VAULT_CACERT": self.server.ca_cert}


@pytest.fixture
def control(tmp_path: Path, bao: OpenBao) -> Control:
    """A control node on which nothing was declared."""
    return VaultControl(tmp_path, bao)


def transit(title: str, mount: str, token: str | None, **options: Any) -> Task:
    """A task that sets prod up at MOUNT."""
    given = {"name": "prod", "engine_mount_point": mount, "policy_prefix": f"{mount}-", **options}
    return task(title, "vault_transit", **given, **({"token": token} if token else {}))


def _keys(bao: OpenBao, mount: str, name: str = "prod") -> dict[str, dict[str, Any]]:
    return {key: data(bao, f"{mount}/keys/{key}") for key in (name, f"{name}-sign", f"{name}-hmac")}


def _settings(result: dict[str, Any]) -> dict[str, Any]:
    return {key: result[key] for key in ("transit_keys", "policies", "engine_mount_point")}


def test_from_nothing_to_ready_as_predicted_and_then_unchanged(control: Control, bao: OpenBao, mount: str) -> None:
    wanted = transit(
        "set up",
        mount,
        bao.root_token,
        auto_rotate_period="90d",
        credentials="approle",
        credentials_mount_point=f"{mount}-approle",
        secret_id_bound_cidrs=["127.0.0.0/8", "192.0.2.7"],
        secret_id_ttl="365d",
    )
    nothing = snapshot(bao)
    predicted = control.tasks(wanted, arguments=("--check", "--diff"))
    assert snapshot(bao) == nothing
    done = control.tasks(wanted, arguments=("--diff",))
    ready = snapshot(bao)
    again = control.tasks(wanted, arguments=("--diff",))
    assert snapshot(bao) == ready
    assert [run.changed("set up") for run in (predicted, done, again)] == [1, 1, 0]
    assert [run.result("set up").get("diff", {}).get("before") for run in (predicted, done, again)] == ["", "", None]
    result = done.result("set up")
    assert result["diff"] == predicted.result("set up")["diff"]
    assert _settings(predicted.result("set up")) == _settings(result)
    assert [told["wrapping_token"] for told in predicted.result("set up")["credentials"]] == [None] * 3

    assert data(bao, f"sys/mounts/{mount}")["type"] == "transit"
    keys = _keys(bao, mount)
    assert {name: key["type"] for name, key in keys.items()} == TYPES
    assert [key["derived"] for key in keys.values()] == [True, False, False]
    assert [key["auto_rotate_period"] for key in keys.values()] == [90 * 86400, 0, 0]
    assert {key["exportable"] or key["deletion_allowed"] or key["allow_plaintext_backup"] for key in keys.values()} == {
        False
    }
    assert result["transit_keys"] == [
        {"name": name, "type": kind, "latest_version": 1, "min_decryption_version": 1, "created": True}
        for name, kind in TYPES.items()
    ]
    assert list(result["policies"]) == [f"{mount}-prod-{kind}" for kind in KINDS]
    for name, text in result["policies"].items():
        assert data(bao, f"sys/policies/acl/{name}")["policy"] == text
    assert [key["created"] for key in again.result("set up")["transit_keys"]] == [False] * 3


@pytest.mark.parametrize("kind", ["approle", "token"])
def test_credentials_come_wrapped_redeem_once_and_log_in(control: Control, bao: OpenBao, mount: str, kind: str) -> None:
    """Set up by a login of its own: what it hands out outlives that login's token."""
    set_up(bao, mount, credentials="none")
    every = '{ capabilities = ["create", "read", "update", "delete", "list", "sudo"] }'
    ask(bao, "POST", f"sys/policies/acl/{mount}-admin", {"policy": f'path "*" {every}'})
    auth, password = bao.enable_userpass("admin", [f"{mount}-admin"], mount=f"{mount}-userpass")
    login = {"auth_method": "userpass", "username": "admin", "password": password, "mount_point": auth}
    path = f"{mount}/approle"
    wanted = transit(
        "credentials", mount, None, credentials=kind, credentials_mount_point=path, wrap_ttl="10m", **login
    )
    run = control.tasks(wanted, arguments=("--diff", "-vvv"))
    told = run.result("credentials")["credentials"]
    assert [entry["kind"] for entry in told] == KINDS
    secrets = []
    for entry in told:
        policy = f"{mount}-prod-{entry['kind']}"
        assert (entry["policy"], entry["wrapping_ttl"]) == (policy, 600)
        looked = ask(bao, "POST", "sys/wrapping/lookup", {"token": entry["wrapping_token"]}).json()["data"]
        assert looked["creation_path"] == entry["creation_path"]
        first, second = unwrap(bao, entry["wrapping_token"]), unwrap(bao, entry["wrapping_token"])
        assert (first.status_code, second.status_code) == (200, 400)
        if kind == "approle":
            secrets.append(first.json()["data"]["secret_id"])
            body = {"role_id": entry["role_id"], "secret_id": secrets[-1]}
            given = ask(bao, "POST", f"auth/{path}/login", body, token="").json()["auth"]
            assert (given["lease_duration"], given["token_policies"], given["renewable"]) == (1200, [policy], True)
        else:
            given = first.json()["auth"]
            secrets.append(given["client_token"])
            assert (given["lease_duration"], given["token_policies"], given["orphan"]) == (86400, [policy], True)
        assert given["policies"] == [policy]
        assert ask(bao, "GET", "auth/token/lookup-self", token=given["client_token"]).status_code == 200
    # What was unwrapped was nowhere before; what unwraps it is in the result alone.
    assert not [secret for secret in secrets if secret in run.output]
    assert not [entry for entry in told if entry["wrapping_token"] in str(run.result("credentials")["diff"])]

    options = wanted["hostseal.secrets.vault_transit"]
    anew = {"name": "anew", "hostseal.secrets.vault_transit": {**options, "issue": ["deployer"]}}
    again = control.tasks(wanted, anew)
    assert [again.changed(name) for name in ("credentials", "anew")] == [0, 1]
    assert [entry["wrapping_token"] for entry in again.result("credentials")["credentials"]] == [None] * 3
    issued = [entry["wrapping_token"] for entry in again.result("anew")["credentials"]]
    assert [bool(wrapping) for wrapping in issued] == [False, True, False]
    assert unwrap(bao, issued[1]).status_code == 200


def test_a_rotator_rotates_and_does_nothing_else(control: Control, bao: OpenBao, mount: str) -> None:
    path = f"{mount}-approle"
    rotator = set_up(bao, mount, credentials="approle", credentials_mount_point=path).credentials[2]
    secret_id = unwrap(bao, rotator["wrapping_token"]).json()["data"]["secret_id"]
    (control.directory / "secret-id").write_text(secret_id, encoding="ascii")
    login = {
        "auth_method": "approle",
        "mount_point": path,
        "role_id": rotator["role_id"],
        "secret_id_file": str(control.directory / "secret-id"),
    }
    rotate = transit("rotate", mount, None, state="rotated", **login)
    start = bao.mark()
    predicted = control.tasks(rotate, arguments=("--check",))
    assert (predicted.changed("rotate"), predicted.result("rotate")["transit_keys"][0]["latest_version"]) == (1, None)
    assert bao.requests(since=start) == []
    done = control.tasks(rotate, {**rotate, "name": "again"})
    assert [done.result(name)["transit_keys"] for name in ("rotate", "again")] == [
        [{"name": "prod", "latest_version": number, "created": False}] for number in (2, 3)
    ]
    seen = [(entry["request"]["operation"], entry["request"]["path"]) for entry in bao.requests(since=start)]
    one = [
        ("update", f"auth/{path}/login"),
        ("update", f"{mount}/keys/prod/rotate"),
        ("update", "auth/token/revoke-self"),
    ]
    assert seen == [*one, *one]
    assert [key["latest_version"] for key in _keys(bao, mount).values()] == [3, 1, 1]
    refused = control.tasks(
        transit("no key", mount, bao.root_token, name="nobody", state="rotated"),
        transit("more", mount, bao.root_token, state="rotated", min_decryption_version=2),
        transit("writer", mount, tokens(bao, mount)["writer"], state="rotated"),
        fails=True,
    )
    assert f"there is no key 'nobody' at {mount}" in refused.message("no key")
    assert "state: rotated does nothing else: min_decryption_version" in refused.message("more")
    assert f"{mount}/keys/prod/rotate: permission denied" in refused.message("writer")
    assert _keys(bao, mount)["prod"]["latest_version"] == 3


def test_min_decryption_version_follows_what_is_stored(control: Control, bao: OpenBao, mount: str) -> None:
    held = tokens(bao, mount)

    def raise_to(number: int, title: str = "raise") -> Task:
        return transit(title, mount, bao.root_token, min_decryption_version=number)

    def stored(title: str, module: str, holder: str, **options: Any) -> Task:
        return task(title, module, token=held[holder], **options)

    declared = control.tasks(
        raise_to(1, "as it is"),
        stored("environment", "environment", "deployer", name="prod", backend="vault", engine_mount_point=mount),
        stored("secret", "secret", "writer", environment="prod", name="a", value="x"),
        transit("rotate", mount, held["rotator"], state="rotated"),
    )
    assert (declared.changed("as it is"), "without a look" in declared.output) == (0, False)
    before = snapshot(bao)
    refused = control.tasks(raise_to(2), raise_to(3, "too high"), fails=True)
    assert "environment 'prod' has secrets that are encrypted under version 1 of key 'prod': run" in refused.message(
        "raise"
    )
    assert "is above the newest version of key 'prod', 2" in refused.message("too high")
    assert snapshot(bao) == before
    done = control.tasks(
        stored("rewrap", "rewrap", "rotator", environment="prod"),
        raise_to(2),
        raise_to(2, "again"),
        transit("not given", mount, bao.root_token),
    )
    assert [done.changed(name) for name in ("raise", "again", "not given")] == [1, 0, 0]
    assert done.result("raise")["transit_keys"][0]["min_decryption_version"] == 2
    assert [key["min_decryption_version"] for key in _keys(bao, mount).values()] == [2, 1, 1]
    none = {"HOSTSEAL_STORE": str(control.directory / "none.db")}
    elsewhere = control.tasks(raise_to(1, "back"), raise_to(2), variables=none)
    assert (elsewhere.changed("back"), elsewhere.changed("raise")) == (1, 1)
    assert "without a look at what is stored" in re.sub(r"\s+", " ", elsewhere.output)
    assert not (control.directory / "none.db").exists()


def test_limits_of_the_key_are_told_before_anything_changes(bao: OpenBao, mount: str) -> None:
    set_up(bao, mount)
    for _number in range(3):
        ask(bao, "POST", f"{mount}/keys/prod/rotate", {})
    ask(bao, "POST", f"{mount}/keys/prod/config", {"min_decryption_version": 3, "min_encryption_version": 3})
    before = snapshot(bao)
    with pytest.raises(HostsealError, match="above the min_encryption_version of key 'prod', 3"):
        set_up(bao, mount, "prod", min_decryption_version=4, versions={}, auto_rotate_period="90d")
    assert ask(bao, "POST", f"{mount}/keys/prod/trim", {"min_available_version": 2}).status_code in (200, 204)
    before = snapshot(bao)
    with pytest.raises(HostsealError, match="below the oldest version of key 'prod' that the server still has, 2"):
        set_up(bao, mount, min_decryption_version=1, auto_rotate_period="90d")
    assert snapshot(bao) == before


def test_rotation_by_age(bao: OpenBao, mount: str) -> None:
    assert set_up(bao, mount, rotate_after="1s").keys[0]["latest_version"] == 1
    assert set_up(bao, mount, rotate_after="1d").steps == []
    time.sleep(2.1)
    predicted = set_up(bao, mount, rotate_after="2s", check=True)
    assert predicted.keys[0]["latest_version"] == 2
    assert _keys(bao, mount)["prod"]["latest_version"] == 1
    made = set_up(bao, mount, rotate_after="2s")
    assert made.keys == predicted.keys
    assert [key["latest_version"] for key in _keys(bao, mount).values()] == [2, 1, 1]
    assert set_up(bao, mount, rotate_after="1h").steps == []


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "another type": ("prod", {"type": "chacha20-poly1305", "derived": True}, "is of type 'chacha20-poly1305'"),
    "a signing key": ("prod", {"type": "ed25519"}, "is of type 'ed25519', and 'aes256-gcm96' is needed"),
    "not derived": ("prod", {"type": "aes256-gcm96"}, "is not derived"),
    "convergent": (
        "prod",
        {"type": "aes256-gcm96", "derived": True, "convergent_encryption": True},
        "has convergent_encryption",
    ),
    "exportable": ("prod", {"type": "aes256-gcm96", "derived": True, "exportable": True}, "is exportable"),
    "plain backup": (
        "prod",
        {"type": "aes256-gcm96", "derived": True, "allow_plaintext_backup": True},
        "has allow_plaintext_backup",
    ),
    "sign of another type": ("prod-sign", {"type": "ecdsa-p256"}, "is of type 'ecdsa-p256', and 'ed25519' is needed"),
    "sign derived": ("prod-sign", {"type": "ed25519", "derived": True}, "is derived"),
    "sign exportable": ("prod-sign", {"type": "ed25519", "exportable": True}, "is exportable"),
    "hmac of another type": ("prod-hmac", {"type": "aes256-gcm96"}, "is of type 'aes256-gcm96', and 'hmac' is needed"),
    "hmac with plain backup": (
        "prod-hmac",
        {"type": "hmac", "key_size": 32, "allow_plaintext_backup": True},
        "has allow_plaintext_backup",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_keys_are_refused_with_the_reason_and_nothing_is_changed(bao: OpenBao, mount: str, case: str) -> None:
    name, body, reason = WRONG[case]
    ask(bao, "POST", f"sys/mounts/{mount}", {"type": "transit"})
    assert ask(bao, "POST", f"{mount}/keys/{name}", body).status_code == 200
    before = snapshot(bao)
    with pytest.raises(HostsealError, match=f"the key '{name}' at {mount} {reason}") as caught:
        set_up(bao, mount, credentials="token", auto_rotate_period="90d")
    assert "Nothing was changed" in str(caught.value)
    assert snapshot(bao) == before


def test_a_key_that_lost_its_first_fingerprints_or_was_deleted_is_refused(bao: OpenBao, mount: str) -> None:
    set_up(bao, mount)
    ask(bao, "POST", f"{mount}/keys/prod-hmac/rotate", {})
    assert set_up(bao, mount).steps == []
    ask(bao, "POST", f"{mount}/keys/prod-hmac/config", {"min_encryption_version": 2})
    before = snapshot(bao)
    with pytest.raises(HostsealError, match="'prod-hmac' at .* has its first version shut off"):
        set_up(bao, mount, auto_rotate_period="90d")
    ask(bao, "POST", f"{mount}/keys/prod-hmac/config", {"min_encryption_version": 0})
    assert ask(bao, "DELETE", f"{mount}/keys/prod-sign/soft-delete").status_code in (200, 204)
    with pytest.raises(HostsealError, match="'prod-sign' at .* is soft-deleted"):
        set_up(bao, mount, auto_rotate_period="90d")
    assert snapshot(bao)[f"{mount}/keys/prod"] == before[f"{mount}/keys/prod"]


def test_what_drifted_is_put_right(bao: OpenBao, mount: str) -> None:
    options = {"credentials": "approle", "credentials_mount_point": f"{mount}-approle"}
    set_up(bao, mount, **options)
    set_up(bao, mount, credentials="token")
    ready = snapshot(bao)
    for name in TYPES:
        body = {"deletion_allowed": True, "auto_rotate_period": 7200 if name != "prod" else 0}
        ask(bao, "POST", f"{mount}/keys/{name}/config", body)
    policy = f"{mount}-prod-deployer"
    ask(bao, "POST", f"sys/policies/acl/{policy}", {"policy": 'path "*" { capabilities = ["read"] }'})
    role = {"token_policies": [policy, "other"], "bind_secret_id": False, "token_no_default_policy": False}
    bound = {"secret_id_bound_cidrs": "127.0.0.1/32", "token_type": "batch", "token_period": 0}
    ask(bao, "POST", f"auth/{mount}-approle/role/{policy}", {**role, **bound})
    more = {"allowed_policies": [policy, "other"], "orphan": False, "allowed_policies_glob": ["*"], "token_period": 60}
    ask(bao, "POST", f"auth/token/roles/{policy}", more)
    drifted = snapshot(bao)
    assert len([name for name in ready if ready[name] != drifted[name]]) == 6
    first, second = set_up(bao, mount, **options), set_up(bao, mount, credentials="token")
    assert f'AppRole {policy}: token_policies ["{policy}", "other"], bind_secret_id false' in "\n".join(first.before)
    assert not [told for told in first.credentials + second.credentials if told["wrapping_token"]]
    # Networks were not asked for, so they are left.
    after = snapshot(bao)
    path = f"auth/{mount}-approle/role/{policy}"
    assert after[path].pop("secret_id_bound_cidrs") == ["127.0.0.1/32"]
    ready[path].pop("secret_id_bound_cidrs")
    for found in (ready, after):
        for key in ("modified", "version"):
            found[f"sys/policies/acl/{policy}"].pop(key)
    assert after == ready


def test_lists_of_networks_are_compared_and_can_be_taken_back(bao: OpenBao, mount: str) -> None:
    options: dict[str, Any] = {"credentials": "approle", "credentials_mount_point": f"{mount}-approle"}
    bound = {"token_bound_cidrs": ["127.0.0.1", "2001:db8::/32"], "secret_id_bound_cidrs": ["127.0.0.1/32"]}
    assert set_up(bao, mount, **options, **bound).steps
    assert set_up(bao, mount, **options, **bound, secret_id_num_uses=3).steps
    assert not set_up(bao, mount, **options, **bound, secret_id_num_uses=3).steps
    assert not set_up(bao, mount, **options).steps
    role = data(bao, f"auth/{mount}-approle/role/{mount}-prod-writer")
    assert (role["token_bound_cidrs"], role["secret_id_num_uses"]) == (["127.0.0.1", "2001:db8::/32"], 3)
    assert set_up(bao, mount, **options, token_bound_cidrs=[], secret_id_bound_cidrs=[]).steps
    assert not set_up(bao, mount, **options, token_bound_cidrs=[], secret_id_bound_cidrs=[]).steps
    assert not data(bao, f"auth/{mount}-approle/role/{mount}-prod-writer")["token_bound_cidrs"]
    periodic = {"credentials": "token", "token_bound_cidrs": ["127.0.0.0/8"], "token_period": "1h"}
    assert set_up(bao, mount, **periodic).steps
    assert not set_up(bao, mount, **periodic).steps
    assert data(bao, f"auth/token/roles/{mount}-prod-writer")["token_bound_cidrs"] == ["127.0.0.0/8"]


@pytest.mark.parametrize("version", ["1", "2"])
def test_another_engine_at_the_path_is_refused(bao: OpenBao, mount: str, version: str) -> None:
    ask(bao, "POST", f"sys/mounts/{mount}", {"type": "kv", "options": {"version": version}})
    before = snapshot(bao)
    with pytest.raises(HostsealError, match=f"at {mount} there is an engine of type 'kv', not a Transit engine"):
        set_up(bao, mount)
    # Nor is it written to by somebody who may not see what it is.
    text = f'path "{mount}/*" {{ capabilities = ["create", "read", "update"] }}'
    with pytest.raises(HostsealError, match="engine of type 'kv'"):
        set_up(bao, mount, token=_token(bao, f"{mount}-blind", text), policies=False)
    after = snapshot(bao)
    assert data(bao, f"{mount}/keys/prod") == {}
    assert after["mounts"] == before["mounts"]


def test_another_auth_method_at_the_path_is_refused(bao: OpenBao, mount: str) -> None:
    bao.enable_userpass("somebody", [], mount=f"{mount}-auth")
    before = snapshot(bao)
    with pytest.raises(HostsealError, match=f"at auth/{mount}-auth there is an auth method of type 'userpass'"):
        set_up(bao, mount, credentials="approle", credentials_mount_point=f"{mount}-auth")
    assert snapshot(bao) == before


def test_a_policy_of_another_engine_is_not_taken_away(bao: OpenBao, mount: str) -> None:
    set_up(bao, mount)
    before = snapshot(bao)
    with pytest.raises(
        HostsealError, match=f"policy '{mount}-prod-writer' is for the engine at {mount}.*another policy_"
    ):
        set_up(bao, f"{mount}-b", policy_prefix=f"{mount}-")
    assert snapshot(bao) == before
    assert set_up(bao, f"{mount}-b", policy_prefix=f"{mount}-b-").steps


def _token(bao: OpenBao, policy: str, text: str, **options: Any) -> str:
    assert ask(bao, "POST", f"sys/policies/acl/{policy}", {"policy": text}).status_code == 204
    body = {"policies": [policy], "no_default_policy": True, **options}
    return str(ask(bao, "POST", "auth/token/create", body).json()["auth"]["client_token"])


def _allow(*rules: str) -> str:
    """Policy text from "path: capability, capability"."""
    parts = [rule.partition(": ") for rule in rules]
    words = [(path, ", ".join(f'"{word}"' for word in list.split(", "))) for path, _colon, list in parts]
    return "\n".join(f'path "{path}" {{ capabilities = [{listed}] }}' for path, listed in words)


def test_missing_permissions_name_the_path_and_change_nothing(control: Control, bao: OpenBao, mount: str) -> None:
    seeing = ("sys/mounts/*: read", "sys/policies/acl/*: read", f"{mount}/keys/*: read", "auth/token/roles/*: read")
    asking = (*seeing, "sys/capabilities-self: update")
    nothing = _token(bao, f"{mount}-none", _allow("auth/token/lookup-self: read"))
    reader, dead = (_token(bao, f"{mount}-{name}", _allow(*asking)) for name in ("reader", "dead"))
    ask(bao, "POST", "auth/token/revoke", {"token": dead})
    before = snapshot(bao)
    run = control.tasks(
        transit("nothing", mount, nothing),
        transit("reader", mount, reader, credentials="token"),
        transit("dead", mount, dead),
        transit("blank", mount, None),
        fails=True,
    )
    assert f"GET {mount}/keys/prod: permission denied: the token is valid" in run.message("nothing")
    assert "A token with the rights for set-up is needed once" in run.message("nothing")
    needed = run.message("reader")
    paths = [f"sys/mounts/{mount}", f"{mount}/keys/prod", f"{mount}/keys/prod-sign", f"{mount}/keys/prod-hmac"]
    assert f"the token may not write {', '.join(paths)}, sys/policies/acl/{mount}-prod-writer, " in needed
    assert f"auth/token/create/{mount}-prod-rotator. A token with the rights" in needed
    assert "has expired or was revoked" in run.message("dead")
    assert "no Vault token" in run.message("blank")
    assert {**snapshot(bao), "tokens": 0} == {**before, "tokens": 0}
    # Predicting needs no right to write.
    assert control.tasks(transit("check", mount, reader), arguments=("--check",)).changed("check")
    # One that may not ask what it may is told by the first request.
    with pytest.raises(HostsealError, match=f"POST sys/mounts/{mount}: permission denied.*is needed once"):
        set_up(bao, mount, token=_token(bao, f"{mount}-blind", _allow(*seeing)))
    assert {**snapshot(bao), "tokens": 0, f"sys/policies/acl/{mount}-blind": 0} == {
        **before,
        "tokens": 0,
        f"sys/policies/acl/{mount}-blind": 0,
    }


def test_rights_for_the_keys_alone_are_enough_where_engine_and_policies_are_there(bao: OpenBao, mount: str) -> None:
    keeper = _token(bao, f"{mount}-keeper", _allow(f"{mount}/keys/*: create, read, update"))
    with pytest.raises(HostsealError, match=f"GET sys/mounts/{mount}: permission denied.*is needed once"):
        set_up(bao, mount, token=keeper, policies=False)
    ask(bao, "POST", f"sys/mounts/{mount}", {"type": "transit"})
    assert set_up(bao, mount, token=keeper, policies=False, auto_rotate_period="90d").steps
    assert _keys(bao, mount)["prod"]["auto_rotate_period"] == 90 * 86400
    assert set_up(bao, mount, token=keeper, policies=False).steps == []
    with pytest.raises(
        HostsealError, match=f"GET sys/policies/acl/{mount}-prod-writer: permission denied.*policies: f"
    ):
        set_up(bao, mount, token=keeper)


def test_in_a_namespace_nothing_outside_is_touched(bao: OpenBao, mount: str) -> None:
    assert ask(bao, "POST", f"sys/namespaces/{mount}", {}).status_code == 200
    before = snapshot(bao)
    options: dict[str, Any] = {"namespace": mount, "credentials": "approle", "auto_rotate_period": "90d"}
    told = set_up(bao, mount, **options).credentials[2]
    assert set_up(bao, mount, **options).steps == []
    # Wrapping tokens are the only ones that stay.
    assert {**snapshot(bao), "tokens": 0} == {**before, "tokens": 0}
    secret_id = unwrap(bao, told["wrapping_token"]).json()["data"]["secret_id"]
    body = {"role_id": told["role_id"], "secret_id": secret_id}
    token = ask(bao, "POST", f"{mount}/auth/approle/login", body, token="").json()["auth"]["client_token"]
    assert ask(bao, "POST", f"{mount}/{mount}/keys/prod/rotate", {}, token=token).status_code == 200


def test_a_key_of_a_namesake_in_other_case_shares_no_policies(bao: OpenBao, mount: str) -> None:
    set_up(bao, mount)
    before = snapshot(bao)
    with pytest.raises(HostsealError, match="'Prod' would share them with the key 'prod'"):
        set_up(bao, mount, "Prod")
    assert snapshot(bao) == before
    assert len(set_up(bao, mount, "Prod", policies=False).steps) == 3


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "name": ({"name": "pr/od"}, "key name 'pr/od' is not allowed"),
    "no name": ({"name": ""}, "key name is empty"),
    "engine": ({"engine_mount_point": "../sys"}, "engine_mount_point '../sys' is not allowed"),
    "prefix": ({"policy_prefix": "Host/"}, "policy_prefix 'Host/' is not allowed"),
    "period": ({"auto_rotate_period": "30m"}, "auto_rotate_period 1800 s is too short"),
    "duration": ({"auto_rotate_period": "soon"}, "auto_rotate_period 'soon' is not a duration"),
    "age": ({"rotate_after": "0"}, "rotate_after 0 would rotate at every run"),
    "issue": ({"issue": ["writer"]}, "issue needs credentials"),
    "endless": ({"credentials": "approle", "token_max_ttl": "0"}, "token_max_ttl 0 is for ever"),
    "endless token": ({"credentials": "token", "token_period": "0"}, "token_period 0 is for ever"),
    "endless wrapping": ({"credentials": "token", "wrap_ttl": "0"}, "wrap_ttl 0 is for ever"),
    "order": ({"credentials": "approle", "token_ttl": "5h"}, "token_ttl 5h is longer than token_max_ttl 4h"),
    "network": ({"credentials": "approle", "token_bound_cidrs": ["10.0.0.1/8"]}, "'10.0.0.1/8' is not a network"),
    "uses": ({"credentials": "approle", "secret_id_num_uses": -1}, "secret_id_num_uses -1 is not a number of uses"),
    "foreign": ({"credentials": "token", "secret_id_ttl": "1h"}, "secret_id_ttl is for credentials: approle"),
    "approle path": ({"credentials": "approle", "credentials_mount_point": "a b"}, "'a b' is not allowed"),
    "version": ({"min_decryption_version": 0}, "they begin at 1"),
    "state": ({"state": "absent"}, "value of state must be one of: present, rotated"),
}


def test_bad_input_is_refused_before_the_server_is_asked(control: Control, bao: OpenBao, mount: str) -> None:
    start = bao.mark()
    run: Run = control.tasks(
        *[transit(case, mount, bao.root_token, **options) for case, (options, _reason) in BAD.items()], fails=True
    )
    for case, (_options, reason) in BAD.items():
        assert reason in run.message(case), case
    assert bao.requests(since=start) == []
    assert bao.root_token not in run.output


def test_what_is_missing_after_a_failure_is_told_and_made_by_the_next_run(bao: OpenBao, mount: str) -> None:
    with bao.fault_proxy() as proxy:
        proxy.add(Rule(path=f"auth/token/create/{mount}-prod-deployer", status=500))
        with pytest.raises(HostsealError, match=r'make what is missing by issue: \["deployer", "rotator"\]'):
            set_up(bao, mount, credentials="token", url=proxy.url)
    plan = set_up(bao, mount, credentials="token", issue=["deployer", "rotator"])
    assert [bool(told["wrapping_token"]) for told in plan.credentials] == [False, True, True]
    assert len(plan.steps) == 2


def test_a_rotation_whose_answer_is_lost_is_not_done_twice(bao: OpenBao, mount: str) -> None:
    set_up(bao, mount)
    time.sleep(1.1)
    with bao.fault_proxy() as proxy:
        proxy.add(Rule(path="/rotate", drop="after"))
        with pytest.raises(HostsealError, match=f"POST {mount}/keys/prod/rotate: no answer"):
            set_up(bao, mount, rotate_after="1s", url=proxy.url)
    assert _keys(bao, mount)["prod"]["latest_version"] == 2


def test_an_unwrapped_credential_is_not_shown(bao: OpenBao, mount: str) -> None:
    with bao.fault_proxy() as proxy:
        proxy.add(Rule(path=f"auth/token/create/{mount}-prod-writer", status=200))
        with pytest.raises(HostsealError, match="came unwrapped, and is not shown"):
            set_up(bao, mount, credentials="token", url=proxy.url)
