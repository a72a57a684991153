# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The agent: how fast it answers Docker, how fast new bytes are seen, what it costs while idle."""

from __future__ import annotations

import hashlib
import os
import statistics
from collections.abc import Iterator

from tests.benchmarks.places import AgentHost, BenchError, Places, mount
from tests.benchmarks.rows import Row, spread
from tests.benchmarks.with_vault import RENDER_SECONDS, until_rendered

SECRETS = 10
LARGE = 64 << 10
TARGET = "first"


def mounts(places: Places) -> Iterator[Row]:
    """Mount over the socket that Docker uses, against systemd-creds."""
    host, sizes = places.host("main"), places.sizes
    for size, kind in ((32, "10 secrets of 32 bytes"), (LARGE // SECRETS, "10 secrets, together 64 KiB")):
        host.control.declare({f"l{size}-{number}": os.urandom(size) for number in range(SECRETS)})
        secrets = [f"l{size}-{number}" for number in range(SECRETS)]
        names = [f"latency{size}-{number}" for number in range(sizes.mount_volumes)]
        host.deliver([mount(name, secrets) for name in names])
        volumes = [f"prod.{name}" for name in names]
        taken = host.call("mounts", volumes=volumes, rounds=sizes.mount_rounds, target=secrets[0])
        theirs = statistics.median(host.call("credentials", files=SECRETS, bytes=size, rounds=sizes.credential_rounds))
        first, again, unmount = (spread(taken[name]) for name in ("first", "again", "unmount"))
        yield Row(
            what=f"the agent's Mount: {kind}",
            measured=f"median {first['median']:.1f} ms, 99th percentile {first['p99']:.1f} ms (n {first['n']}) when it"
            f" has to open the envelope; {again['median']:.1f} / {again['p99']:.1f} ms when the files are there;"
            f" Unmount {unmount['median']:.1f} / {unmount['p99']:.1f} ms",
            instead=f"systemd-creds decrypts the same files: {theirs:.0f} ms (median of {sizes.credential_rounds})",
            ratio=first["median"] / theirs,
            target="median 5 ms, 99th percentile 20 ms",
            met=first["median"] <= 5 and first["p99"] <= 20,
            numbers={"first": first, "again": again, "unmount": unmount, "systemd_creds_ms": theirs},
        )


def live_update(places: Places) -> Iterator[Row]:
    """New envelopes for mounts that are in use, against bao agent's templates and Swarm's way to change a secret."""
    host, sizes = places.host("main"), places.sizes
    host.control.declare({f"more{number}": os.urandom(32) for number in range(SECRETS - 1)})
    swarm = statistics.median(host.call("swarm_update", rounds=sizes.swarm_rounds))
    for count in sizes.live_mounts:
        rounds = _update_live(host, count, sizes.live_rounds)
        total, swap, cpu = (statistics.median(one[name] for one in rounds) for name in ("total", "swap", "cpu_ms"))
        templates = statistics.median(until_rendered(count, sizes.swarm_rounds))
        yield Row(
            what=f"new envelopes for {count} mount{'s' if count > 1 else ''} in use, until all show the new bytes",
            measured=f"{total:.0f} ms (median of {len(rounds)}, most {max(one['total'] for one in rounds):.0f}) in one"
            f" delivery, verification and fsync included; {swap:.0f} ms of it from the first one on disk until all are"
            f" seen; {cpu / count:.1f} ms of the agent's processor time each",
            instead=f"bao agent with as many templates, rendering every {RENDER_SECONDS} s: {templates:.0f} ms;"
            f" Swarm's secret rotation, one service: {swarm:.0f} ms, and its container is replaced",
            ratio=total / templates,
            target="200 ms" if count == max(sizes.live_mounts) else "",
            met=total <= 200 if count == max(sizes.live_mounts) else None,
            numbers={"rounds": rounds, "swarm_ms": swarm, "bao_agent_ms": templates},
        )


def _update_live(host: AgentHost, count: int, rounds: int) -> list[dict[str, float]]:
    """Milliseconds of each round: all in all, from disk to sight, and of the agent's processor time."""
    wanted = [
        mount(f"live{number}", [TARGET, *(f"more{number}" for number in range(SECRETS - 1))]) for number in range(count)
    ]
    taken = []
    for number in range(rounds + 1):
        value = os.urandom(32)
        host.control.declare({TARGET: value})
        envelopes = host.control.seal([(host.name, one) for one in wanted])
        if number == 0:
            host.call("deliver", envelopes)
            continue
        digests = dict.fromkeys(envelopes, hashlib.sha256(value).hexdigest())
        taken.append(host.call("update", envelopes, digests=digests, target=TARGET))
    return taken


def idle(places: Places) -> Iterator[Row]:
    """Memory and processor time of the agent after it has served large mounts."""
    host, sizes = places.host("main"), places.sizes
    host.control.declare({f"i{number}": os.urandom(LARGE // SECRETS) for number in range(SECRETS)})
    secrets = [f"i{number}" for number in range(SECRETS)]
    names = [f"idle{number}" for number in range(sizes.mount_volumes)]
    host.deliver([mount(name, secrets) for name in names])
    host.call("mounts", volumes=[f"prod.{name}" for name in names], rounds=1, target=secrets[0])
    found = host.call("idle", seconds=sizes.idle_seconds)
    yield Row(
        what=f"the agent's memory after {len(names)} mounts of 64 KiB",
        measured=f"{found['rss'] / 2**20:.1f} MiB resident",
        instead=f"the Docker engine beside it: {found['docker_rss'] / 2**20:.0f} MiB",
        ratio=found["rss"] / found["docker_rss"],
        target="40 MiB or less",
        met=found["rss"] <= 40 << 20,
        numbers=found,
    )
    yield Row(
        what="the agent's processor time while idle",
        measured=f"{found['cpu_ms']:.2f} ms in {sizes.idle_seconds} s",
        instead="",
        ratio=None,
        target="none",
        met=found["cpu_ms"] <= sizes.idle_seconds * 0.1,
        numbers={"cpu_ms": found["cpu_ms"], "seconds": sizes.idle_seconds},
    )


def docker_run(places: Places) -> Iterator[Row]:
    """Starting a container with secrets, without any, and with a local volume of the same files."""
    host, sizes = places.host("main"), places.sizes
    secrets = [f"r{number}" for number in range(SECRETS)]
    host.control.declare({name: os.urandom(32) for name in secrets})
    host.deliver([mount("run", secrets)])
    bare = ["docker", "run", "--rm", "--network=none"]
    common = "type=volume,target=/run/secrets,readonly"
    local = [*bare, "--mount", f"{common},source=local"]
    fill = "for n in $(seq 0 9); do head -c 32 /dev/urandom > /run/secrets/r$n; done"
    host.machine.run(["docker", "run", "--rm", "-v", "local:/run/secrets", "busybox", "sh", "-c", fill])
    ours = [*bare, "--mount", f"{common},source=prod.run,volume-driver=hostseal,volume-nocopy"]
    seen = host.machine.out(*ours, "busybox", "ls", "/run/secrets").split()
    if seen != sorted(secrets):
        raise BenchError(f"the container sees {seen}")
    taken = host.call(
        "commands",
        commands={
            name: [*argv, "busybox", "true"] for name, argv in (("secrets", ours), ("none", bare), ("local", local))
        },
        rounds=sizes.docker_runs,
    )
    medians = {name: statistics.median(samples) for name, samples in taken.items()}
    ratio = medians["secrets"] / medians["none"]
    yield Row(
        what="`docker run` of a container with 10 secrets",
        measured=f"median {medians['secrets']:.0f} ms (n {sizes.docker_runs}, in turns)",
        instead=f"without secrets: {medians['none']:.0f} ms; with a local volume: {medians['local']:.0f} ms"
        f" (ratio {medians['secrets'] / medians['local']:.3f})",
        ratio=ratio,
        target="ratio 1.05 or less against without",
        met=ratio <= 1.05,
        numbers={name: spread(samples) for name, samples in taken.items()},
    )


def docker_restart(places: Places) -> Iterator[Row]:
    """Restarting the engine of three hosts in turns: many volumes of ours, none, as many local ones.

    At first Docker has not used a volume of ours yet; then it remembers each as one that containers once had, and asks
    for each while it starts.
    """
    sizes = places.sizes
    names = [f"known{number}" for number in range(sizes.known_volumes)]
    hosts = {"ours": places.host("known"), "none": places.host("unknown"), "local": places.host("local", False)}
    ours = hosts["ours"]
    ours.control.declare({"k": os.urandom(32)})
    ours.deliver([mount(name, ["k"]) for name in names])
    _make_volumes(hosts["local"], names, "local")
    yield _restarts(places, hosts, f"restart of Docker with {len(names):,} volumes known to our driver")
    _make_volumes(ours, [f"prod.{name}" for name in names], "hostseal")
    yield _restarts(places, hosts, "the same when Docker has used each of them once")


def _make_volumes(host: AgentHost, names: list[str], driver: str) -> None:
    count = host.call("make_volumes", volumes=names, driver=driver)
    if count != len(names):
        raise BenchError(f"Docker knows {count} volumes, not {len(names)}")


def _restarts(places: Places, hosts: dict[str, AgentHost], what: str) -> Row:
    """Restart the engines in turns."""
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in hosts}
    order = list(hosts)
    for number in range(places.sizes.restarts):
        turn = number % len(order)
        for name in order[turn:] + order[:turn]:
            taken[name].append(hosts[name].call("restart_docker"))
    whole = {name: statistics.median(one["stop"] + one["start"] for one in runs) for name, runs in taken.items()}
    start = {name: statistics.median(one["start"] for one in runs) for name, runs in taken.items()}
    ratio = whole["ours"] / whole["none"]
    return Row(
        what=what,
        measured=f"median {whole['ours']:.0f} ms, its start alone {start['ours']:.0f} ms"
        f" (n {places.sizes.restarts}, in turns)",
        instead=f"without volumes: {whole['none']:.0f} ms, start {start['none']:.0f} ms;"
        f" with as many local volumes: {whole['local']:.0f} ms, start {start['local']:.0f} ms",
        ratio=ratio,
        target="ratio 1.1 or less against none",
        met=ratio <= 1.1,
        numbers={"restart_ms": whole, "start_ms": start, "runs": taken},
    )


def many_mounts(places: Places) -> Iterator[Row]:
    """An agent that holds thousands of mounts, against Docker with as many volumes of its own."""
    sizes = places.sizes
    names = [f"known{number}" for number in range(sizes.known_volumes)]
    ours, local = places.host("known"), places.host("local", False)
    secrets = [f"k{number}" for number in range(SECRETS)]
    ours.control.declare({name: os.urandom(32) for name in secrets})
    ours.deliver([mount(name, secrets) for name in names])
    _make_volumes(local, names, "local")
    used = [f"prod.{name}" for name in names[: sizes.used_volumes]]
    rounds = ours.call("restart_agent", volumes=used, rounds=sizes.restarts)
    theirs = local.call("list_volumes", rounds=sizes.restarts)
    took = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    yield Row(
        what=f"the agent with {len(names):,} mounts of {SECRETS} secrets, {len(used)} in use",
        measured=f"its start {took['start']:.0f} ms, a Mount then {took['mount']:.0f} ms; its first status"
        f" {took['first']:.0f} ms, as it verifies every envelope, the next one {took['again']:.0f} ms, with the"
        f" containers that Docker knows {took['docker']:.0f} ms; {took['rss'] / 2**20:.0f} MiB resident"
        f" (medians of {len(rounds)})",
        instead=f"Docker's list of as many local volumes: {statistics.median(theirs['list']):.0f} ms; the engine"
        f" {theirs['rss'] / 2**20:.0f} MiB",
        ratio=took["again"] / statistics.median(theirs["list"]),
        target="",
        met=None,
        numbers={"ours": rounds, "local": theirs},
    )
