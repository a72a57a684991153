# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Setting the bridge up on a real server: what a host can do with it, and what it, or a thief of its key, can't."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.modules import vault_bridge
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.integration.control.conftest import Control, task
from tests.integration.vault.setting_up import ask, bridge, data, set_up_bridge, unwrap
from tests.rig.openbao import OpenBao
from tests.unit import jose

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Machine:
    """A host with a key, which signs what it likes."""

    name: str
    prefix: str
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def jwk(self) -> dict[str, str]:
        x = jose.raw(self.key)
        return {"kty": "OKP", "crv": "Ed25519", "x": jose.b64u(x), "kid": jose.thumbprint("Ed25519", x)}

    @property
    def pem(self) -> str:
        return self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    def option(self, *mounts: tuple[str, str], **more: Any) -> dict[str, Any]:
        """The host as an item of hosts; MOUNTS are pairs of mount and role."""
        wanted = [{"name": name, "role": role} for name, role in mounts]
        return {"name": self.name, "public_key": self.jwk, "mounts": wanted, **more}

    def jwt(self, **claims: Any) -> str:
        """A JWT for the mount shop and the role web; the environment has the prefix's name."""
        now = int(time.time())
        about = {"environment": self.prefix, "mount": "shop", "role": "web", "jti": str(uuid.uuid4())}
        times = {"iat": now, "nbf": now, "exp": now + 60}
        every = {"iss": "hostseal", "sub": self.name, "aud": "hostseal", **times, **about, **claims}
        return jose.jws({"alg": "EdDSA", "typ": "JWT"}, {k: v for k, v in every.items() if v is not None}, self.key)

    def login(
        self, bao: OpenBao, jwt: str | None = None, role: str = "web", at: str | None = None
    ) -> requests.Response:
        name = role if role == "revoke" else f"{self.prefix}.{role}"
        body = {"role": name, "jwt": jwt or self.jwt(role=role)}
        return ask(bao, "POST", f"auth/{self.prefix}/{at or self.name}/login", body, token="")

    def token(self, bao: OpenBao, role: str = "web") -> str:
        """The token of a login."""
        answer = self.login(bao, role=role)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["auth"]["client_token"])


def create(
    bao: OpenBao, environment: str, token: str, wrap_ttl: str | None = "60s", role: str = "web", **body: Any
) -> requests.Response:
    """What a bridge asks for."""
    wrap = {"X-Vault-Wrap-TTL": wrap_ttl} if wrap_ttl else {}
    return requests.post(
        f"{bao.url}/v1/auth/token/create/{environment}.{role}",
        headers={"X-Vault-Token": token, **wrap},
        json=body,
        verify=bao.ca_cert,
        timeout=30,
    )


def web(*policies: str, name: str = "web", **more: Any) -> dict[str, Any]:
    return {"name": name, "policies": list(policies) or ["default"], **more}


@pytest.fixture
def host(mount: str) -> Machine:
    """A host whose name has what names may have."""
    return Machine("web1.example.com:22", mount)


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path)


def look(bao: OpenBao, mount: str) -> dict[str, Any]:
    """All that begins with the name of MOUNT, which is the prefix and the environment of a test."""
    found: dict[str, Any] = {
        path: entry for path, entry in data(bao, "sys/auth").items() if path.startswith(f"{mount}/")
    }
    for path in [path for path, entry in found.items() if entry["type"] == "jwt"]:
        found[f"{path}config"] = data(bao, f"auth/{path}config")
        for name in data(bao, f"auth/{path}role", "LIST").get("keys", []):
            role = data(bao, f"auth/{path}role/{name}")
            # An empty list comes back as null until it was written once.
            found[f"auth/{path}role/{name}"] = {option: value or None for option, value in role.items()}
    for path in ("sys/policies/acl", "auth/token/roles"):
        for name in data(bao, path, "LIST").get("keys", []):
            if name.startswith((f"{mount}-", f"{mount}.")):
                about = data(bao, f"{path}/{name}")
                # Of a policy the text: there is a time of change with it.
                found[f"{path}/{name}"] = about.get("policy", about)
    return found


def test_from_nothing_to_ready_as_predicted_and_then_unchanged(
    control: Control, bao: OpenBao, mount: str, host: Machine
) -> None:
    """With the module's own first example, and nothing in it changed but names, address and token."""
    example = yaml.safe_load(vault_bridge.EXAMPLES)[0]["hostseal.secrets.vault_bridge"]
    given = {**example, "environment": mount, "prefix": mount, "url": bao.url, "ca_cert": bao.ca_cert}
    given["token_file"] = bao.token_file
    given["hosts"] = [{**given["hosts"][0], "name": host.name, "public_key": host.jwk}]
    wanted = task("bridge", "vault_bridge", **given)
    nothing = look(bao, mount)
    # In check mode before the host has made its key, too.
    assert set_up_bridge(bao, mount, check=True, roles=[web()], hosts=[{"name": host.name, "public_key": None}]).steps
    predicted = control.tasks(wanted, arguments=("--check", "--diff"))
    assert look(bao, mount) == nothing
    done = control.tasks(wanted, arguments=("--diff",))
    ready = look(bao, mount)
    again = control.tasks(wanted, arguments=("--diff",))
    assert look(bao, mount) == ready
    assert [run.changed("bridge") for run in (predicted, done, again)] == [1, 1, 0]
    result = done.result("bridge")
    assert result["diff"] == predicted.result("bridge")["diff"]
    assert result["diff"]["before"] == ""
    assert "no policy 'shop'" in done.output
    assert result["roles"] == [
        {"name": "web", "token_role": f"{mount}.web", "creation_path": f"auth/token/create/{mount}.web"}
    ]
    assert result["hosts"] == [
        {"name": host.name, "mount_point": f"{mount}/{host.name}", "login_roles": [f"{mount}.web", "revoke"]}
    ]
    for name, text in result["policies"].items():
        assert data(bao, f"sys/policies/acl/{name}")["policy"] == text
    assert list(result["policies"]) == [f"{mount}-bridge-{mount}.web", f"{mount}-bridge-revoke"]
    assert data(bao, f"auth/{mount}/{host.name}/config")["jwt_validation_pubkeys"] == [host.pem.strip()]
    assert host.login(bao).status_code == 200


def test_a_host_gets_wrapped_tokens_of_its_roles_and_nothing_else(bao: OpenBao, mount: str, host: Machine) -> None:
    ask(bao, "POST", f"sys/mounts/{mount}-kv", {"type": "kv"})
    ask(bao, "POST", f"{mount}-kv/shop", {"password": "hunter2"})
    ask(bao, "POST", f"sys/policies/acl/{mount}-shop", {"policy": f'path "{mount}-kv/shop" {{capabilities=["read"]}}'})
    roles = [web(f"{mount}-shop", max_wrap_ttl="2m"), web(name="other")]
    set_up_bridge(bao, mount, roles=roles, hosts=[host.option(("shop", "web"), ("blog", "web"))])
    login = host.login(bao).json()["auth"]
    assert login["policies"] == [f"{mount}-bridge-{mount}.web"]
    assert login["lease_duration"] == 60
    token = login["client_token"]

    refused = {
        "not wrapped": create(bao, mount, token, None),
        "wrapped for too long": create(bao, mount, token, "121s"),
        "another role": create(bao, mount, token, role="other"),
        "policies": create(bao, mount, token, policies=["default"]),
        "ttl": create(bao, mount, token, ttl="1000h"),
        "no role": ask(bao, "POST", "auth/token/create", {}, token=token),
        "secret": ask(bao, "GET", f"{mount}-kv/shop", token=token),
        "accessors": ask(bao, "LIST", "auth/token/accessors", token=token),
        "end others": ask(bao, "POST", "auth/token/revoke-accessor", {"accessor": login["accessor"]}, token=token),
        "renew": ask(bao, "POST", "auth/token/renew-self", {}, token=token),
        "own key": ask(bao, "GET", f"auth/{mount}/{host.name}/config", token=token),
    }
    assert {what: answer.status_code for what, answer in refused.items()} == dict.fromkeys(refused, 403)

    made = create(bao, mount, token, "120s", meta={"host": host.name}, display_name="shop").json()
    assert made["auth"] is None
    assert made["wrap_info"]["creation_path"] == f"auth/token/create/{mount}.web"
    assert ask(bao, "POST", "auth/token/revoke-self", {}, token=token).status_code == 204
    given = unwrap(bao, made["wrap_info"]["token"]).json()["auth"]
    assert (given["policies"], given["orphan"], given["renewable"]) == ([f"{mount}-shop"], True, True)
    assert (given["lease_duration"], given["metadata"]) == (3600, {"host": host.name})
    assert given["accessor"] == made["wrap_info"]["wrapped_accessor"]
    # It outlives the login, and a wrapping token is good for one use.
    assert data_of(bao, f"{mount}-kv/shop", given["client_token"])["data"] == {"password": "hunter2"}
    assert unwrap(bao, made["wrap_info"]["token"]).status_code == 400

    assert host.login(bao, host.jwt(mount="blog")).status_code == 200
    for wrong in ({"mount": "till"}, {"mount": None}, {"environment": "prod"}, {"role": "other"}, {"role": None}):
        answer = host.login(bao, host.jwt(**wrong))
        assert (answer.status_code, "claim" in answer.text) == (400, True), wrong
    assert "could not be found" in host.login(bao, role="other").text


def data_of(bao: OpenBao, path: str, token: str) -> dict[str, Any]:
    answer = ask(bao, "GET", path, token=token)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_no_host_logs_in_as_another(bao: OpenBao, mount: str, host: Machine) -> None:
    thief = Machine("web2", mount)
    mounts = (("shop", "web"),)
    set_up_bridge(bao, mount, roles=[web()], hosts=[host.option(*mounts), thief.option(*mounts)])
    forged = thief.jwt(sub=host.name)
    assert "no known key" in thief.login(bao, forged, at=host.name).text
    assert "invalid subject" in thief.login(bao, forged).text
    assert "no known key" in thief.login(bao, thief.jwt(), at=host.name).text
    unsigned = jose.jws({"alg": "none", "typ": "JWT"}, {"sub": host.name}, thief.key).rpartition(".")[0] + "."
    assert thief.login(bao, unsigned, at=host.name).status_code == 400
    assert thief.login(bao).status_code == 200

    # Why it is an auth method for each: in a common one, the server asks only whether one of its keys has signed.
    ask(bao, "POST", f"sys/auth/{mount}/common", {"type": "jwt"})
    ask(bao, "POST", f"auth/{mount}/common/config", {"jwt_validation_pubkeys": [host.pem, thief.pem]})
    role = data(bao, f"auth/{mount}/{host.name}/role/{mount}.web")
    ask(bao, "POST", f"auth/{mount}/common/role/{mount}.web", role)
    assert thief.login(bao, forged, at="common").status_code == 200


def test_a_host_ends_tokens_with_a_login_of_its_own_for_it(bao: OpenBao, mount: str, host: Machine) -> None:
    set_up_bridge(bao, mount, roles=[web()], hosts=[host.option(("shop", "web"))])
    wrapped = create(bao, mount, host.token(bao)).json()["wrap_info"]
    token = unwrap(bao, wrapped["token"]).json()["auth"]["client_token"]
    assert "claim" in host.login(bao, host.jwt(role="web"), role="revoke").text
    ending = host.token(bao, "revoke")
    assert create(bao, mount, ending).status_code == 403
    assert ask(bao, "LIST", "auth/token/accessors", token=ending).status_code == 403
    accessor = {"accessor": wrapped["wrapped_accessor"]}
    assert ask(bao, "POST", "auth/token/revoke-accessor", accessor, token=ending).status_code == 204
    assert ask(bao, "GET", "auth/token/lookup-self", token=token).status_code == 403


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"iat": -3600, "nbf": -3600, "exp": -45}, "token is expired"),
        ({"iat": 45, "nbf": 45, "exp": 105}, "token not yet valid"),
        ({"nbf": None, "exp": None}, "token is expired"),
        ({"iat": -15, "nbf": -15, "exp": -15}, None),
        ({"iat": 15, "nbf": 15, "exp": 75}, None),
    ],
)
def test_clocks_may_differ_by_half_a_minute(
    bao: OpenBao, mount: str, host: Machine, claims: Mapping[str, int | None], reason: str | None
) -> None:
    """Times are seconds from now. Without its times, a JWT would be good for minutes by the server's own leeway."""
    set_up_bridge(bao, mount, roles=[web()], hosts=[host.option(("shop", "web"))])
    now = int(time.time())
    if claims.get("exp", 0) is None:
        now -= 45
    answer = host.login(bao, host.jwt(**{"iat": now, **{k: v and now + v for k, v in claims.items()}}))
    assert answer.status_code == (400 if reason else 200), answer.text
    assert reason is None or reason in answer.text


def test_a_token_ends_at_its_maximum_however_often_it_is_renewed(bao: OpenBao, mount: str, host: Machine) -> None:
    roles = [web("default", ttl="2s", max_ttl="3s"), web(name="fixed", renewable=False)]
    set_up_bridge(bao, mount, roles=roles, hosts=[host.option(("shop", "web"), ("shop", "fixed"))])
    first, fixed = (
        unwrap(bao, create(bao, mount, host.token(bao, role), role=role).json()["wrap_info"]["token"]).json()["auth"]
        for role in ("web", "fixed")
    )
    token = first["client_token"]
    assert first["lease_duration"] == 2
    assert fixed["renewable"] is False
    renewed, end = 0, time.monotonic() + 60
    while ask(bao, "GET", "auth/token/lookup-self", token=token).status_code == 200:
        renewed += ask(bao, "POST", "auth/token/renew-self", {}, token=token).status_code == 200
        assert time.monotonic() < end
        time.sleep(0.5)
    assert renewed


def test_a_retired_host_is_out_and_others_are_not(control: Control, bao: OpenBao, mount: str, host: Machine) -> None:
    other = Machine("web2", mount)
    mounts = (("shop", "web"),)
    set_up_bridge(bao, mount, roles=[web()], hosts=[host.option(*mounts), other.option(*mounts)])
    login, others = host.token(bao), other.token(bao)
    wrapped = create(bao, mount, login).json()["wrap_info"]
    example = yaml.safe_load(vault_bridge.EXAMPLES)[2]["hostseal.secrets.vault_bridge"]
    connection = {"prefix": mount, "url": bao.url, "ca_cert": bao.ca_cert, "token": bao.root_token}
    retire = task("retire", "vault_bridge", **{**example, **connection, "hosts": [{"name": host.name}]})
    predicted = set_up_bridge(bao, mount, state="absent", hosts=[{"name": host.name}], check=True)
    assert host.login(bao).status_code == 200
    done = control.tasks(retire, {**retire, "name": "again"}, arguments=("--diff",))
    assert [done.changed("retire"), done.changed("again")] == [1, 0]
    assert predicted.before == [f"auth method {mount}/{host.name}: jwt"]
    assert done.result("retire")["diff"] == {"before": f"{predicted.before[0]}\n", "after": ""}
    assert host.login(bao).status_code == 403
    assert create(bao, mount, login).status_code == 403
    assert create(bao, mount, others).status_code == 200
    assert other.login(bao).status_code == 200
    # What a container has already lives on; one request ends it for all containers of the role.
    given = unwrap(bao, wrapped["token"]).json()["auth"]["client_token"]
    assert ask(bao, "GET", "auth/token/lookup-self", token=given).status_code == 200
    ask(bao, "POST", f"sys/leases/revoke-prefix/auth/token/create/{mount}.web", {"sync": True})
    assert ask(bao, "GET", "auth/token/lookup-self", token=given).status_code == 403


def test_a_mount_that_is_listed_no_more_gets_no_token(bao: OpenBao, mount: str, host: Machine) -> None:
    every = {"roles": [web(), web(name="batch")]}
    set_up_bridge(bao, mount, **every, hosts=[host.option(("shop", "web"), ("blog", "web"), ("night", "batch"))])
    assert host.login(bao, host.jwt(mount="night", role="batch"), role="batch").status_code == 200
    plan = set_up_bridge(bao, mount, **every, hosts=[host.option(("blog", "web"))])
    assert f"login role {mount}.batch of host {host.name}" in plan.before
    assert "claim" in host.login(bao).text
    assert host.login(bao, host.jwt(mount="blog")).status_code == 200
    assert "could not be found" in host.login(bao, role="batch").text


def test_purge_removes_what_is_not_listed_of_this_environment_alone(bao: OpenBao, mount: str, host: Machine) -> None:
    lost, shared = Machine("lost", mount), Machine("shared", mount)
    roles = [web(), web(name="old")]
    hosts = [machine.option(("shop", "web"), ("shop", "old")) for machine in (host, lost, shared)]
    set_up_bridge(bao, mount, roles=roles, hosts=hosts)
    set_up_bridge(bao, f"{mount}-b", prefix=mount, roles=[web()], hosts=[shared.option(("shop", "web"))])
    ask(bao, "POST", f"auth/token/roles/{mount}.foreign", {"allowed_policies": ["default"]})
    ask(bao, "POST", f"sys/auth/{mount}/foreign", {"type": "jwt"})
    wanted: dict[str, Any] = {"roles": [web()], "hosts": [host.option(("shop", "web"))]}

    kept = set_up_bridge(bao, mount, **wanted)
    assert kept.before == [f"login role {mount}.old of host {host.name}"]
    before = look(bao, mount)
    predicted = set_up_bridge(bao, mount, **wanted, purge=True, check=True)
    assert look(bao, mount) == before
    purged = set_up_bridge(bao, mount, **wanted, purge=True)
    assert (predicted.before, predicted.after) == (purged.before, purged.after)
    assert sorted(purged.before) == [
        f"auth method {mount}/lost: jwt",
        f"login role {mount}.old of host shared",
        f"login role {mount}.web of host shared",
        f"policy {mount}-bridge-{mount}.old",
        f"token role {mount}.old",
    ]
    after = look(bao, mount)
    assert {name for name in before if name not in after} == {
        f"{mount}/lost/",
        f"{mount}/lost/config",
        f"auth/{mount}/lost/role/revoke",
        *(f"auth/{mount}/{name}/role/{mount}.{role}" for name in ("lost", "shared") for role in ("web", "old")),
        f"auth/token/roles/{mount}.old",
        f"sys/policies/acl/{mount}-bridge-{mount}.old",
    }
    assert shared.login(bao).status_code == 400
    shared_jwt = shared.jwt(environment=f"{mount}-b")
    body = {"role": f"{mount}-b.web", "jwt": shared_jwt}
    assert ask(bao, "POST", f"auth/{mount}/shared/login", body, token="").status_code == 200
    assert set_up_bridge(bao, mount, **wanted, purge=True).steps == []


def test_another_key_of_a_host_has_to_be_accepted(bao: OpenBao, mount: str, host: Machine) -> None:
    mounts = (("shop", "web"),)
    set_up_bridge(bao, mount, roles=[web()], hosts=[host.option(*mounts)])
    anew = Machine(host.name, mount)
    before = look(bao, mount)
    with pytest.raises(HostsealError, match=r"has another key there than the given one.*Nothing was changed"):
        set_up_bridge(bao, mount, roles=[web("default", "x")], hosts=[anew.option(*mounts)])
    assert look(bao, mount) == before
    assert set_up_bridge(bao, mount, roles=[web()], hosts=[anew.option(*mounts)], replace_key=True).steps
    assert "no known key" in host.login(bao).text
    assert anew.login(bao).status_code == 200


def test_what_drifted_is_put_right(bao: OpenBao, mount: str, host: Machine) -> None:
    wanted: dict[str, Any] = {"roles": [web()], "hosts": [host.option(("shop", "web"))]}
    set_up_bridge(bao, mount, **wanted)
    ready = look(bao, mount)
    login, token_role = f"auth/{mount}/{host.name}/role/{mount}.web", f"auth/token/roles/{mount}.web"
    policy = '# hostseal bridge: x\npath "auth/token/create/*" { capabilities = ["update"] }'
    for path, change in (
        (login, {"bound_claims": {"role": "web"}}),
        (login, {"bound_subject": "other"}),
        (login, {"bound_claims_type": "glob"}),
        (login, {"token_explicit_max_ttl": 86400}),
        (login, {"clock_skew_leeway": 3600}),
        (login, {"token_no_default_policy": False}),
        (f"auth/{mount}/{host.name}/role/revoke", {"token_policies": ["default"]}),
        (token_role, {"allowed_policies_glob": ["*"]}),
        (token_role, {"token_no_default_policy": False}),
        (token_role, {"token_explicit_max_ttl": 0}),
        (token_role, {"orphan": False}),
        (f"sys/policies/acl/{mount}-bridge-{mount}.web", {"policy": policy}),
    ):
        answer = ask(bao, "POST", path, {**data(bao, path), **change})
        assert answer.status_code in (200, 204), answer.text
        assert look(bao, mount) != ready
        assert [step.path for step in set_up_bridge(bao, mount, **wanted).steps] == [path]
        assert look(bao, mount) == ready, change


@pytest.mark.parametrize(
    ("path", "body", "reason"),
    [
        ("auth/token/roles/{0}.web", {"allowed_policies": ["default"]}, "without the policy '{0}-bridge-{0}.web'"),
        (
            "sys/policies/acl/{0}-bridge-revoke",
            {"policy": 'path "x" {}'},
            "a policy '{0}-bridge-revoke' that is none",
        ),
        ("sys/auth/{0}/{1}", {"type": "jwt"}, "an auth method that is none of the bridge"),
        ("sys/auth/{0}/{1}", {"type": "approle"}, "an auth method that is none of the bridge"),
    ],
)
def test_what_is_something_elses_is_left_alone(
    bao: OpenBao, mount: str, host: Machine, path: str, body: dict[str, Any], reason: str
) -> None:
    assert ask(bao, "POST", path.format(mount, host.name), body).status_code == 204
    before = look(bao, mount)
    wanted: dict[str, Any] = {"roles": [web()], "hosts": [host.option(("shop", "web"))]}
    with pytest.raises(HostsealError, match=re.escape(reason.format(mount)) + ".*Nothing was changed"):
        set_up_bridge(bao, mount, **wanted)
    if "auth method" in reason:
        with pytest.raises(HostsealError, match=re.escape(reason)):
            set_up_bridge(bao, mount, **wanted, state="absent")
    assert look(bao, mount) == before


def test_policies_that_somebody_else_writes(bao: OpenBao, mount: str, host: Machine) -> None:
    wanted: dict[str, Any] = {"roles": [web()], "hosts": [host.option(("shop", "web"))], "policies": False}
    predicted = set_up_bridge(bao, mount, **wanted, check=True)
    assert [
        f"the policy '{mount}-bridge-{name}' is not there" in text
        for name, text in zip((f"{mount}.web", "revoke"), predicted.warnings, strict=True)
    ] == [True, True]
    with pytest.raises(HostsealError, match=r"have it written first.*Nothing was changed"):
        set_up_bridge(bao, mount, **wanted)
    assert look(bao, mount) == {}
    for name, text in bridge(mount, **wanted).policies().items():
        ask(bao, "POST", f"sys/policies/acl/{name}", {"policy": text})
    assert not [step for step in set_up_bridge(bao, mount, **wanted).steps if "policies" in step.path]
    assert host.login(bao).status_code == 200
    # Nor does it remove any.
    gone = set_up_bridge(bao, mount, roles=[], hosts=[], policies=False, purge=True)
    assert not [step for step in gone.steps if "policies" in step.path]


def test_networks_are_compared_and_kept(bao: OpenBao, mount: str, host: Machine) -> None:
    cidrs = {"bound_cidrs": ["127.0.0.0/8", "192.0.2.7"]}
    wanted: dict[str, Any] = {"roles": [web(**cidrs)], "hosts": [host.option(("shop", "web"), **cidrs)]}
    assert set_up_bridge(bao, mount, **wanted).steps
    assert set_up_bridge(bao, mount, **wanted).steps == []
    assert set_up_bridge(bao, mount, roles=[web()], hosts=[host.option(("shop", "web"))]).steps == []
    elsewhere = host.option(("shop", "web"), bound_cidrs=["192.0.2.0/24"])
    assert host.login(bao).status_code == 200
    set_up_bridge(bao, mount, roles=[web()], hosts=[elsewhere])
    assert host.login(bao).status_code == 403


def test_the_documented_rights_are_enough_and_with_less_nothing_changes(
    bao: OpenBao, mount: str, host: Machine
) -> None:
    wanted: dict[str, Any] = {"roles": [web()], "hosts": [host.option(("shop", "web"))]}
    page = (ROOT / "docs" / "bridge.md").read_text(encoding="utf-8")
    text = re.search(r"```text\n(path .*?)```", page, re.DOTALL)
    assert text
    policy = text[1].replace("hostseal-bridge-", f"{mount}-bridge-").replace("hostseal/", f"{mount}/")
    policy = policy.replace("roles/prod.", f"roles/{mount}.")

    def token(name: str, text: str) -> str:
        ask(bao, "POST", f"sys/policies/acl/{mount}-{name}", {"policy": text})
        made = ask(bao, "POST", "auth/token/create", {"policies": [f"{mount}-{name}"]})
        return str(made.json()["auth"]["client_token"])

    blind = token("reader", policy.replace('"create", ', "").replace('"update", ', "").replace('"delete", ', ""))
    enough = token("enough", policy)
    before = look(bao, mount)
    with pytest.raises(HostsealError, match=r"the token may not write sys/policies/acl/.*Nothing was changed"):
        set_up_bridge(bao, mount, **wanted, token=blind)
    assert look(bao, mount) == before
    assert set_up_bridge(bao, mount, **wanted, purge=True, token=enough).steps
    assert host.login(bao).status_code == 200
    assert set_up_bridge(bao, mount, roles=[], hosts=[], purge=True, token=enough).steps
    assert host.login(bao).status_code == 403
    assert set_up_bridge(bao, mount, **wanted, token=enough).steps
    assert set_up_bridge(bao, mount, **wanted, state="absent", token=enough).steps
