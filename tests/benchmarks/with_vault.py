# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The backend vault with a real OpenBao server: declare and seal, against one lookup per secret."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends import KeyPlace, open_backend
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store
from ansible_collections.hostseal.secrets.plugins.plugin_utils._vault import VaultSession

from tests.benchmarks.control_node import enrol
from tests.benchmarks.places import ENVIRONMENT, RUN, BenchError, ControlNode, Places, Play, Trace, local_play, task
from tests.benchmarks.rows import Row
from tests.rig.openbao import BINARY, OpenBao

HOST = "h0"
FILES = 250
RENDER_SECONDS = 5
LOOKUP = "community.hashi_vault.vault_kv2_get"


def declare_and_seal(places: Places) -> Iterator[Row]:
    """Tasks of real ansible-playbook runs for several numbers of secrets, and the requests in the server's audit log."""
    with OpenBao() as bao:
        bao.client().sys.enable_secrets_engine("kv", path="kv", options={"version": "2"})
        runs = {count: _runs(bao, count) for count in places.sizes.in_vault}
        looked_up = places.sizes.looked_up
        lookups, lookup_requests = _look_up(bao, looked_up)
    theirs = lookups.task_seconds("lookup")[0]
    for what, module in (("declare", "secret"), ("seal", "seal")):
        most = max(runs)
        seconds = {count: run[what][0].task_seconds(module)[0] for count, run in runs.items()}
        requests = {count: run[what][1] for count, run in runs.items()}
        ratio = seconds[looked_up] / theirs
        yield Row(
            what=f"{what} with Vault, one task",
            measured="; ".join(
                f"{count:,} secrets: {seconds[count]:.1f} s, {requests[count]} requests,"
                f" {seconds[count] / count * 1000:.2f} ms each"
                for count in runs
            ),
            instead=f"a {LOOKUP} per secret, in one task: {looked_up:,} secrets: {theirs:.1f} s,"
            f" {lookup_requests} requests, {theirs / looked_up * 1000:.1f} ms each",
            ratio=ratio,
            target="100 requests or fewer per 10,000 secrets; at least 20 times faster than lookups at 1,000",
            met=requests[most] * 100 <= max(most, 10_000) and ratio <= 1 / 20,
            numbers={
                "task_s": seconds,
                "playbook_s": {count: run[what][0].seconds for count, run in runs.items()},
                "requests": requests,
                "lookups_s": theirs,
                "lookup_requests": lookup_requests,
            },
        )


def until_rendered(count: int, rounds: int) -> list[float]:
    """Milliseconds from a new value in Vault until all of COUNT files that bao agent renders have it, for each round."""
    with OpenBao() as bao, tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        client = bao.client()
        client.sys.enable_secrets_engine("kv", path="kv", options={"version": "2"})
        client.secrets.kv.v2.create_or_update_secret("s", {"value": "first"}, mount_point="kv")
        files = [Path(folder, f"file{number}") for number in range(count)]
        text = '{{ with secret "kv/data/s" }}{{ .Data.data.value }}{{ end }}'
        config = {
            "vault": {"address": bao.url, "ca_cert": bao.ca_cert},
            "auto_auth": {"method": [{"type": "token_file", "config": {"token_file_path": bao.token_file}}]},
            "template_config": {"static_secret_render_interval": f"{RENDER_SECONDS}s"},
            "template": [{"contents": text, "destination": str(file)} for file in files],
        }
        path = Path(folder, "agent.json")
        path.write_text(json.dumps(config), encoding="utf-8")
        with Path(folder, "log").open("wb") as log, _process([str(BINARY), "agent", f"-config={path}"], log):
            _wait_for(files, "first")
            taken = []
            for number in range(rounds):
                # Not always at the same moment of its interval.
                time.sleep(RENDER_SECONDS * (number + 0.5) / rounds)
                client.secrets.kv.v2.create_or_update_secret("s", {"value": f"v{number}"}, mount_point="kv")
                began = time.monotonic()
                _wait_for(files, f"v{number}")
                taken.append((time.monotonic() - began) * 1000)
            return taken


@contextlib.contextmanager
def _process(command: list[str], log: IO[bytes]) -> Iterator[None]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


def _wait_for(files: list[Path], value: str) -> None:
    deadline = time.monotonic() + 60
    while not all(file.exists() and file.read_text(encoding="utf-8") == value for file in files):
        if time.monotonic() > deadline:
            raise BenchError("bao agent does not render")
        time.sleep(0.002)


def _variables(bao: OpenBao) -> dict[str, str]:
    return {"VAULT_ADDR": bao.url, "VAULT_CACERT": bao.ca_cert, "VAULT_TOKEN": bao.root_token}


def _play(bao: OpenBao, control: ControlNode, plays: list[Play]) -> tuple[Trace, int]:
    """A run, and the requests that it made."""
    mark = bao.mark()
    trace = control.play(plays)
    return trace, len(bao.requests(mark))


def _runs(bao: OpenBao, count: int) -> dict[str, tuple[Trace, int]]:
    key = f"{ENVIRONMENT}-{count}"
    control = ControlNode(RUN / f"vault-{count}", _variables(bao))
    made = [task("vault_transit", name=key), task("environment", name=ENVIRONMENT, backend="vault", key=key)]
    control.play([local_play(*made)])
    names = [f"s{number}" for number in range(count)]
    items = [{"name": name, "value": os.urandom(16).hex()} for name in names]
    declare = _play(bao, control, [local_play(task("secret", environment=ENVIRONMENT, secrets=items))])
    session = VaultSession({"url": bao.url, "ca_cert": bao.ca_cert, "token": bao.root_token})
    enrol(
        Store(str(control.store_path), create=False),
        open_backend(KeyPlace("vault", key, "transit"), None, lambda: session),
        [HOST],
    )
    session.close()
    mounts = [
        {"name": f"m{start}", "secrets": [{"source": name} for name in names[start : start + FILES]]}
        for start in range(0, count, FILES)
    ]
    seal = _play(bao, control, [local_play(task("seal", environment=ENVIRONMENT, hosts=[HOST], mounts=mounts))])
    if (declare[0].changed("secret"), seal[0].changed("seal")) != (1, 1):
        raise BenchError("both runs were to change something")
    return {"declare": declare, "seal": seal}


def _look_up(bao: OpenBao, count: int) -> tuple[Trace, int]:
    """One lookup for each of COUNT secrets, all in one task: as a template with a line per secret does it."""
    client = bao.client()
    for number in range(count):
        client.secrets.kv.v2.create_or_update_secret(f"s{number}", {"value": os.urandom(16).hex()}, mount_point="kv")
    texts = (
        "{% for number in range("
        + str(count)
        + ") %}{{ lookup('"
        + LOOKUP
        + "', 's' ~ number, engine_mount_point='kv').secret.value }}{% endfor %}"
    )
    check = {
        "name": "lookup",
        "ansible.builtin.assert": {"that": f"texts | length == {count * 32}"},
        "vars": {"texts": texts},
    }
    return _play(bao, ControlNode(RUN / "vault-lookups", _variables(bao)), [local_play(check)])
