# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""What vault_bridge is asked for, before any server is: what contradicts itself is refused by name."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils._jose import new_host_key
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.plugin_utils._bridge import Bridge
from jwcrypto.jwk import JWK

KEYS = [JWK.generate(kty="OKP", crv="Ed25519") for _number in range(2)]
PUBLIC, OTHER = (key.export_public(as_dict=True) for key in KEYS)


def role(**changes: Any) -> dict[str, Any]:
    times = {"ttl": "1h", "max_ttl": "32d", "max_wrap_ttl": "5m"}
    return {"name": "web", "policies": ["shop"], "renewable": True, "bound_cidrs": None, **times, **changes}


def host(**changes: Any) -> dict[str, Any]:
    mounts = [{"name": "shop", "role": "web"}]
    return {"name": "web1", "public_key": PUBLIC, "mounts": mounts, "bound_cidrs": None, **changes}


def bridge(check: bool = False, **changes: Any) -> Bridge:
    given = {
        "environment": "prod",
        "prefix": "hostseal",
        "state": "present",
        "roles": [role()],
        "hosts": [host()],
        "policies": True,
        "replace_key": False,
        "purge": False,
    }
    return Bridge.from_options({**given, **changes}, check)


def test_names_are_unique_whatever_environments_and_roles_are_called() -> None:
    """With "-" between them, a-b and c would have the policy of a and b-c."""
    made = [
        bridge(environment="a-b", roles=[role(name="c")], hosts=[]),
        bridge(environment="a", roles=[role(name="b-c")], hosts=[]),
    ]
    names = [(one.name(one.roles[0].name), next(iter(one.policies()))) for one in made]
    assert names == [("a-b.c", "hostseal-bridge-a-b.c"), ("a.b-c", "hostseal-bridge-a.b-c")]
    # No role of an environment is the one that ends tokens.
    revoke = bridge(roles=[role(name="revoke")], hosts=[host(mounts=[{"name": "shop", "role": "revoke"}])])
    assert list(revoke.login_roles(revoke.hosts[0])) == ["prod.revoke", "revoke"]
    assert len(revoke.policies()) == 2


def test_mounts_of_one_role_share_a_login_role() -> None:
    mounts = [{"name": name, "role": of} for name, of in (("shop", "web"), ("blog", "web"), ("shop", "batch"))]
    made = bridge(roles=[role(), role(name="batch")], hosts=[host(mounts=[*mounts, mounts[0]])])
    roles = made.login_roles(made.hosts[0])
    assert {name: one["bound_claims"] for name, one in roles.items()} == {
        "prod.batch": {"environment": "prod", "mount": ["shop"], "role": "batch"},
        "prod.web": {"environment": "prod", "mount": ["blog", "shop"], "role": "web"},
        "revoke": {"role": "revoke"},
    }


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"prefix": "Host"}, "prefix 'Host' is not allowed"),
        ({"prefix": "a/b"}, "prefix 'a/b' is not allowed"),
        ({"prefix": ""}, "prefix '' is not allowed"),
        ({"environment": "Prod"}, "share them with environment 'prod'"),
        ({"environment": "pr.od"}, "environment name 'pr.od'"),
        ({"roles": [role(), role()]}, "role 'web' is listed twice"),
        ({"roles": [role(name="we.b")]}, "role name 'we.b'"),
        ({"roles": [role(policies=[])]}, "role 'web': it has no policies"),
        ({"roles": [role(policies=["root"])]}, "role 'web': the policy root is not for containers"),
        ({"roles": [role(policies=["Shop"])]}, "policy 'Shop' is not the name of a policy"),
        ({"roles": [role(policies=["a b"])]}, "policy 'a b' is not the name of a policy"),
        ({"roles": [role(policies=["hostseal-bridge-revoke"])]}, "is a policy of the bridge"),
        ({"roles": [role(ttl="0")]}, "role 'web': ttl 0 is for ever"),
        ({"roles": [role(max_ttl="0")]}, "role 'web': max_ttl 0 is for ever"),
        ({"roles": [role(ttl="2h", max_ttl="1h")]}, "ttl 7200 s is longer than max_ttl 3600 s"),
        ({"roles": [role(max_wrap_ttl="2h")]}, "max_wrap_ttl 7200 s is above 3600 s"),
        ({"roles": [role(bound_cidrs=["10.0.0.1/8"])]}, "'10.0.0.1/8' is not a network"),
        ({"hosts": [host(), host(public_key=OTHER)]}, "host 'web1' is listed twice"),
        ({"hosts": [host(name="a/b")]}, "host name 'a/b'"),
        ({"hosts": [host(), host(name="web2")]}, "hosts 'web1' and 'web2' have one key"),
        ({"hosts": [host(public_key=None)]}, "host 'web1': public_key is missing"),
        ({"hosts": [host(public_key={})]}, "host 'web1': public_key is not what"),
        ({"hosts": [host(public_key=new_host_key().export_public(as_dict=True))]}, "public_key is not what"),
        ({"hosts": [host(public_key=KEYS[0].export_private(as_dict=True))]}, "public_key is not what"),
        ({"hosts": [host(mounts=[{"name": "shop", "role": "batch"}])]}, "the role 'batch', which is not in roles"),
        ({"hosts": [host(mounts=[{"name": "../x", "role": "web"}])]}, "host 'web1': mount name '../x'"),
    ],
)
def test_bad_options(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(HostsealError) as caught:
        bridge(**changes)
    assert reason in str(caught.value)
    assert str(KEYS[0].export_private(as_dict=True)["d"]) not in str(caught.value)


def test_in_check_mode_keys_may_still_be_made() -> None:
    made = bridge(check=True, hosts=[host(public_key=None), host(name="web2", public_key=None)])
    assert [one.public_key for one in made.hosts] == [None, None]


def test_hosts_are_retired_by_name_alone() -> None:
    made = bridge(state="absent", environment=None, roles=None, hosts=[host(public_key=None, mounts=None)])
    assert made.auth_path(made.hosts[0].name) == "hostseal/web1"
