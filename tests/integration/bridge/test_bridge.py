# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The bridge as hosts run it, against a real server: what it gets, and what it says when it gets nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from ansible_collections.hostseal.secrets.plugins.module_utils import _jose
from hostseald import _bridge
from hostseald._bridge import Bridge, load_bridge
from hostseald._http import HttpError, Request
from jwcrypto.jwk import JWK

from tests.integration.bridge.conftest import proxy_before, set_up
from tests.integration.conftest import HostFactory
from tests.integration.playbook import ControlNode, Outcome
from tests.rig import certificates
from tests.rig.certificates import Pair
from tests.rig.fault_proxy import FaultProxy, Rule
from tests.rig.openbao import OpenBao

WEB = {"environment": "prod", "mount": "web", "role": "web", "wrap_ttl": 60}


class Place:
    """Credentials of host db1's bridge in FOLDER."""

    def __init__(self, folder: Path, bao: OpenBao, key: JWK) -> None:
        self.folder = folder
        self.bao = bao
        self.key = key

    def bridge(self, address: str, host: str = "db1", key: JWK | None = None, **files: bytes) -> Bridge:
        """The bridge, started with these."""
        settings = {"host": host, "address": address, "prefix": "hostseal", "namespace": ""}
        (self.folder / "bridge.json").write_text(json.dumps(settings))
        (self.folder / "bridge.key").write_text((key or self.key).export_private())
        (self.folder / "bridge-ca.pem").write_bytes(Path(self.bao.ca_cert).read_bytes())
        for left in self.folder.glob("bridge-client.*"):  # another test's
            left.unlink()
        for name, content in files.items():
            (self.folder / name.replace("_", ".").replace("client.", "bridge-client.")).write_bytes(content)
        return load_bridge(str(self.folder))


@pytest.fixture(scope="module")
def place(bao: OpenBao, tmp_path_factory: pytest.TempPathFactory) -> Place:
    key = _jose.new_signing_key()
    control = ControlNode(Path(tmp_path_factory.mktemp("control")))
    set_up(control, bao, "db1", key.export_public(as_dict=True), ["web"])
    return Place(Path(tmp_path_factory.mktemp("credentials")), bao, key)


@pytest.fixture(scope="module")
def proxy(bao: OpenBao, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultProxy]:
    with proxy_before(bao, Path(tmp_path_factory.mktemp("proxy"))) as made:
        yield made


def ask(bridge: Bridge, path: str, **asked: Any) -> dict[str, Any]:
    status, answer = bridge.handle(Request("POST", path, {}, json.dumps(asked).encode()))
    assert status == 200
    return answer


def refusal(bridge: Bridge, path: str = "/v1/token", **asked: Any) -> str:
    with pytest.raises(HttpError) as error:
        ask(bridge, path, **{**WEB, **asked} if path == "/v1/token" else asked)
    return error.value.reason


def test_a_wrapped_token_and_its_end(place: Place, bao: OpenBao) -> None:
    bridge = place.bridge(bao.url)
    mark = bao.mark()
    answer = ask(bridge, "/v1/token", **WEB)
    assert answer["seconds"] == 60
    assert ask(bridge, "/v1/lookup", token=answer["token"]) == {"used": False}
    inside = bao.client(token=answer["token"]).sys.unwrap()["auth"]
    assert inside["policies"] == ["app-web"]
    assert inside["metadata"] == {"host": "db1", "environment": "prod", "mount": "web"}
    assert ask(bridge, "/v1/lookup", token=answer["token"]) == {"used": True}
    application = bao.client(token=inside["client_token"])
    assert application.read("app/web")
    # The bridge gives its own tokens up.
    deadline = time.monotonic() + 30
    while "auth/token/revoke-self" not in [entry["request"]["path"] for entry in bao.requests(since=mark)]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for _again in range(2):
        assert ask(bridge, "/v1/end", accessor=answer["accessor"]) == {}
    assert not application.is_authenticated()


def test_what_vault_refuses(place: Place, bao: OpenBao, monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = place.bridge(bao.url)
    assert "it has no role prod.nope: run hostseal.secrets.vault_bridge" in refusal(bridge, role="nope")
    assert "this host's key, mount or role is not among" in refusal(bridge, mount="other")
    assert "its token role or its policy does not allow it" in refusal(bridge, wrap_ttl=3600)
    assert "this host's key, mount or role is not among" in refusal(place.bridge(bao.url, key=_jose.new_signing_key()))
    assert "(status 403): this host's key, mount or role is not among" in refusal(place.bridge(bao.url, host="db2"))
    real = time.time
    for seconds, words in ((-200, "s behind Vault's"), (200, "s ahead of Vault's")):
        monkeypatch.setattr(_bridge.time, "time", lambda seconds=seconds: real() + seconds)
        reason = refusal(bridge)
        assert "this host's clock is " in reason
        assert reason.endswith(words)


def test_faults_on_the_way(place: Place, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bridge, "SECONDS_TO_ASK", 2.0)
    bridge = place.bridge(proxy.url)
    # Named, as in the background a token before is being given up.
    for rule, words in (
        (Rule(path="login", status=503, errors=["Vault is sealed"]), "(status 503): it is sealed"),
        (Rule(path="login", status=500), "(status 500): it can't answer now"),
        (Rule(path="login", status=429), "(status 429): it can't answer now"),
        (Rule(path="login", drop="before"), "can't be reached: RemoteDisconnected"),
        (Rule(path="token/create", drop="after"), "can't be reached: RemoteDisconnected"),
        (Rule(path="login", delay=4), "did not answer in time"),
    ):
        proxy.add(rule)
        assert words in refusal(bridge), rule
        proxy.clear()
    assert "can't be reached: Connection refused" in refusal(place.bridge("https://127.0.0.1:1"))
    (place.folder / "bridge-ca.pem").unlink()
    untrusting = json.loads((place.folder / "bridge.json").read_text())
    (place.folder / "bridge.json").write_text(json.dumps({**untrusting, "address": proxy.url}))
    assert "no trusted connection" in refusal(load_bridge(str(place.folder)))
    assert ask(place.bridge(proxy.url), "/v1/token", **WEB)["seconds"] == 60


def test_a_relay_that_wants_a_certificate(place: Place, bao: OpenBao, tmp_path: Path) -> None:
    pair = certificates.issue(Pair(Path(bao.ca_cert), Path(bao.ca_key)), tmp_path, "db1", "db1", client=True)
    with proxy_before(bao, tmp_path, clients=True) as relay:
        # TLS 1.3 tells a client without a certificate when it has sent its request.
        assert f"Vault at {relay.url}" in refusal(place.bridge(relay.url))
        assert relay.seen() == []
        bridge = place.bridge(relay.url, client_pem=pair.cert.read_bytes(), client_key=pair.key.read_bytes())
        answer = ask(bridge, "/v1/token", **WEB)
        assert ask(bridge, "/v1/lookup", token=answer["token"]) == {"used": False}
        ask(bridge, "/v1/end", accessor=answer["accessor"])


def test_the_relay_role(place: Place, bao: OpenBao, fresh_host: HostFactory, tmp_path: Path) -> None:
    host = fresh_host(load=())
    inspected = json.loads(host.engine.text("container", "inspect", host.container))[0]["NetworkSettings"]["Networks"]
    [network] = inspected.values()
    authority = Pair(Path(bao.ca_cert), Path(bao.ca_key))
    server = certificates.issue(authority, tmp_path, "relay", "relay", address=network["IPAddress"])
    client = certificates.issue(authority, tmp_path, "db1", "db1", client=True)
    host.sh("install -d -m 700 /etc/relay")
    files = {"relay.pem": server.cert, "relay.key": server.key, "ca.pem": Path(bao.ca_cert)}
    for name, path in files.items():
        host.run(["tee", f"/etc/relay/{name}"], input=path.read_bytes())
    control = ControlNode(tmp_path / "control", host)
    with proxy_before(bao, tmp_path, network["Gateway"]) as vault:
        variables = {
            "hostseal_relay_vault_address": vault.url,
            "hostseal_relay_vault_name": "localhost",
            "hostseal_relay_vault_ca": "/etc/relay/ca.pem",
            "hostseal_relay_certificate": "/etc/relay/relay.pem",
            "hostseal_relay_key": "/etc/relay/relay.key",
            "hostseal_relay_client_ca": "/etc/relay/ca.pem",
        }

        def role(*arguments: str, check: bool = True, **more: str) -> Outcome:
            task = {"hosts": host.name, "gather_facts": False, "roles": ["hostseal.secrets.bridge_relay"]}
            return control.playbook([{**task, "vars": {**variables, **more}}], *arguments, check=check)

        assert (
            "hostseal_relay_vault_address has to be"
            in role(hostseal_relay_vault_address="http://x", check=False).output
        )
        host.sh("apt-get update --quiet")
        role("--check")
        assert host.run(["test", "-e", "/etc/nginx"], check=False).returncode
        role()
        assert '"changed": 0' in role().output

        address = f"https://{network['IPAddress']}:8201"
        assert "no Vault, or a proxy that can't reach it (status 400)" in refusal(place.bridge(address))
        certificate = {"client_pem": client.cert.read_bytes(), "client_key": client.key.read_bytes()}
        bridge = place.bridge(address, **certificate)
        answer = ask(bridge, "/v1/token", **WEB)
        assert ask(bridge, "/v1/lookup", token=answer["token"]) == {"used": False}
        assert ask(bridge, "/v1/end", accessor=answer["accessor"]) == {}
        options: Any = {"cert": (str(client.cert), str(client.key)), "verify": bao.ca_cert}
        for method, path, status in (
            ("POST", "sys/wrapping/unwrap", 404),
            ("POST", "auth/hostseal/db1/role/x", 404),
            ("POST", "auth/token/create", 404),
            ("GET", "sys/wrapping/lookup", 403),
        ):
            assert requests.request(method, f"{address}/v1/{path}", timeout=10, **options).status_code == status
        assert {one.path.removeprefix("/v1/") for one in vault.seen()} <= {
            "auth/hostseal/db1/login",
            "auth/token/create/prod.web",
            "auth/token/revoke-self",
            "auth/token/revoke-accessor",
            "sys/wrapping/lookup",
        }
        role(hostseal_relay_state="absent")
        with pytest.raises(requests.ConnectionError):
            requests.get(address, timeout=10, **options)


def test_what_the_agent_may_not_ask(place: Place, bao: OpenBao) -> None:
    bridge = place.bridge(bao.url)
    mark = bao.mark()
    for asked in (
        {"environment": "prod/../x"},
        {"role": "web/../../x"},
        {"mount": ""},
        {"wrap_ttl": "60"},
        {"wrap_ttl": 0},
    ):
        assert refusal(bridge, **asked)
    for token in ("", "x y", "x\n", None, 1):
        assert "malformed" in refusal(bridge, "/v1/lookup", token=token)
        assert "malformed" in refusal(bridge, "/v1/end", accessor=token)
    with pytest.raises(HttpError):
        bridge.handle(Request("POST", "/v1/other", {}, b"{}"))
    assert bao.requests(since=mark) == []
