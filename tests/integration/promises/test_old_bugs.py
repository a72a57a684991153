# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Bugs that systems of this kind had, each once from the playbook to the container."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.integration.agent.conftest import AgentHost, eventually
from tests.markers import Markers

CERTIFICATE = "-----BEGIN CERTIFICATE-----\n" + (base64.b64encode(os.urandom(48)).decode() + "\n") * 400
ENCODED = base64.b64encode(b"this is what the value looks like when it is decoded").decode()


@pytest.fixture(scope="module")
def bugs(prod: AgentHost) -> Iterator[AgentHost]:
    """Mount prod.bugs in the container "bugs"."""
    values = {"certificate": CERTIFICATE, "encoded": ENCODED, "plain": "just a value of some length"}
    secrets = [{"name": name, "value": value} for name, value in values.items()]
    declaring = {"environment": "prod", "secrets": secrets}
    files: list[dict[str, Any]] = [{"source": name} for name in values]
    files[0] |= {"mode": "444", "target": "tls/certificate.pem"}
    files[2] |= {"mode": "0400", "uid": 4711}
    prod.control.tasks(
        {"name": "Declare", "hostseal.secrets.secret": declaring, "delegate_to": "localhost"},
        _mount("bugs", files),
    )
    prod.start("bugs", volume="prod.bugs")
    yield prod
    prod.remove("bugs")
    prod.ask("DELETE", "/v1/mounts/prod.bugs")


def _mount(name: str, secrets: list[dict[str, Any]], **options: Any) -> dict[str, Any]:
    return {
        "name": name,
        "hostseal.secrets.mount": {"environment": "prod", "name": name, "secrets": secrets, **options},
    }


def _cat(prod: AgentHost, path: str) -> str:
    return prod.docker("exec", "bugs", "cat", f"/run/secrets/{path}").stdout


def test_no_other_user_of_the_host_reads_a_secret(bugs: AgentHost) -> None:
    for top in ("/run/hostseal/volumes", "/var/lib/hostseal/volumes"):
        for user in ("deploy", "nobody", "hostseal-docker"):
            for command in (["cat", f"{top}/prod.bugs/encoded"], ["ls", f"{top}/prod.bugs"], ["touch", f"{top}/x"]):
                assert bugs.host.run(command, check=False, user=user).returncode != 0, (user, command)
    assert bugs.host.run(["cat", "/run/hostseal/volumes/prod.bugs/encoded"]).stdout == ENCODED


def test_a_target_cannot_climb_out(bugs: AgentHost) -> None:
    targets = ("../db/password", "/etc/passwd", "a/../../x", "..data", "..data/x", "a//b", ".", "")
    tasks = [_mount("climbing", [{"source": "plain", "target": target}]) for target in targets]
    outcome = bugs.control.tasks(*({**task, "name": f"target {n}"} for n, task in enumerate(tasks)), check=False)
    for number in range(len(targets)):
        assert "target" in outcome.message(f"target {number}")
    assert bugs.read("reader")
    assert "prod.climbing" not in {entry["volume"] for entry in bugs.ask("GET", "/v1/status")["mounts"]}


def test_a_value_that_happens_to_be_base64_is_not_decoded(bugs: AgentHost) -> None:
    assert _cat(bugs, "encoded") == ENCODED


def test_mode_444_is_what_everybody_means_or_refused(bugs: AgentHost) -> None:
    stat = bugs.docker("exec", "bugs", "stat", "-L", "-c", "%a %u", "/run/secrets/tls/certificate.pem")
    assert stat.stdout == "444 0\n"
    outcome = bugs.control.tasks(_mount("mode", [{"source": "plain", "mode": 444}]), check=False)
    assert "mode 444 is a number, which would be 0674 in octal" in outcome.message("mode")


def test_letters_are_no_uid(bugs: AgentHost) -> None:
    outcome = bugs.control.tasks(_mount("uid", [{"source": "plain", "uid": "mysql"}]), check=False)
    assert "uid 'mysql'" in outcome.message("uid")
    assert bugs.docker("exec", "bugs", "stat", "-L", "-c", "%a %u", "/run/secrets/plain").stdout == "400 4711\n"


def test_a_large_certificate_is_not_too_long(bugs: AgentHost) -> None:
    assert len(CERTIFICATE) > 20_000
    assert _cat(bugs, "tls/certificate.pem") == CERTIFICATE


def test_secrets_are_there_after_a_restart(bugs: AgentHost) -> None:
    before = bugs.live_files()
    for restart in (["docker", "restart", "-t", "0", "bugs"], ["systemctl", "restart", "hostseald"]):
        bugs.host.run(restart)
        assert _cat(bugs, "encoded") == ENCODED
    assert bugs.live_files() == before


def test_nothing_sweeps_a_starting_container(bugs: AgentHost) -> None:
    """Docker shows a container's use of a volume only after its start: whoever believes the list wipes too early."""
    bugs.with_arguments("hostseald", "agent --quiet 0 --gap 0")
    try:
        done = bugs.host.sh(
            """
            for number in $(seq 12); do
              docker run --rm --init -v prod.bugs:/run/secrets --volume-driver hostseal busybox \\
                sh -c 'sleep 0.3; [ -s /run/secrets/encoded ]' || echo swept &
              sleep 0.05
            done
            wait
            """
        )
        assert "swept" not in done.stdout
        assert _cat(bugs, "encoded") == ENCODED
    finally:
        bugs.with_arguments("hostseald", "")


def test_there_is_one_volume_for_a_mount_and_none_after_it(bugs: AgentHost) -> None:
    """Not one for each container or version: they would pile up, and Docker asks about each at its start."""

    def volumes() -> list[str]:
        return sorted(bugs.docker("volume", "ls", "--quiet", "--filter", "driver=hostseal").stdout.split())

    for value in ("one", "two", "three"):
        bugs.deliver(value, "passing")
        bugs.docker(
            *["run", "--rm", "-v", "prod.passing:/run/secrets", "--volume-driver", "hostseal", "busybox", "true"]
        )
    assert volumes().count("prod.passing") == 1
    absent = {"environment": "prod", "name": "passing", "state": "absent"}
    bugs.control.tasks({"name": "Remove", "hostseal.secrets.mount": absent})
    assert "prod.passing" not in volumes()


def test_a_deleted_secret_does_not_stay_on_the_host(bugs: AgentHost) -> None:
    mine = {"environment": "prod", "owner": "old-bugs", "purge": True}
    both = [{"name": name, "secrets": [{"source": "plain"}]} for name in ("kept", "left-out")]
    task = {
        "name": "Mounts",
        "hostseal.secrets.mount": {**mine, "mounts": [{**one, "owner": "old-bugs"} for one in both]},
    }
    bugs.control.tasks(task)
    bugs.start("sees-it", volume="prod.left-out")
    fewer = {**task, "hostseal.secrets.mount": {**mine, "mounts": [{**both[0], "owner": "old-bugs"}]}}
    bugs.control.tasks(fewer)
    assert bugs.docker("exec", "sees-it", "ls", "-A", "/run/secrets").stdout == ""
    held = {entry["volume"] for entry in bugs.ask("GET", "/v1/status")["mounts"]}
    assert "prod.kept" in held
    assert "prod.left-out" not in held
    assert {"prod.db", "prod.bugs", "staging.db"} <= held  # neighbours are left alone
    assert bugs.host.run(["test", "-e", "/var/lib/hostseal/state/mounts/prod.left-out"], check=False).returncode == 1
    bugs.remove("sees-it")
    bugs.ask("DELETE", "/v1/mounts/prod.kept")


def test_the_store_has_no_key_and_no_plain_hash(bugs: AgentHost) -> None:
    keys = json.loads((bugs.control.keys / "prod.jwks").read_text(encoding="utf-8"))["keys"]
    wanted = {
        f"key {number}": base64.urlsafe_b64decode((key.get("k") or key["d"]) + "==") for number, key in enumerate(keys)
    }
    algorithms: list[Callable[[bytes], Any]] = [
        hashlib.md5,
        hashlib.sha1,
        hashlib.sha256,
        hashlib.sha512,
        hashlib.blake2b,
    ]
    for value in (ENCODED, CERTIFICATE):
        for algorithm in algorithms:
            wanted[f"{algorithm.__name__} of {len(value)} characters"] = algorithm(value.encode()).digest()
    search = Markers(wanted).search_tree(bugs.control.directory, frozenset({str(bugs.control.keys)}))
    assert search.findings == []
    assert search.unreadable == []
    assert any(path.name == "store.db" for path in bugs.control.directory.iterdir())
    # The search would have found them.
    assert Markers({"key 0": wanted["key 0"]}).search_tree(bugs.control.keys).findings != []


def test_last_unmount_leaves_nothing_in_memory(bugs: AgentHost) -> None:
    bugs.deliver("gone with its last user", "last")
    for name in ("first", "second"):
        bugs.start(name, volume="prod.last")
    bugs.remove("first")
    assert bugs.read("second") == "gone with its last user"
    bugs.remove("second")
    begin = time.monotonic()
    eventually(lambda: not any("prod.last" in path for path in bugs.live_files()))
    assert time.monotonic() - begin < 5
    bugs.ask("DELETE", "/v1/mounts/prod.last")
