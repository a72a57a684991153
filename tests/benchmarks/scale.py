# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How time and memory grow with the number of hosts: real envelopes and manifests for hosts that exist by their keys."""

from __future__ import annotations

import math
import multiprocessing
import os
import resource
import shutil
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends.localkey import LocalKey
from ansible_collections.hostseal.secrets.plugins.plugin_utils._publishing import publish
from ansible_collections.hostseal.secrets.plugins.plugin_utils._sealing import plan, seal
from ansible_collections.hostseal.secrets.plugins.plugin_utils._site import Site
from ansible_collections.hostseal.secrets.plugins.plugin_utils._store import Store

from tests.benchmarks.control_node import enrol
from tests.benchmarks.places import ENVIRONMENT, RUN, Places, mount
from tests.benchmarks.rows import Row

MOUNTS = 2
SECRETS = 5
# Below, what is there once for each run is most of it.
_FROM_HOSTS = 100
_FASTER_THAN_LINEAR = 1.15


def scale(places: Places) -> Iterator[Row]:
    """Seal and publish for more and more hosts, each number in a process of its own."""
    control = places.control("scale")
    control.declare_environment()
    control.declare({f"s{number}": os.urandom(32) for number in range(MOUNTS * SECRETS)})
    names = [f"h{number}" for number in range(max(places.sizes.scaled_hosts))]
    enrol(*control.open(), names)
    site = RUN / "scale-site"
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    curve = {count: _measure(control.store_path, site, names[:count]) for count in places.sizes.scaled_hosts}
    files = sum(1 for path in site.rglob("*") if path.is_file())
    for what, tell in (
        ("seal", "sealing"),
        ("again", "sealing again, nothing to change"),
        ("publish", "publishing"),
        ("publish_again", "publishing again, nothing to change"),
    ):
        seconds = {count: numbers[what] for count, numbers in curve.items()}
        power = _power(seconds)
        yield Row(
            what=f"{tell}: {MOUNTS} mounts x {SECRETS} secrets for each host",
            measured="processor time: "
            + ", ".join(f"{count:,} hosts {taken:.2f} s" for count, taken in seconds.items()),
            instead="",
            ratio=None,
            target="no faster than linear in hosts",
            met=power <= _FASTER_THAN_LINEAR,
            numbers={"seconds": seconds, "power": power, "files": files},
        )
    memory = {count: numbers["mebibytes"] for count, numbers in curve.items()}
    yield Row(
        what="the most memory of all that",
        measured=", ".join(f"{count:,} hosts {mebibytes:.0f} MiB" for count, mebibytes in memory.items()),
        instead="",
        ratio=None,
        target="no faster than linear in hosts",
        met=_power(memory) <= _FASTER_THAN_LINEAR,
        numbers={"mebibytes": memory, "power": _power(memory)},
    )


def _power(curve: dict[int, float]) -> float:
    """The exponent with which the last two large numbers of hosts grow: 1 is linear."""
    (few, less), (many, more) = [(count, value) for count, value in curve.items() if count >= _FROM_HOSTS][-2:] or [
        *curve.items()
    ][-2:]
    return math.log(more / less) / math.log(many / few)


def _measure(store: Path, site: Path, hosts: list[str]) -> dict[str, float]:
    # Not forked: a fork's memory begins with its parent's.
    context = multiprocessing.get_context("spawn")
    reader, writer = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(writer, str(store), str(site), hosts))
    process.start()
    writer.close()
    try:
        numbers: dict[str, float] = reader.recv()
    finally:
        process.join()
    return numbers


def _work(writer: Connection, store_path: str, folder: str, hosts: list[str]) -> None:
    mounts = [
        mount(f"m{number}", [f"s{number * SECRETS + which}" for which in range(SECRETS)]) for number in range(MOUNTS)
    ]
    wanted = [(host, one) for host in hosts for one in mounts]
    backend = LocalKey(Path(store_path).parent / "keys", ENVIRONMENT)
    site = Site(folder, missing_ok=False)
    numbers = {}
    with Store(store_path, create=False) as store:
        began = time.process_time()
        seal(store, lambda _environment: backend, plan(store, wanted))
        numbers["seal"] = time.process_time() - began
        began = time.process_time()
        if not all(one.is_sealed for one in plan(store, wanted)):
            raise AssertionError("it was sealed just now")
        numbers["again"] = time.process_time() - began
        for what in ("publish", "publish_again"):
            began = time.process_time()
            done = publish(store, lambda _environment: backend, ENVIRONMENT, hosts, site, 7 * 86400)
            numbers[what] = time.process_time() - began
            if len(done) != (len(hosts) if what == "publish" else 0):
                raise AssertionError(f"{what}: {len(done)} hosts")
    numbers["mebibytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    writer.send(numbers)
