# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Logging in: every method from every source, TLS, namespaces, and what becomes of tokens."""

from __future__ import annotations

import datetime
import secrets
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends import Binding, KeyPlace
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends.vault import VaultTransit
from ansible_collections.hostseal.secrets.plugins.plugin_utils._vault import VaultSession

from tests.integration.control.conftest import Control, Run
from tests.integration.vault.connection import Transit, defaults
from tests.integration.vault.setting_up import ask, data
from tests.rig import certificates
from tests.rig.certificates import Pair
from tests.rig.fault_proxy import FaultProxy, Rule
from tests.rig.openbao import OpenBao

METHODS = ("token", "approle", "jwt", "cert", "userpass")
A = Binding("prod", "a", 1)
# The names of what identifies somebody, and what community.hashi_vault and Vault's own tools call it.
OPTIONS = {
    "url": "ADDR",
    "ca_cert": "CACERT",
    "token": "TOKEN",
    "role_id": "ROLE_ID",
    "secret_id": "SECRET_ID",
    "jwt": "JWT",
    "username": "USERNAME",
    "password": "PASSWORD",
}
CERTIFICATE = {"cert_auth_public_key": "CERT_AUTH_PUBLIC_KEY", "cert_auth_private_key": "CERT_AUTH_PRIVATE_KEY"}


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path)


@pytest.fixture
def transit(bao: OpenBao, mount: str) -> Transit:
    return Transit(bao, mount)


class Ways:
    """Every auth method of a server, for somebody who may do all that the three policies allow."""

    def __init__(self, transit: Transit, namespace: str | None = None, **settings: Any) -> None:
        policies = transit.policies()
        bao, mount = transit.bao, transit.mount
        role = f"{mount}-ci"
        more = {"namespace": namespace, **settings}
        _mount, self.sign = bao.enable_jwt(role, policies, mount=f"{mount}-jwt", **more)
        _mount, password = bao.enable_userpass("ann", policies, mount=f"{mount}-userpass", **more)
        # One role id serves jwt, where it is the role's name, and approle.
        _mount, _role_id, secret_id = bao.enable_approle(role, policies, mount=f"{mount}-approle", **more)
        client = bao.client(namespace=namespace)
        client.write_data(f"auth/{mount}-approle/role/{role}/role-id", data={"role_id": role})
        bao.enable_cert(role, policies, mount=f"{mount}-cert", **more)
        self.transit = transit
        self.good = {
            "url": bao.url,
            "ca_cert": bao.ca_cert,
            "token": transit.token() if namespace is None else "",
            "role_id": role,
            "secret_id": secret_id,
            "jwt": self.sign(),
            "username": "ann",
            "password": password,
        }
        self.certificate = {"cert_auth_public_key": bao.client_cert, "cert_auth_private_key": bao.client_key}

    def mount_point(self, method: str) -> dict[str, str]:
        return {} if method == "token" else {"mount_point": f"{self.transit.mount}-{method}"}

    def run(
        self, control: Control, variables: dict[str, Any], environment: dict[str, str | None], **options: Any
    ) -> Run:
        """A task per method that logs in with it, each for an environment of its own."""
        tasks = [
            self.transit.environment(
                method,
                "prod",
                auth_method=method,
                **self.mount_point(method),
                # Whoever offers a certificate offers it with every method.
                **(self.certificate if method == "cert" and "cert_auth_public_key" not in variables else {}),
                **options,
            )
            for method in METHODS
        ]
        return control.tasks(*tasks, play={"vars": variables}, variables=environment)


@pytest.fixture
def ways(transit: Transit) -> Ways:
    return Ways(transit)


def _bad(names: dict[str, str]) -> dict[str, str]:
    return dict.fromkeys(names, "https://127.0.0.1:9") | {name: f"wrong-{name}" for name in names if name != "url"}


def _in_environment(prefix: str, values: dict[str, str]) -> dict[str, str | None]:
    return {f"{prefix}{OPTIONS[name]}": value for name, value in values.items()}


def test_every_method_from_every_source_and_the_nearer_one_wins(ways: Ways, control: Control) -> None:
    """Options before variables before ANSIBLE_HASHI_VAULT_X before VAULT_X: what is farther is wrong each time."""
    wrong = _bad(OPTIONS)
    vault, ours = (_in_environment(prefix, ways.good) for prefix in ("VAULT_", "ANSIBLE_HASHI_VAULT_"))
    bad_vault, bad_ours = (_in_environment(prefix, wrong) for prefix in ("VAULT_", "ANSIBLE_HASHI_VAULT_"))
    variables, bad = (
        {f"ansible_hashi_vault_{name}": value for name, value in values.items()} for values in (ways.good, wrong)
    )
    store, accessors = control.place.path, _accessors(ways.transit.bao)
    sources: tuple[tuple[dict[str, str], dict[str, str | None], dict[str, str]], ...] = (
        ({}, vault, {}),
        ({}, {**bad_vault, **ours}, {}),
        (variables, {**bad_vault, **bad_ours}, {}),
        (bad, {**bad_vault, **bad_ours}, ways.good),
    )
    for number, (in_variables, in_environment, options) in enumerate(sources):
        start = ways.transit.bao.mark()
        run = ways.run(control, in_variables, in_environment, **options)
        assert [run.changed(method) for method in METHODS] == [1] * 5, number
        seen = [path for path in ways.transit.paths(start) if path.startswith("update auth/")]
        # A login and the end of its token for each but the token that was given.
        logins = [f"update auth/{ways.transit.mount}-{method}/login" for method in METHODS[1:]]
        logins[3] += "/ann"
        assert seen == [path for login in logins for path in (login, "update auth/token/revoke-self")]
        store.unlink()
    # Tokens of tests before may have come to their end meanwhile.
    assert _accessors(ways.transit.bao) <= accessors


def test_every_method_from_files(ways: Ways, control: Control, tmp_path: Path) -> None:
    files = {}
    for name in ("secret_id", "jwt", "password"):
        files[f"{name}_file"] = str(tmp_path / name)
        (tmp_path / name).write_text(f"{ways.good[name]}\n", encoding="utf-8")
    (tmp_path / "home").mkdir()
    (tmp_path / "home/.vault-token").write_text(f"{ways.good['token']}\n", encoding="utf-8")
    known = {name: value for name, value in ways.good.items() if name in ("url", "ca_cert", "role_id", "username")}
    in_environment: dict[str, str | None] = {f"VAULT_{name.upper()}": path for name, path in files.items()}
    certificate: dict[str, Any] = {f"ansible_hashi_vault_{name}": path for name, path in ways.certificate.items()}
    run = ways.run(control, certificate, in_environment, **known)
    assert [run.changed(method) for method in METHODS] == [1] * 5
    (tmp_path / "home/.vault-token").rename(tmp_path / "my-token")
    control.place.path.unlink()
    run = ways.run(control, {}, {}, token_path=str(tmp_path), token_file="my-token", **files, **known)
    assert [run.changed(method) for method in METHODS] == [1] * 5


def _accessors(bao: OpenBao) -> set[str]:
    return set(data(bao, "auth/token/accessors", "LIST")["keys"])


@pytest.mark.parametrize("method", METHODS[1:])
def test_wrong_credentials(ways: Ways, method: str) -> None:
    bao = ways.transit.bao
    wrong = {
        "approle": {"secret_id": secrets.token_urlsafe(24)},
        "jwt": {"jwt": ways.sign(exp=int(time.time()) - 600)},
        "cert": {"role_id": "nobody", **ways.certificate},
        "userpass": {"password": secrets.token_urlsafe(24)},
    }[method]
    start = bao.mark()
    with pytest.raises(HostsealError) as caught:
        VaultSession({**ways.good, "auth_method": method, **ways.mount_point(method), **wrong})
    message = str(caught.value)
    path = f"auth/{ways.transit.mount}-{method}/login"
    assert message.startswith(f"Vault at {bao.url}: POST {path}")
    assert f"login by {method} is refused (status 4" in message
    assert "check the credentials, the role, and the auth mount's mount_point" in message
    assert not [value for value in wrong.values() if len(value) > 20 and value in message]
    # Once: a second try could lock somebody out.
    assert len([one for one in ways.transit.paths(start) if path in one]) == 1


def test_a_token_of_ours_ends_with_the_task_also_when_that_fails(ways: Ways, control: Control) -> None:
    bao = ways.transit.bao
    before = _accessors(bao)
    login = {"auth_method": "approle", **ways.mount_point("approle")}
    good = {name: ways.good[name] for name in ("url", "ca_cert", "role_id", "secret_id")}
    start = bao.mark()
    run = control.tasks(ways.transit.environment("prod", "nokey", **login, **good), fails=True)
    assert "none of its policies (default, " in run.message("prod")
    assert ways.transit.paths(start)[-1] == "update auth/token/revoke-self"
    assert _accessors(bao) <= before


def test_a_given_token_is_left_alone(transit: Transit) -> None:
    token = transit.token()
    with transit.session(token=token) as session:
        session.call("GET", "auth/token/lookup-self")
    assert ask(transit.bao, "GET", "auth/token/lookup-self", token=token).status_code == 200


@pytest.mark.parametrize(("ttl", "most"), [(2, 60), (2, 4)], ids=["renewed", "renewed and made anew"])
def test_a_short_lived_token_lasts_as_long_as_the_task(transit: Transit, ttl: int, most: int) -> None:
    """With two threads in turns, so that one changes the token while the other is in the midst of a request."""
    bao, mount = transit.bao, transit.mount
    auth, role_id, secret_id = bao.enable_approle(
        mount, transit.policies(), token_ttl=f"{ttl}s", token_max_ttl=f"{most}s"
    )
    start, end = bao.mark(), time.monotonic() + 4.5
    troubles: list[HostsealError] = []

    def work(session: VaultSession) -> None:
        backend = VaultTransit(session, KeyPlace("vault", "prod", mount))
        try:
            while time.monotonic() < end:
                backend.encrypt([(A, b"value")])
        except HostsealError as error:
            troubles.append(error)

    login = {"auth_method": "approle", "mount_point": auth, "role_id": role_id, "secret_id": secret_id}
    with bao.fault_proxy() as proxy, transit.session(url=proxy.url, **login) as session:
        proxy.add(Rule(path="/encrypt/", delay=0.5, count=None))
        threads = [threading.Thread(target=work, args=(session,)) for _number in range(2)]
        for thread in threads:
            thread.start()
            time.sleep(0.25)
        for thread in threads:
            thread.join()
    assert troubles == []
    seen = transit.paths(start)
    logins, renewals = (seen.count(path) for path in (f"update auth/{auth}/login", "update auth/token/renew-self"))
    assert 2 <= renewals <= 8
    assert (logins > 1) == (most < 60)
    # All of them, not just the last one.
    assert seen.count("update auth/token/revoke-self") == logins


def test_a_token_is_used_to_its_end_when_there_is_no_other(transit: Transit) -> None:
    """What logs in may be good for one time only."""
    settings: dict[str, Any] = {"token_ttl": "3s", "token_max_ttl": "3s", "secret_id_num_uses": 1}
    auth, role_id, secret_id = transit.bao.enable_approle(f"{transit.mount}-once", transit.policies(), **settings)
    start, began = transit.bao.mark(), time.monotonic()
    login = {"auth_method": "approle", "mount_point": auth, "role_id": role_id, "secret_id": secret_id}
    with transit.session(**login) as session, pytest.raises(HostsealError, match="expired or was revoked"):
        while time.monotonic() < began + 20:
            session.call("POST", f"{transit.mount}/encrypt/prod", {"plaintext": "eA==", "context": "eA=="})
            time.sleep(0.1)
    assert 2.5 < time.monotonic() - began < 5
    assert transit.paths(start).count(f"update auth/{auth}/login") == 2


def test_a_given_token_is_renewed_as_long_as_it_can_be(transit: Transit) -> None:
    token = transit.token(ttl="2s", explicit_max_ttl="4s", renewable=True)
    with transit.session(token=token) as session:
        began = time.monotonic()
        with pytest.raises(HostsealError, match="it has expired or was revoked") as caught:
            while time.monotonic() < began + 20:
                session.call("POST", f"{transit.mount}/encrypt/prod", {"plaintext": "eA==", "context": "eA=="})
                time.sleep(0.1)
        assert 3 < time.monotonic() - began < 6
    assert token not in str(caught.value)


def test_inside_a_namespace(bao: OpenBao, mount: str) -> None:
    bao.client().write_data(f"sys/namespaces/{mount}", data={})
    transit = Transit(bao, mount, namespace=mount)
    ways = Ways(transit, namespace=mount)
    for method in METHODS[1:]:
        options = {**ways.good, **ways.certificate, "auth_method": method, **ways.mount_point(method)}
        session = VaultSession({**options, "namespace": mount})
        backend = VaultTransit(session, KeyPlace("vault", "prod", mount))
        assert backend.decrypt([(A, text) for text in backend.encrypt([(A, b"value")])]) == [b"value"]
        session.close()
        with pytest.raises(HostsealError, match=f"login by {method} is refused|token and"):
            VaultSession(options)
    with transit.session(token=bao.root_token, namespace=mount) as session:
        other = VaultTransit(session, KeyPlace("vault", "prod", "elsewhere"))
        with pytest.raises(HostsealError, match=f"in namespace '{mount}'.*nothing is mounted there.*namespace"):
            other.encrypt([(A, b"value")])


def _identity(bao: OpenBao, folder: Path, monkeypatch: pytest.MonkeyPatch, life: datetime.timedelta) -> Pair:
    """A certificate of the server's own CA for a server on loopback."""
    monkeypatch.setattr(certificates, "_LIFE", life)
    return certificates.issue(Pair(Path(bao.ca_cert), Path(bao.ca_key)), folder, "proxy", "localhost")


def test_certificates_are_checked(bao: OpenBao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = {"url": bao.url, "ca_cert": bao.ca_cert, "token": bao.root_token}
    stranger = certificates.authority(tmp_path, "stranger")
    port = bao.url.rpartition(":")[2]
    expired = _identity(bao, tmp_path, monkeypatch, datetime.timedelta(minutes=-5))
    with FaultProxy(bao.url, bao.ca_cert, expired) as proxy:
        for odd, words in (
            ({"ca_cert": str(stranger.cert)}, "(?:self-signed|unable to get local issuer) certificate"),
            ({"ca_cert": None}, "(?:self-signed|unable to get local issuer) certificate"),
            ({"url": f"https://127.1:{port}"}, "certificate is not valid for '127.1'"),
            ({"url": proxy.url}, "certificate has expired"),
        ):
            began = time.monotonic()
            with pytest.raises(HostsealError, match=words) as caught:
                VaultSession({**good, **odd})
            # It does not become better by trying again.
            assert time.monotonic() - began < 2
            assert "its TLS certificate is not accepted" in str(caught.value)
            assert "ca_cert" in str(caught.value)
        assert proxy.seen() == []
        VaultSession({**good, "url": proxy.url, "validate_certs": False}).close()
    # Not TLS, on a port that speaks it.
    with pytest.raises(HostsealError, match="not Vault or OpenBao .status 400, no JSON.*with https or without"):
        VaultSession({**good, "url": f"http://127.0.0.1:{port}"})


def test_no_check_is_warned_of_and_may_come_from_the_environment(transit: Transit, control: Control) -> None:
    given = {"url": transit.bao.url, "token": transit.token()}
    run = control.tasks(
        {**transit.environment("prod", "prod", validate_certs=False, **given), "name": "option"},
        {
            **transit.environment("b", "prod", **given),
            "name": "variable",
            "vars": {"ansible_hashi_vault_validate_certs": "false"},
        },
        transit.environment("c", "prod", **given),
        fails=True,
        variables={"VAULT_SKIP_VERIFY": "true"},
    )
    assert [run.changed(name) for name in ("option", "variable")] == [1, 1]
    assert "its TLS certificate is not accepted" in run.message("c")
    assert "validate_certs is false: who stands between here and" in run.output
    # Nothing of the library's own, which Ansible calls errant.
    assert "InsecureRequestWarning" not in run.output
    run = control.tasks(transit.environment("d", "prod", **given), variables={"VAULT_VALIDATE_CERTS": "false"})
    assert "validate_certs is false: who stands between here and" in run.output


def test_without_hvac_a_message_says_so(transit: Transit, control: Control, tmp_path: Path) -> None:
    blocker = tmp_path / "without"
    blocker.mkdir()
    (blocker / "sitecustomize.py").write_text(
        "import sys\n\n\nclass Blocker:\n    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'hvac':\n            raise ImportError(name)\n\n\n"
        "sys.meta_path.insert(0, Blocker())\n",
        encoding="utf-8",
    )
    variables: dict[str, str | None] = {"PYTHONPATH": str(blocker)}
    run = control.tasks(transit.environment(), fails=True, variables=variables, **defaults(**transit.options()))
    assert "lacks hvac, which the backend vault needs: install it with pip" in run.message("prod")
