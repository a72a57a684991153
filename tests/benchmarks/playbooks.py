# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Real runs of ansible-playbook: the module mount on one host and on a hundred."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from typing import Any

from tests.benchmarks.places import ENVIRONMENT, AgentHost, BenchError, Places, Play, local_play, patient, task
from tests.benchmarks.rows import Row

MOUNTS = 5
SECRETS = 10
FORKS = 10
# Its errors are ignored: on a busy machine the connection to a throwaway host loses a command's output now and then, and
# copy needs several commands for each file.
COPY = "ansible.builtin.copy"


def no_op(places: Places) -> Iterator[Row]:
    """The module mount with nothing to do, against copy with nothing to do."""
    host = places.host("main")
    for count, rounds in ((1, places.sizes.no_op_rounds), (20, min(places.sizes.no_op_rounds, 3))):
        host.control.declare({f"n{number}": os.urandom(16) for number in range(count)})
        mounts = [{"name": f"noop{number}", "secrets": [{"source": f"n{number}"}]} for number in range(count)]
        mount = task("mount", environment=ENVIRONMENT, mounts=mounts)
        copy: dict[str, Any] = {
            "name": "copy",
            COPY: {"content": "{{ item }}", "dest": "/run/copied-{{ item }}", "mode": "0400"},
            "loop": [f"n{number}" for number in range(count)],
            "ignore_errors": True,
        }
        host.control.play([_play(mount, copy)], host.inventory)
        order = [task for number in range(rounds) for task in ((mount, copy) if number % 2 else (copy, mount))]
        trace = host.control.play([_play(*order)], host.inventory)
        if trace.changed("mount"):
            raise BenchError("the module was to change nothing")
        ours, theirs = (statistics.median(trace.task_seconds(name)) for name in ("mount", "copy"))
        calls = trace.modules("mount") / rounds
        backend = sum(trace.backend_calls().values())
        yield Row(
            what=f"no-op `mount` of {count} mount{'s' if count > 1 else ''}",
            measured=f"{ours:.2f} s (median of {rounds}), {calls:g} module call per host, {backend} backend calls",
            instead=f"ansible.builtin.copy of {count} file{'s' if count > 1 else ''}: {theirs:.2f} s,"
            f" {trace.modules('copy') / rounds:g} module calls",
            ratio=ours / theirs,
            target="one module call per host whatever the number of mounts, no backend call",
            met=calls == 1 and backend == 0,
            numbers={
                "mount_s": trace.task_seconds("mount"),
                "copy_s": trace.task_seconds("copy"),
                "module_calls": calls,
                "backend_calls": backend,
            },
        )


def _play(*tasks: dict[str, Any], hosts: str = "docker_hosts") -> Play:
    return {"hosts": hosts, "gather_facts": False, "tasks": [patient(task) for task in tasks]}


def hundred_hosts(places: Places) -> Iterator[Row]:
    """Rotate all secrets, seal and deliver, on many inventory hosts that each have an agent and a key of their own."""
    host = places.host("farm")
    names = [f"h{number:03}" for number in range(places.sizes.inventory_hosts)]
    host.call("farm_prepare", names=names)
    try:
        inventory = _farm_inventory(host, names)
        identity = {**task("host_identity"), "register": "identity"}
        enrol = task("host", environments=[ENVIRONMENT], public_key="{{ identity.public_key }}")
        host.control.play([_play(identity, hosts="farm")], inventory, FORKS)
        host.call("farm_start", names=names)
        host.control.play([_play(identity, enrol, hosts="farm")], inventory, FORKS)
        yield from _deliver_to_all(places, host, names, inventory)
    finally:
        host.call("farm_stop")


def _farm_inventory(host: AgentHost, names: list[str]) -> str:
    """Many names for one machine; the interpreter of each sees its own agent."""
    common = host.machine.inventory()
    lines = ["[farm]"]
    for name in names:
        variables = {**common, "ansible_python_interpreter": f"/srv/farm/{name}/python"}
        lines.append(" ".join([name, *(f"{key}={value}" for key, value in variables.items())]))
    return "\n".join(lines) + "\n"


def _deliver_to_all(places: Places, host: AgentHost, names: list[str], inventory: str) -> Iterator[Row]:
    secrets = [f"f{number}" for number in range(MOUNTS * SECRETS)]
    options = [
        {"name": f"m{number}", "secrets": [{"source": s} for s in secrets[number * SECRETS : (number + 1) * SECRETS]]}
        for number in range(MOUNTS)
    ]
    rotate = task(
        "secret",
        environment=ENVIRONMENT,
        secrets=[{"name": name, "state": "rotated", "generate": {"length": 32}} for name in secrets],
    )
    seal = task("seal", environment=ENVIRONMENT, hosts="{{ ansible_play_hosts }}", mounts=options)
    deliver = [_play({**seal, "run_once": True}, task("mount", environment=ENVIRONMENT, mounts=options), hosts="farm")]
    host.control.play([local_play(rotate)])
    host.control.play(deliver, inventory, FORKS)
    # Now what happens on the day of a rotation: everything is there already, and all of it is old.
    rotated_at = time.time() * 1000
    host.control.play([local_play(rotate)])
    changed = host.control.play(deliver, inventory, FORKS)
    unchanged = host.control.play(deliver, inventory, FORKS)
    new = host.call("farm_count", names=names, since=rotated_at)
    if (unchanged.changed("mount"), new) != (0, len(names) * MOUNTS):
        raise BenchError(
            f"{new} mounts are new and in good order, afterwards {unchanged.changed('mount')} hosts changed"
        )

    copied = names[: places.sizes.copied_hosts]
    per_host = {}
    for count in (len(secrets), MOUNTS):
        copy = {
            "name": "copy",
            COPY: {"content": "{{ item }} {{ now() }}", "dest": "/run/hostseal/copied-{{ item }}", "mode": "0400"},
            "loop": secrets[:count],
            "ignore_errors": True,
        }
        theirs = host.control.play([_play(copy, hosts=",".join(copied))], inventory, FORKS)
        per_host[count] = theirs.seconds / len(copied)
    files, fewer = (seconds * len(names) for seconds in per_host.values())

    calls, backend = changed.modules("mount"), changed.backend_calls()
    items = MOUNTS * len(names) + len(secrets)
    requests, allowed = changed.vault_requests(), 3 * -(-items // 249)
    yield Row(
        what=f"ansible-playbook on {len(names)} inventory hosts, {MOUNTS} changed mounts x {SECRETS} secrets each",
        measured=f"{changed.seconds:.0f} s with {FORKS} forks ({changed.task_seconds('seal')[0]:.1f} s of it to seal),"
        f" {calls / len(names):g} module call per host; {backend['login']} login and"
        f" {sum(backend.values()) - backend['login']} calls of the backend, {requests} requests in batches of 249;"
        f" nothing to change: {unchanged.seconds:.0f} s and {sum(unchanged.backend_calls().values())} calls",
        instead=f"ansible.builtin.copy of the {len(secrets)} files: {files:.0f} s; of {MOUNTS} files, one per mount:"
        f" {fewer:.0f} s (tried on {len(copied)} hosts, times {len(names) // len(copied)})",
        ratio=changed.seconds / files,
        target="one login, at most 3 Vault requests for sealing per 249 items",
        met=backend["login"] == 1 and requests <= allowed,
        numbers={
            "changed_s": changed.seconds,
            "unchanged_s": unchanged.seconds,
            "copy_s_per_host_by_files": per_host,
            "backend_calls": dict(backend),
            "vault_requests": requests,
            "vault_requests_allowed": allowed,
            "module_calls": calls,
        },
    )
