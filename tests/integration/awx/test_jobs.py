# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The main job in the execution environment, by ansible-runner, with what AWX would give to it: and it leaves no value."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends import localkey

from tests.integration.awx.image import build
from tests.integration.awx.jobs import Controller, Credential, Job
from tests.integration.stores.places import ServerPlace
from tests.markers import Markers
from tests.rig.databases import PASSWORD, DatabaseServer, running
from tests.rig.engine import Engine
from tests.rig.host import ThrowawayHost
from tests.rig.openbao import OpenBao, clean_leftovers

# An image is built, and a job is many short programs: on a busy machine that takes its time.
pytestmark = [pytest.mark.thorough, pytest.mark.timeout(3600)]

ANOTHER = secrets.token_urlsafe(30)
SITE = "playbooks/site.yml"


def _inventory(host: ThrowawayHost, address: str, **variables: Any) -> dict[str, Any]:
    reached = {
        "ansible_host": address,
        "ansible_user": "deploy",
        "ansible_become": True,
        "ansible_python_interpreter": "/usr/bin/python3",
    }
    return {"docker_hosts": {"hosts": {host.name: reached}, "vars": variables}}


def _declared(environment: str, backend: str) -> dict[str, Any]:
    """Variables of the inventory, as site.yml wants them."""
    return {
        f"hostseal_environments_{backend}": [{"name": environment, "backend": backend}],
        f"hostseal_secrets_{backend}": [
            {"environment": environment, "name": "made", "generate": {"length": 24}},
            {"environment": environment, "name": "given", "value": ANOTHER},
        ],
        f"hostseal_mounts_{backend}": [
            {"environment": environment, "name": "web", "secrets": [{"source": "made"}, {"source": "given"}]}
        ],
    }


@pytest.fixture(scope="module")
def host(engine: Engine) -> Iterator[ThrowawayHost]:
    """A bare host that is reached by SSH."""
    made = ThrowawayHost(engine, f"t{os.getpid()}-awx")
    try:
        made.start(load=("busybox",))
        made.sh("apt-get -q update; apt-get -qy install --no-install-recommends openssh-server; systemctl start ssh")
        yield made
    finally:
        made.remove()


@pytest.fixture(scope="module")
def ssh_key(host: ThrowawayHost, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the machine credential holds."""
    key = tmp_path_factory.mktemp("machine") / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    public = key.with_suffix(".pub").read_text(encoding="ascii")
    host.run(
        ["sh", "-c", "mkdir -m 700 ~/.ssh && cat > ~/.ssh/authorized_keys"], input=public, user="deploy", check=True
    )
    return key


@pytest.fixture(scope="module")
def image(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    return build(engine, tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="module")
def server() -> Iterator[DatabaseServer]:
    with running("postgresql") as started:
        yield started


@pytest.fixture
def place(server: Any, tmp_path: Path) -> ServerPlace:
    """An empty database, and keys on the machine of who administers them."""
    return ServerPlace(tmp_path / "store.db", tmp_path / "keys", server, server.new_database())


@pytest.fixture
def store(place: ServerPlace) -> Credential:
    url = place.url.replace(str(place.server.ca_cert), "$CA")
    assert url.endswith("sslmode=verify-full&sslrootcert=$CA")
    ca_cert = place.server.ca_cert.read_text(encoding="ascii")
    return Credential("store", {"url": url, "password": PASSWORD, "ca_cert": ca_cert})


def _controller(engine: Engine, image: str, host: ThrowawayHost, ssh_key: Path, folder: Path, **variables: Any) -> Any:
    inspected = "{{.NetworkSettings.IPAddress}}"
    address = engine.text("inspect", "--format", inspected, host.container)
    return Controller(engine, image, _inventory(host, address, **variables), ssh_key, folder / "jobs")


def _read(host: ThrowawayHost, volume: str, name: str) -> str:
    run = ("docker", "run", "--rm", "-v", f"{volume}:/run/secrets:ro,nocopy", "--volume-driver", "hostseal", "busybox")
    return host.out(*run, "cat", f"/run/secrets/{name}")


def _hunt(jobs: list[Job], controller: Controller, values: dict[str, str]) -> None:
    """Nothing of VALUES is in what jobs print and report, and AWX keeps."""
    markers = Markers({name: value.encode() for name, value in values.items()})
    for job in jobs:
        assert not markers.search_text(job.output, f"output of job {job.number}")
        search = markers.search_tree(controller.folder / f"awx_{job.number}" / "artifacts")
        assert not search.findings
        assert search.files > 10


def test_main_job_with_a_local_key(
    engine: Engine, image: str, host: ThrowawayHost, ssh_key: Path, place: ServerPlace, store: Credential
) -> None:
    localkey.create(place.keys, "shop")
    key = (place.keys / "shop.jwks").read_text(encoding="ascii")
    keyed = Credential("localkey", {"key": key})
    controller = _controller(engine, image, host, ssh_key, place.keys.parent, **_declared("shop", "localkey"))
    predicted = controller.launch(SITE, keyed, store, arguments="--check -vvvv").ok()
    first = controller.launch(SITE, keyed, store, arguments="-vvvv", user="alice").ok()
    assert _read(host, "shop.web", "given") == ANOTHER
    assert len(_read(host, "shop.web", "made")) == 24
    second = controller.launch(SITE, keyed, store, user="bob").ok()
    assert (predicted.changed > 0, first.changed > 0, second.changed) == (True, True, 0)
    rotated = controller.launch("playbooks/rotate.yml", keyed, store, user="carol", hostseal_rotate="shop/made").ok()

    with place.store(read_only=True) as opened, opened.transaction() as transaction:
        log = [(record.user, record.job, record.action) for record in transaction.audit()]
    alice, carol = ("alice", str(first.number)), ("carol", str(rotated.number))
    assert {(user, job) for user, job, _action in log} == {alice, carol}
    assert (*alice, "mount.delivered") in log
    assert (*carol, "secret.rotated") in log

    # A change of the key would die with the job.
    change = {"name": "Change", "hostseal.secrets.localkey": {"name": "shop", "state": "rotated"}}
    plays = [{"hosts": "localhost", "gather_facts": False, "tasks": [change]}]
    for arguments in ("", "--check"):
        refused = controller.launch(plays, keyed, store, arguments=arguments)
        assert "is one key file, which is never changed" in refused.results["Change"]["msg"]
    # Nor is there anything without its credentials.
    alone = controller.launch(SITE, store)
    assert "AWX job or an execution environment" in alone.output
    assert "key_path or HOSTSEAL_KEY_PATH" in alone.output
    nothing = controller.launch(SITE, keyed)
    assert "set the option store or HOSTSEAL_STORE" in nothing.output

    signing = [found["d"] for found in json.loads(key)["keys"] if "d" in found]
    _hunt(
        [predicted, first, second, rotated, refused, alone, nothing],
        controller,
        {"value": ANOTHER, "password": PASSWORD, "signing key": signing[0]},
    )


def _approle(bao: OpenBao, *kinds: str) -> Credential:
    policies = [f"hostseal-depot-{kind}" for kind in kinds]
    _mount, role_id, secret_id = bao.enable_approle("-and-".join(kinds), policies)
    return Credential(
        "vault_approle",
        {
            "url": bao.url,
            "role_id": role_id,
            "secret_id": secret_id,
            "ca_cert": Path(bao.ca_cert).read_text(encoding="ascii"),
        },
    )


def test_main_job_with_vault(
    engine: Engine,
    image: str,
    host: ThrowawayHost,
    ssh_key: Path,
    place: ServerPlace,
    store: Credential,
    tmp_path: Path,
) -> None:
    clean_leftovers()
    with OpenBao() as bao:
        declared_there = {**_declared("depot", "vault"), "ansible_pipelining": True}
        controller = _controller(engine, image, host, ssh_key, tmp_path, **declared_there)
        administrator = Credential(
            "vault_token",
            {"url": bao.url, "token": bao.root_token, "ca_cert": Path(bao.ca_cert).read_text(encoding="ascii")},
        )
        keys = {"name": "Keys", "hostseal.secrets.vault_transit": {"name": "depot"}}
        made = controller.launch(
            [{"hosts": "localhost", "gather_facts": False, "tasks": [keys]}], administrator, arguments="-vvvv"
        ).ok()
        writer, deployer = _approle(bao, "writer"), _approle(bao, "deployer")
        both = _approle(bao, "writer", "deployer")

        first = controller.launch(SITE, both, store, arguments="--tags declare -vvvv").ok()
        assert "Declare its secrets" in first.results
        assert "Deliver the mounts to the host" not in first.results
        delivered = controller.launch(SITE, deployer, store, user="bob", arguments="--skip-tags declare -vvvv").ok()
        assert "Declare its secrets" not in delivered.results
        assert _read(host, "depot.web", "given") == ANOTHER
        old = _read(host, "depot.web", "made")
        declared = controller.launch(SITE, writer, store, arguments="--tags declare").ok()
        assert declared.changed == 0

        # As answers to the surveys come.
        answers = {"hostseal_rotate": "depot/made", "hostseal_serial": "1"}
        rotated = controller.launch("playbooks/rotate.yml", both, store, **answers).ok()
        new = _read(host, "depot.web", "made")
        assert new != old
        reports = tmp_path / "reports"
        reports.mkdir()
        reported = controller.launch(
            "playbooks/report.yml", store, exposed=reports, hostseal_report=f"{reports}/report.html"
        ).ok()
        page = (reports / "report.html").read_text(encoding="utf-8")
        assert f"<td>alice, job {rotated.number}</td>" in page
        answers = {"hostseal_environment": "depot", "hostseal_revoke": "given"}
        revoked = controller.launch("playbooks/revoke.yml", deployer, store, user="carol", **answers).ok()
        assert host.sh("ls /run/hostseal/volumes/*/..data/given", check=False).returncode
        with place.store(read_only=True) as opened, opened.transaction() as transaction:
            assert [version.name for version in transaction.versions("depot")] == ["made", "made"]
            log = [(record.user, record.job, record.action) for record in transaction.audit()]
        assert ("carol", str(revoked.number), "secret.deleted") in log

        _hunt(
            [made, first, declared, delivered, rotated, reported, revoked],
            controller,
            {
                "value": ANOTHER,
                "old": old,
                "new": new,
                "token": bao.root_token,
                "secret id": both.inputs["secret_id"],
                "deployer's secret id": deployer.inputs["secret_id"],
            },
        )
