# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""An environment that goes to another backend, key or engine, with the real server: everything arrives or nothing."""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils._envelope import read_host_record, read_key_set
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _migrating
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends import Backend, localkey

from tests.integration.control.conftest import Control, Task, task
from tests.integration.vault.connection import Transit
from tests.integration.vault.stored import Stored, kill_when, running
from tests.rig.fault_proxy import Rule
from tests.rig.openbao import OpenBao
from tests.unit.builders import in_processes
from tests.unit.test_migrating import Watched, dies_at

LOCAL = {"backend": "localkey"}


@dataclass(frozen=True)
class Site:
    """Environment prod with a local key, three secrets, two hosts; and a Transit engine to go to, for prod and other."""

    control: Control
    transit: Transit
    stored: Stored

    def vault(self, mount: str | None = None, **options: Any) -> dict[str, Any]:
        return {"backend": "vault", "engine_mount_point": self.transit.mount if mount is None else mount, **options}

    def variables(self, *policies: str, url: str | None = None) -> dict[str, str]:
        """A token with these policies of prod, or all of them."""
        bao = self.transit.bao
        token = self.transit.token(*(policies or ("writer", "deployer")))
        return {"VAULT_ADDR": url or bao.url, "VAULT_CACERT": bao.ca_cert, "VAULT_TOKEN": token}


@pytest.fixture
def site(bao: OpenBao, mount: str, tmp_path: Path) -> Site:
    control = Control(tmp_path)
    place = control.place
    place.declare_environment("prod")
    place.declare(
        {"name": "a", "value": "one"}, {"name": "b", "value_base64": "AAEC/w=="}, {"name": "c", "value": "x" * 70000}
    )
    place.declare({"name": "a", "value": "two", "on_difference": "rotate"})
    place.enrol("db1")
    place.enrol("db2")
    return Site(control, Transit(bao, mount), Stored(control, bao))


def environment(title: str, *, keywords: dict[str, Any] | None = None, **options: Any) -> Task:
    return {**task(title, "environment", name="prod", **{"migrate": True, **options}), **(keywords or {})}


def untouched(stored: Stored) -> list[Any]:
    return [replace(one, ciphertext="", fingerprint="") for one in stored.versions()]


def test_from_place_to_place(site: Site, bao: OpenBao) -> None:
    other = Transit(bao, f"{site.transit.mount}-b/deeper", "other", policies=False, policy_prefix="")
    localkey.create(site.control.place.keys, "other")
    steps = [
        {**LOCAL, "key": "other"},
        site.vault(),
        site.vault(key="other"),
        site.vault(f"/{other.mount}/", key="other"),
        {**LOCAL, "key": "prod"},
    ]
    Transit(bao, site.transit.mount, "other", policies=False)
    tasks = []
    for number, step in enumerate(steps):
        # Hosts that exist by their records alone can't pin anything.
        tasks.append(environment(f"to {number}", force=True, **step))
        copy = f"cp {site.control.place.path} {site.control.directory}/store.{number}"
        tasks.append({"name": f"copy {number}", "ansible.builtin.command": copy})
    begun, values, hosts = site.stored.record(), site.stored.values(), site.stored.hosts()
    before = untouched(site.stored)
    variables = {**site.variables(), "VAULT_TOKEN": bao.root_token}
    run = site.control.tasks(*tasks, {**environment("again", **steps[-1])}, variables=variables)
    kids = [begun.signing_kid]
    for number in range(len(steps)):
        assert run.changed(f"to {number}") == 1
        stored = Stored(site.control, bao, site.control.directory / f"store.{number}")
        record, told = stored.record(), run.result(f"to {number}")["environment"]
        assert (record.backend, record.key_name) == (steps[number]["backend"], steps[number].get("key", "prod"))
        assert stored.values() == values
        assert untouched(stored) == before
        with stored.backend() as backend:
            keys = backend.verification_keys()[:1]
        for name, host in stored.hosts().items():
            assert read_host_record(host.record, "prod", name, keys).thumbprint() == host.kid == hosts[name].kid
        assert [key.thumbprint() for key in read_key_set(record.key_set, keys).keys] == [record.signing_kid, kids[-1]]
        assert (told["signing_kid"], told["retiring_kids"]) == (record.signing_kid, [kids[-1]])
        assert told["behind"] == [f"host '{name}' has not pinned the new key" for name in ("db1", "db2")]
        kids.append(record.signing_kid)
    assert (kids[-1], len(set(kids))) == (begun.signing_kid, 5)
    assert Stored(site.control, bao, site.control.directory / "store.3").record().engine_mount_point == other.mount
    assert run.result("again")["changed"] is False


BAD_MOUNTS = ["", "/", "a b", "a/../b", "..", "a//b", "a?b", "a#b", "x" * 256, "a%2fb", "é"]


def test_what_is_refused_changes_nothing(site: Site) -> None:
    whole = site.stored.whole()
    tasks = [
        environment("without migrate", migrate=False, **site.vault()),
        environment("checked", keywords={"check_mode": True, "diff": True}, **site.vault()),
        environment("no such key", **LOCAL, key="nothing"),
        environment("no such key yet", keywords={"check_mode": True}, **LOCAL, key="nothing"),
        environment("no such engine", **site.vault("nowhere")),
        *(
            environment(f"engine {number}", keywords={"check_mode": bool(number % 2)}, **site.vault(bad))
            for number, bad in enumerate(BAD_MOUNTS)
        ),
    ]
    run = site.control.tasks(*tasks, variables=site.variables(), fails=True)
    message = run.message("without migrate")
    assert "under localkey key 'prod'" in message
    assert f"the task says vault key 'prod' at {site.transit.mount}" in message
    assert "say migrate: true. Nothing was changed" in message
    checked = run.result("checked")
    assert checked["changed"] is True
    assert checked["environment"]["backend"] == "vault"
    assert checked["diff"]["before"].startswith("environment prod, localkey key 'prod', signing key ")
    assert checked["diff"]["after"].startswith(
        f"environment prod, vault key 'prod' at {site.transit.mount}, signing key"
    )
    assert "nothing.jwks does not exist" in run.message("no such key")
    assert run.result("no such key yet")["changed"] is True
    assert run.result("no such key yet")["environment"]["signing_kid"] is None
    assert "nowhere/keys/prod-sign" in run.message("no such engine")
    for number, _bad in enumerate(BAD_MOUNTS):
        assert "engine_mount_point" in run.message(f"engine {number}")
    for kind, refused in (("writer", "decrypt"), ("deployer", "encrypt")):
        run = site.control.tasks(
            environment("may not", **site.vault()),
            variables=site.variables(kind),
            fails=True,
        )
        path = "keys/prod-sign" if kind == "writer" else f"{refused}/prod"
        assert f"{site.transit.mount}/{path}" in run.message("may not")
    assert site.stored.whole() == whole


def test_retirement_waits_for_every_host(site: Site) -> None:
    other = site.vault()
    localkey.create(site.control.place.keys, "third")
    run = site.control.tasks(
        environment("first", keywords={"diff": True}, **other),
        environment("second", keywords={"diff": True}, **other),
        environment("third", **LOCAL, key="third"),
        environment("third checked", keywords={"check_mode": True}, **LOCAL, key="third"),
        environment("plain", **other, migrate=False),
        variables=site.variables(),
        fails=True,
    )
    first, old = run.result("first"), site.stored.record()
    assert (run.changed("first"), run.changed("second"), run.changed("plain")) == (1, 0, 0)
    assert "environment prod: 4 of 4 versions" in run.output
    assert ", still accepted " in first["diff"]["after"]
    for name in ("third", "third checked"):
        message = run.message(name)
        assert "still on the way from its last migration: host 'db1' has not pinned the new key (and 1 more)" in message
        assert "replace_key: true. Nothing was changed" in message
    assert run.result("plain")["environment"]["behind"] == first["environment"]["behind"]
    time_of_issue = read_key_set(old.key_set, None).issued_at
    with site.control.place.store() as store, store.transaction() as transaction:
        transaction.confirm_key_set("prod", "db1", time_of_issue)
        transaction.remove_host("prod", "db2")
    run = site.control.tasks(
        environment("checked", keywords={"check_mode": True, "diff": True}, **other),
        environment("retire", keywords={"diff": True}, **other),
        environment("again", **other),
        # The host has all but the last set, which the one that it has vouches for.
        environment("third", **LOCAL, key="third"),
        variables=site.variables("deployer"),
    )
    assert [run.changed(name) for name in ("checked", "retire", "again", "third")] == [1, 1, 0, 1]
    assert run.result("retire")["environment"]["retiring_kids"] == []
    assert run.result("checked")["diff"]["before"] == run.result("retire")["diff"]["before"]
    assert ", still accepted " in run.result("retire")["diff"]["before"]
    assert ", still accepted " not in run.result("retire")["diff"]["after"]
    assert len(site.stored.values()) == 4
    assert site.stored.record().key_name == "third"


def damaged(site: Site) -> None:
    """A ciphertext of Vault's with one character changed."""
    [[text]] = site.control.place.sql("SELECT ciphertext FROM secret_version WHERE name = 'b'")
    edited = text[:40] + ("A" if text[40] != "A" else "B") + text[41:]
    site.control.place.sql("UPDATE secret_version SET ciphertext = ? WHERE name = 'b'", edited)


def test_an_edited_row_stops_the_way_back(site: Site) -> None:
    migrate(site, "prod", "vault")
    damaged(site)
    whole = site.stored.whole()
    back = environment("back", force=True, **LOCAL)
    run = site.control.tasks(back, variables=site.variables("deployer"), fails=True)
    assert "secret 'b' version 1 of environment 'prod'" in run.message("back")
    assert "the row was edited or moved" in run.message("back")
    assert site.stored.whole() == whole


@contextmanager
def backends(site: Site) -> Iterator[dict[str, Backend]]:
    with site.transit.backend(token=site.transit.token("writer", "deployer")) as vault:
        yield {"vault": vault, "localkey": site.control.place.backend()}


def migrate(
    site: Site,
    key: str,
    kind: str,
    watch: str | None = None,
    meanwhile: Callable[[str, int], None] = lambda _name, _number: None,
) -> list[tuple[str, int]]:
    """Without Ansible. The calls of the backend that is WATCHed; MEANWHILE is done before each."""
    with ExitStack() as stack:
        found = stack.enter_context(backends(site))
        transaction = stack.enter_context(stack.enter_context(site.control.place.store()).transaction())
        before = transaction.environment("prod")
        watched = Watched(found[watch or kind], meanwhile)
        found[watch or kind] = watched
        mount = site.transit.mount if kind == "vault" else None
        after = replace(before, backend=kind, key_name=key, engine_mount_point=mount)
        _migrating.migrate(transaction, before, found[before.backend], after, found[kind], lambda _done, _whole: None)
        return watched.made


@pytest.mark.parametrize("start", ["localkey", "vault"])
def test_killed_at_each_call_of_a_backend(site: Site, start: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_migrating, "CHUNK", 3)
    kind = "vault" if start == "localkey" else "localkey"
    if start == "vault":
        migrate(site, "prod", "vault")
    whole, values = site.stored.whole(), site.stored.values()
    calls = {"localkey": 3, "vault": 8} if kind == "vault" else {"localkey": 8, "vault": 3}
    for watched, count in calls.items():
        for call in range(count):
            work = functools.partial(migrate, site, "prod", kind, watched, dies_at(call))
            assert in_processes(1, lambda _number, work=work: work()) == [-signal.SIGKILL]
            assert site.stored.whole() == whole
    assert len(migrate(site, "prod", kind)) == calls[kind]
    assert (site.stored.values(), site.stored.record().backend) == (values, kind)


@pytest.mark.thorough
def test_a_killed_run_and_others_beside_the_next(site: Site, bao: OpenBao) -> None:
    whole, values = site.stored.whole(), site.stored.values()
    going = environment("going", **site.vault())
    with bao.fault_proxy() as proxy:
        proxied = site.variables(url=proxy.url)
        # When the first values are at the server, and when everything is written but the signatures.
        for path in ("/decrypt/", "/sign/"):
            rule = proxy.add(Rule(path=path, delay=30))
            with running(site.control, going, **proxied) as process:
                kill_when(process, lambda rule=rule: rule.used > 0)
            assert site.stored.whole() == whole
        lost = proxy.add(Rule(path="/sign/", status=500, count=None))
        run = site.control.tasks(going, variables={**proxied, "VAULT_RETRIES": "0"}, fails=True)
        assert "sign/prod-sign" in run.message("going")
        assert site.stored.whole() == whole
        lost.count = 0
        rule = proxy.add(Rule(path="/sign/", delay=5))
        mounts = [{"name": "db", "secrets": [{"source": "a"}]}]
        with running(site.control, going, **proxied) as process:
            while not rule.used:
                assert process.poll() is None
                time.sleep(0.01)
            run = site.control.tasks(
                task("declare", "secret", environment="prod", name="d", value="four"),
                task("seal", "seal", environment="prod", hosts=["db1"], mounts=mounts),
                variables=site.variables(),
            )
            assert process.wait(60) == 0
    assert (run.changed("declare"), run.changed("seal")) == (1, 1)
    assert site.stored.record().backend == "vault"
    assert site.stored.values() == {**values, ("d", 1): b"four"}
    again = site.control.tasks(going, variables=site.variables())
    assert again.changed("going") == 0
