# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What goes wrong with a server: a message that says where and what to do, in bounded time, nothing half done."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError, Mount
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _sealing
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store

from tests.integration.agent.conftest import eventually
from tests.integration.conftest import HostFactory
from tests.integration.control.conftest import Control, secret, task
from tests.integration.playbook import ControlNode, install, mount
from tests.integration.vault.conftest import BaoFactory
from tests.integration.vault.connection import Transit
from tests.integration.vault.setting_up import ask, data
from tests.markers import Markers
from tests.rig.fault_proxy import FaultProxy, Rule
from tests.rig.openbao import ACTIVE, OpenBao

ENCRYPT = "/encrypt/prod$"


@pytest.fixture
def control(tmp_path: Path) -> Control:
    return Control(tmp_path)


@pytest.fixture
def transit(bao: OpenBao, mount: str) -> Transit:
    return Transit(bao, mount)


@pytest.fixture
def path(transit: Transit, tmp_path: Path) -> Path:
    """A store with the environment prod and the secret a, for the host h1."""
    return _filled(transit, tmp_path / "store.db")


def _filled(transit: Transit, path: Path) -> Path:
    transit.declare_environment(path)
    transit.declare(path, {"a": "value"})
    transit.enrol(path, ["h1"])
    return path


def _seal(transit: Transit, path: Path, **given: Any) -> None:
    """What the module seal does."""
    mounts = Mount.list_from_options([{"name": "db", "secrets": [{"source": "a"}]}], "prod")
    with Store(str(path), False) as store:
        plans = _sealing.plan(store, [("h1", one) for one in mounts])
        with transit.backend(signing_kid=plans[0].environment.signing_kid, **given) as backend:
            _sealing.seal(store, lambda _environment: backend, plans)


@contextmanager
def _refused(path: Path, *words: str, seconds: float) -> Iterator[None]:
    """Within SECONDS it fails with a message that has all these WORDS (patterns), and the store is as it was."""
    before, began = path.read_bytes(), time.monotonic()
    with pytest.raises(HostsealError) as caught:
        yield
    taken, message = time.monotonic() - began, str(caught.value)
    for word in words:
        assert re.search(word, message), message
    assert re.search(r"Vault at https://127.0.0.1:\d+: (GET|POST) \S+", message), message
    assert taken < seconds, f"{taken:.1f} s: {message}"
    assert path.read_bytes() == before


class OddProxy(FaultProxy):
    """One whose own answers, not those of the server, are pages in HTML."""

    def _answer(
        self, request: Any, status: int, fields: Sequence[tuple[str, str]], content: bytes, forwarded: bool
    ) -> None:
        if not forwarded:
            fields, content = [("Content-Type", "text/html")], b"<html><h1>It works!</h1></html>"
        super()._answer(request, status, fields, content, forwarded)


@dataclass(frozen=True)
class Fault:
    """RULE for the requests to encrypt, how often they are seen then, and what the message says (none: it works)."""

    rule: dict[str, Any]
    attempts: int
    words: str = ""
    seconds: float = 8
    odd: bool = False


FAULTS = {
    "429 twice": Fault({"status": 429, "count": 2}, 3),
    "429": Fault({"status": 429, "count": None}, 4, "limits the rate of requests.*run again later, or ask for"),
    "500 once": Fault({"status": 500}, 2),
    "500": Fault({"status": 500, "count": None}, 4, "internal error: its log says more .status 500"),
    "503": Fault({"status": 503, "count": None, "errors": ["Vault is sealed"]}, 4, "is sealed: unseal it"),
    "412": Fault({"status": 412, "count": None}, 4, "not caught up with its own last write: run again"),
    "413": Fault({"status": 413, "count": None}, 1, "larger than the server takes"),
    "502, a page": Fault({"status": 502, "count": None}, 4, "a proxy in front of the server gets no", odd=True),
    "200, a page": Fault({"status": 200, "count": None}, 1, "not Vault or OpenBao .status 200, no JSON", odd=True),
    "404, a page": Fault({"status": 404, "count": None}, 1, "not Vault or OpenBao .status 404, no JSON", odd=True),
    "200, another's": Fault({"status": 200, "count": None}, 1, "no Transit engine .status 200"),
    "lost before": Fault({"drop": "before", "count": None}, 2, "no answer: .*is the address right and the server"),
    "answer lost": Fault({"drop": "after"}, 2),
    "slow": Fault({"delay": 3, "count": None}, 2, r"no answer within 1 s \(option timeout\)"),
    "slow once": Fault({"delay": 3}, 2),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_a_fault_on_the_way(transit: Transit, path: Path, fault: Fault) -> None:
    bao = transit.bao
    kind = OddProxy if fault.odd else FaultProxy
    with kind(bao.url, bao.ca_cert, bao._server) as proxy:
        proxy.add(Rule(path=ENCRYPT, **fault.rule))
        given: dict[str, Any] = {"url": proxy.url, "timeout": 1}
        if fault.words:
            with _refused(path, fault.words, ENCRYPT[:-1], seconds=fault.seconds):
                transit.declare(path, {"b": "value"}, **given)
        else:
            transit.declare(path, {"b": "value"}, **given)
        eventually(lambda: len(proxy.seen(ENCRYPT)) == fault.attempts, 5)


@pytest.mark.parametrize(
    ("given", "attempts"), [({"retries": 0}, 1), ({"retries": 1}, 2), ({"retries": 4}, 5)], ids=["0", "1", "4"]
)
def test_as_many_retries_as_are_asked_for(transit: Transit, path: Path, given: dict[str, Any], attempts: int) -> None:
    with transit.bao.fault_proxy() as proxy:
        proxy.add(Rule(path=ENCRYPT, status=500, count=None))
        with _refused(path, "internal error", seconds=15):
            transit.declare(path, {"b": "value"}, url=proxy.url, **given)
        assert len(proxy.seen(ENCRYPT)) == attempts


@pytest.mark.parametrize("rule", [{"drop": "after"}, {"status": 500}, {"status": 503}, {"delay": 3}], ids=str)
def test_what_must_not_happen_twice_is_sent_once(transit: Transit, rule: dict[str, Any]) -> None:
    work, key = f"{transit.mount}/keys/prod/rotate", f"{transit.mount}/keys/prod"
    with transit.bao.fault_proxy() as proxy:
        with transit.session(url=proxy.url, timeout=1) as session:
            proxy.add(Rule(path="/rotate$", **rule))
            with pytest.raises(HostsealError, match="POST .*/rotate: "):
                session.call("POST", work, {}, repeatable=False)
        time.sleep(max(0, rule.get("delay", 0) - 1))
        seen = eventually(lambda: proxy.seen("/rotate$"))
    assert len(seen) == 1
    assert data(transit.bao, key)["latest_version"] == 1 + seen[0].forwarded


def test_what_was_not_looked_at_is_sent_again(transit: Transit) -> None:
    with transit.bao.fault_proxy() as proxy:
        auth, role_id, secret_id = transit.bao.enable_approle(transit.mount, transit.policies(), secret_id_num_uses=1)
        proxy.add(Rule(path="/login$", status=429, count=2))
        login = {"auth_method": "approle", "mount_point": auth, "role_id": role_id, "secret_id": secret_id}
        with transit.session(url=proxy.url, **login) as session:
            proxy.add(Rule(path="/rotate$", status=429))
            session.call("POST", f"{transit.mount}/keys/prod/rotate", {}, repeatable=False)
        assert [one.status for one in proxy.seen("/login$")] == [429, 429, 200]
    assert data(transit.bao, f"{transit.mount}/keys/prod")["latest_version"] == 2


def test_where_a_redirect_may_lead(transit: Transit, path: Path) -> None:
    """To another node, as a standby sends us; the token goes nowhere else, and nowhere in clear."""
    bao, target = transit.bao, f"/v1/{transit.mount}{ENCRYPT[:-1]}"
    with bao.fault_proxy() as proxy, bao.fault_proxy() as other:
        given = {"url": proxy.url}
        for status, place, attempts, words in (
            (302, other.url, 1, "it refers us to 127.0.0.1:.* .status 302."),
            (301, other.url, 1, "it refers us to 127.0.0.1:.* .status 301."),
            (307, other.url.replace("https", "http"), 1, "without TLS: its api_addr has to be an https address"),
            (307, proxy.url, 3, "it refers us to 127.0.0.1:.*, where we don't go"),
        ):
            proxy.clear()
            proxy.add(Rule(path=ENCRYPT, status=status, count=None, headers={"Location": f"{place}{target}"}))
            before = len(proxy.seen(ENCRYPT))
            with _refused(path, words, seconds=5):
                transit.declare(path, {"b": "value"}, **given)
            assert len(proxy.seen(ENCRYPT)) - before == attempts
        assert other.seen() == []
        proxy.clear()
        proxy.add(Rule(path=ENCRYPT, status=307, headers={"Location": f"{other.url}{target}"}))
        transit.declare(path, {"b": "value"}, **given)
        assert [(one.method, one.status) for one in other.seen()] == [("POST", 200)]


def test_a_real_limit_of_the_rate(transit: Transit, path: Path) -> None:
    bao, quota = transit.bao, f"sys/quotas/rate-limit/{transit.mount}"
    limit = {"path": f"{transit.mount}/", "rate": 1}
    assert ask(bao, "POST", quota, {**limit, "interval": "1s"}).ok
    try:
        transit.declare(path, {"b": "value"})
        _seal(transit, path)
        assert ask(bao, "POST", quota, {**limit, "interval": "60s"}).ok
        with _refused(path, "limits the rate of requests, also after waiting", seconds=6):
            transit.declare(path, {"c": "value"})
    finally:
        ask(bao, "DELETE", quota)


class Interrupting(FaultProxy):
    """One that does something just before the second request to encrypt goes through."""

    def __init__(self, bao: OpenBao, act: Callable[[], object]) -> None:
        super().__init__(bao.url, bao.ca_cert, bao._server)
        self._act = act
        self._count = 0
        self._counting = threading.Lock()

    def handle(self, request: Any) -> None:
        if request.path.endswith(ENCRYPT[:-1]):
            with self._counting:
                self._count += 1
                if self._count == 2:
                    self._act()
        super().handle(request)


@pytest.mark.parametrize("what", ["token", "key", "server"])
def test_lost_in_the_midst_of_many_batches(transit: Transit, path: Path, what: str) -> None:
    """The first batch was answered; of all of them nothing is stored."""
    bao, token = transit.bao, transit.token()
    root = bao.client()

    def act() -> None:
        if what == "token":
            root.auth.token.revoke(token)
        elif what == "key":
            ask(bao, "POST", f"{transit.mount}/keys/prod/config", {"deletion_allowed": True})
            assert ask(bao, "DELETE", f"{transit.mount}/keys/prod").ok
        else:
            proxy.add(Rule(drop="before", count=None))

    words = {
        "token": "permission denied, also to look the token up: it has expired or was revoked",
        "key": "permission denied: .*or there is no key 'prod' any more",
        "server": "no answer: .*is the address right and the server running",
    }[what]
    values = {f"s{number}": f"value {number}" for number in range(1000)}
    with Interrupting(bao, act) as proxy:
        with _refused(path, words, seconds=10):
            transit.declare(path, values, url=proxy.url, token=token)
        assert [one.status for one in proxy.seen(ENCRYPT)].count(200) >= 1


def test_what_the_server_refuses(transit: Transit, path: Path) -> None:
    bao, mount = transit.bao, transit.mount
    _seal(transit, path)
    with _refused(path, f"none of its policies .{mount}-prod-deployer. allows this.*vault_transit", seconds=5):
        transit.declare(path, {"b": "value"}, token=transit.token("deployer"))
    with _refused(path, f"GET {mount}/keys/prod-sign.*{mount}-prod-writer", seconds=5):
        _seal(transit, path, token=transit.token("writer"))
    with _refused(path, "expired or was revoked, or it is not one of this server", seconds=5):
        transit.declare(path, {"b": "value"}, token="s.neverheardof")
    token = transit.token(ttl="1s", explicit_max_ttl="1s")
    time.sleep(1.2)
    with _refused(path, "permission denied, also to look the token up: it has expired", seconds=5):
        _seal(transit, path, token=token)
    for _number in range(2):
        assert ask(bao, "POST", f"{mount}/keys/prod/rotate").ok
    assert ask(bao, "POST", f"{mount}/keys/prod/config", {"min_decryption_version": 3}).ok
    words = "secret 'a' version 1 of environment 'prod': .*below the key's min_decryption_version: lower that"
    with _refused(path, words, "rewrap", seconds=5):
        _seal(transit, path)
    ask(bao, "POST", f"{mount}/keys/prod/config", {"deletion_allowed": True})
    assert ask(bao, "DELETE", f"{mount}/keys/prod").ok
    with _refused(path, f"POST {mount}/decrypt/prod: there is no such key: it was deleted", seconds=5):
        _seal(transit, path)
    with _refused(path, "or there is no key 'prod' any more", seconds=5):
        transit.declare(path, {"b": "value"}, token=transit.token("writer"))
    assert ask(bao, "DELETE", f"sys/mounts/{mount}").status_code == 204
    with _refused(path, "nothing is mounted there: check engine_mount_point|make the keys with", seconds=5):
        _seal(transit, path, token=bao.root_token)


def test_a_server_that_is_away(fresh_bao: BaoFactory, tmp_path: Path) -> None:
    bao = fresh_bao()
    transit = Transit(bao, "transit")
    path = _filled(transit, tmp_path / "store.db")
    token = transit.token()
    auth, role_id, secret_id = bao.enable_approle("ci", transit.policies())
    login = {"auth_method": "approle", "mount_point": auth, "role_id": role_id, "secret_id": secret_id}
    bao.pause()
    for given in ({"token": token}, login):
        with _refused(path, r"no answer within 1 s \(option timeout\)", seconds=4):
            _seal(transit, path, timeout=1, **given)
    bao.resume()
    # Away at the end of the task: what was done stays, and it ends.
    with transit.session(timeout=30, **login) as session:
        session.call("GET", "auth/token/lookup-self")
        bao.pause()
        began = time.monotonic()
    assert time.monotonic() - began < 7
    bao.resume()
    bao.seal()
    for given in ({"token": token}, login):
        with _refused(path, "the server is sealed: unseal it", seconds=5):
            _seal(transit, path, **given)
    bao.kill()
    for given in ({"token": token}, login):
        with _refused(path, "no answer: Connection refused; is the address right and the server running", seconds=5):
            _seal(transit, path, **given)
    bao.start()
    _seal(transit, path, token=token)


def test_a_standby_and_a_cluster_without_an_active_node(fresh_bao: BaoFactory, tmp_path: Path) -> None:
    leader = fresh_bao()
    transit = Transit(leader, "transit")
    path = _filled(transit, tmp_path / "store.db")
    standby = fresh_bao(standby_of=leader)
    token = transit.token()
    given = {"url": standby.url, "token": token}
    transit.declare(path, {"b": "value"}, **given)
    _seal(transit, path, **given)
    auth, role_id, secret_id = leader.enable_approle("ci", transit.policies())
    login = {"auth_method": "approle", "mount_point": auth, "role_id": role_id, "secret_id": secret_id}
    leader.kill()
    # A login makes a token, which the active node alone can.
    words = "it refers us to 127.0.0.1:.*, which gives no answer: the cluster has no active node|no active node"
    with _refused(path, words, seconds=15):
        transit.declare(path, {"c": "value"}, url=standby.url, **login)
    leader.start()
    eventually(lambda: leader.health() == ACTIVE)
    transit.declare(path, {"c": "value"}, url=leader.url, token=token)


def test_nothing_secret_is_told_of_any_fault(transit: Transit, control: Control) -> None:
    """All of it in one run of ansible-playbook, as wordy as it can be."""
    bao = transit.bao
    transit.declare_environment(control.place.path)
    transit.declare(control.place.path, {"a": "value"})
    before = control.place.path.read_bytes()
    mount, sign = bao.enable_jwt("ci", transit.policies(), mount=f"{transit.mount}-jwt")
    bao.enable_userpass("ann", [], mount=f"{transit.mount}-userpass")
    bao.enable_approle("ci", [], mount=f"{transit.mount}-approle")
    markers = Markers.random("value", "password", "secret id", "bad token")
    tokens = {"token": transit.token("deployer"), "good": transit.token(), "jwt": sign(aud="another")}
    markers |= Markers({name: token.encode() for name, token in tokens.items()})
    value = markers.text("value")
    good = {"url": bao.url, "ca_cert": bao.ca_cert, "retries": 1}
    statuses = (429, 500, 502, 503, 307)
    logins: dict[str, dict[str, str]] = {
        "approle": {"role_id": "ci", "secret_id": markers.text("secret id")},
        "jwt": {"role_id": "ci", "jwt": tokens["jwt"]},
        "userpass": {"username": "ann", "password": markers.text("password")},
    }
    with OddProxy(bao.url, bao.ca_cert, bao._server) as proxy:
        for status in statuses:
            proxy.add(Rule(path=f"/login.*{status}|/{status}/encrypt", status=status, count=None))
        proxy.add(Rule(path="/lost/", drop="before", count=None))
        tasks = [
            secret("b", value=value, **{**good, "token": tokens["token"]}),
            {**secret("b", value=value, **{**good, "token": markers.text("bad token")}), "name": "bad token"},
            {**secret("b", value=value, **{**good, "token": tokens["good"] + "\nx"}), "name": "odd token"},
            {
                **secret("b", value=value, **{**good, "url": "https://127.0.0.1:9", "token": tokens["good"]}),
                "name": "down",
            },
            *(
                task(
                    f"login {method}",
                    "secret",
                    environment="prod",
                    name="b",
                    value=value,
                    auth_method=method,
                    mount_point=f"{transit.mount}-{method}",
                    **good,
                    **login,
                )
                for method, login in logins.items()
            ),
            *(
                task(
                    f"status {status}",
                    "environment",
                    name=f"e{status}",
                    key="prod",
                    backend="vault",
                    engine_mount_point=f"{status}",
                    **{**good, "url": proxy.url, "token": tokens["good"]},
                )
                for status in statuses
            ),
        ]
        run = control.tasks(*tasks, fails=True, arguments=("-vvvv", "--diff"), variables={"ANSIBLE_DEBUG": None})
    for one in tasks:
        message = run.message(one["name"])
        assert "Vault at https://127.0.0.1:" in message, message
        assert "unexpected" not in message
    assert markers.search_text(run.output, "output") == []
    assert markers.search_text(str(run.lines), "callback") == []
    # Of a fork's own words Ansible says that they are errant.
    assert "errantly" not in run.output
    assert control.place.path.read_bytes() == before
    assert mount


def test_delivered_secrets_outlive_the_server(
    fresh_bao: BaoFactory, fresh_host: HostFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bao = fresh_bao()
    transit = Transit(bao, "transit")
    host = fresh_host()
    control = ControlNode(tmp_path / "control", host)
    for name, value in (("ADDR", bao.url), ("CACERT", bao.ca_cert), ("TOKEN", transit.token())):
        monkeypatch.setenv(f"VAULT_{name}", value)
    delivering = mount("db", "password")
    control.tasks(transit.environment(), secret("password", value="delivered"), hosts="localhost")
    control.tasks(install("prod"), delivering)
    start = bao.mark()
    assert not control.tasks(delivering).results["prod.db"]["changed"]
    assert transit.paths(start) == []
    place = ("-v", "prod.db:/run/secrets:ro", "--volume-driver", "hostseal", "--restart", "always", "--init")
    host.run(["docker", "run", "-d", "--name", "app", *place, "busybox", "sleep", "1000"])
    bao.kill()

    def read() -> str:
        return host.run(["docker", "exec", "app", "cat", "/run/secrets/password"], check=False).stdout

    assert read() == "delivered"
    host.run(["docker", "restart", "--time", "0", "app"])
    assert read() == "delivered"
    host.power_cut(wait=True)
    eventually(lambda: read() == "delivered")
    again = control.tasks(delivering)
    assert not again.results["prod.db"]["changed"]
    failed = control.tasks({**mount("other", "password")}, check=False)
    assert "Connection refused; is the address right" in failed.message("prod.other")
    assert read() == "delivered"
