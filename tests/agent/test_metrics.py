# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The metrics of a real agent process, read by Prometheus' own parser."""

from __future__ import annotations

import os
import stat
import threading
import time
from pathlib import Path

import pytest
from hostseald._metrics import _Page
from prometheus_client.parser import text_string_to_metric_families

from tests.agent.harness import Environment, RunningAgent

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
DB = {"environment": "prod", "mount": "db"}


def parse(text: str) -> Samples:
    """All samples; names must be unique, typed and described."""
    samples: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        assert family.type in ("gauge", "counter")
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples
            samples[key] = sample.value
    return samples


class Reader:
    """The file as node_exporter reads it, not before it was written anew."""

    def __init__(self, agent: RunningAgent) -> None:
        self.path = agent.root / "run/hostseal/metrics/hostseal.prom"

    def text(self) -> str:
        # What goes into the first one may have been asked for before.
        for _time in range(2):
            now = time.time()
            while not self.path.exists() or self.path.stat().st_mtime < now:
                time.sleep(0.02)
        return self.path.read_text()

    def __call__(self, name: str, **labels: str) -> float | None:
        return parse(self.text()).get((f"hostseal_{name}", frozenset(labels.items())))


@pytest.fixture
def read(bare: RunningAgent) -> Reader:
    bare.arguments = ["--metrics", "--metrics-interval", "0.05"]
    bare.start()
    return Reader(bare)


@pytest.fixture
def prod(bare: RunningAgent, read: Reader) -> Environment:
    environment = Environment("prod", host_key=bare.host_key)
    bare.pin(environment)
    del read
    return environment


def test_what_is_told(bare: RunningAgent, prod: Environment, read: Reader) -> None:
    assert read("mounts") == 0
    before = time.time()
    bare.deliver(prod.envelope(files={"db_password": b"s3cret", "tls/key": b"hush"}, version=7))
    assert read("mounts") == 1
    assert read("mount_issued_timestamp_seconds", **DB) == prod.issued_at / 1000
    assert before - 0.1 <= (read("mount_delivered_timestamp_seconds", **DB) or 0) <= time.time()
    assert read("mount_expiry_timestamp_seconds", **DB) is None
    assert read("secret_version", **DB, secret="db_password", target="db_password") == 7
    assert read("secret_version", **DB, secret="tls_key", target="tls/key") == 7
    assert (read("mount_valid", **DB), read("mount_live", **DB), read("mount_users", **DB)) == (1, 0, 0)
    bare.mount()
    assert (read("mount_live", **DB), read("mount_users", **DB)) == (1, 1)
    assert read("refusals_total", what="deliver") is None
    bare.refused(prod.envelope(host="db2"))
    assert read("refusals_total", what="deliver") == 1
    assert read("events_total", event="mount") == 1
    assert read("events_total", event="start") == 1
    assert read("agent_info", host="db1", kid=bare.host_key.thumbprint(), version=bare.status()["version"]) == 1
    assert read("tmpfs_size_bytes") == 32 << 20
    assert before - 20 < (read("start_time_seconds") or 0) < before
    assert (read("older_keys"), read("problems")) == (0, 0)
    assert stat.S_IMODE(read.path.stat().st_mode) == 0o644
    text = read.text()
    assert "s3cret" not in text
    assert "hush" not in text


def test_expiry_and_problems(bare: RunningAgent, prod: Environment, read: Reader) -> None:
    bare.deliver(prod.envelope(options={"expires_after": 1, "on_expiry": "wipe"}))
    bare.mount()
    assert read("mount_expiry_timestamp_seconds", **DB) == prod.issued_at / 1000 + 1
    time.sleep(1.5)
    assert (read("mount_valid", **DB), read("mount_live", **DB), read("mount_users", **DB)) == (0, 0, 1)
    assert read("problems") == 2
    bare.unmount_tmpfs()
    assert read("tmpfs_ok") == 0
    assert read("tmpfs_size_bytes") is None


def test_the_file_is_whole_at_any_time(bare: RunningAgent, prod: Environment, read: Reader) -> None:
    for number in range(20):
        bare.deliver(prod.envelope(f"m{number}"), f"prod.m{number}")
    read.text()
    end = time.monotonic() + 2
    broken = []

    def look() -> None:
        while time.monotonic() < end:
            text = read.path.read_text()
            if 'mount="m19",secret="db_password",target="db_password"} 1\n' not in text:
                broken.append(text)

    lookers = [threading.Thread(target=look) for _number in range(2)]
    for looker in lookers:
        looker.start()
    for looker in lookers:
        looker.join()
    assert broken == []


def test_off_by_default_and_nothing_is_left(agent: RunningAgent) -> None:
    folder = agent.root / "run/hostseal/metrics"
    assert os.listdir(folder) == []
    agent.kill()
    (folder / "hostseal.prom").write_text("of a run before")
    agent.start()
    assert os.listdir(folder) == []


def test_a_full_or_missing_directory_harms_nobody(bare: RunningAgent, prod: Environment, read: Reader) -> None:
    read.text()
    read.path.unlink()
    read.path.parent.rmdir()
    bare.deliver(prod.envelope())
    assert (bare.mount() / "db_password").exists()
    read.path.parent.mkdir()
    assert read("mount_users", **DB) == 1


def test_labels_are_escaped() -> None:
    page = _Page()
    odd = 'a "quoted"\\ back\nline \xe9'
    page.add("x", "gauge", "Text.", [({"target": odd, "b": "c"}, 1.5), ({}, 2)])
    assert parse(str(page)) == {("x", frozenset({("target", odd), ("b", "c")})): 1.5, ("x", frozenset()): 2.0}


def test_a_file_of_many_mounts_is_quick(tmp_path: Path) -> None:
    del tmp_path
    page = _Page()
    begin = time.process_time()
    page.add(
        "x", "gauge", "Text.", [({"mount": f"m{number}", "environment": "prod"}, number) for number in range(20_000)]
    )
    assert len(str(page)) > 500_000
    assert time.process_time() - begin < 1
