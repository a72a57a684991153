# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Deliveries that are cut off: by kills, a power cut, full disks. Old or new, never a mixture, and the next run mends.

Every delivery has two files with the same content, its number and 128 KiB more; a container looks all the time whether
they agree.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.agent.conftest import AgentHost, eventually
from tests.integration.promises.conftest import forger

DELIVERIES = Path(__file__).with_name("deliveries.py").read_text(encoding="utf-8")
STATE = "/var/lib/hostseal/state"
VOLUME = "prod.pair"
PLACE = ("-v", f"{VOLUME}:/run/secrets", "--volume-driver", "hostseal")
# "..data" is entered once, as a program does that wants a certificate with its key. A generation that goes away while
# it is read is no mixture.
READ = "cd -P /run/secrets/..data 2>/dev/null && cat left >/tmp/left 2>/dev/null && cat right >/tmp/right 2>/dev/null"
WHOLE = "cmp -s /tmp/left /tmp/right && [ -s /tmp/left ]"
WATCH = f"""
while :; do
  if {READ}; then
    {{ {WHOLE}; }} || echo mixed >> /tmp/mixed
    echo >> /tmp/rounds
  fi
  sleep 0.01
done
"""
# A new container: it must not start with anything but a whole pair. On a busy machine its generation may go away under it
# time and again.
CHECK = f"for attempt in $(seq 100); do if {READ}; then {WHOLE}; exit; fi; sleep 0.02; done; exit 9"


def _content(number: int) -> bytes:
    return f"{number:06}".encode() + bytes(range(256)) * 512


def _envelopes(prod: AgentHost, count: int, first: int = 0) -> list[str]:
    made = forger(prod)
    numbers = range(first, first + count)
    return [made.envelope("pair", {"left": _content(number), "right": _content(number)}) for number in numbers]


def _deliver(prod: AgentHost, envelope: str) -> dict[str, object]:
    return prod.ask("PUT", f"/v1/mounts/{VOLUME}", envelope)


def _number(prod: AgentHost, container: str = "watcher") -> int:
    """Which pair the container reads; both files are whole."""
    script = "cat /run/secrets/left | md5sum; cat /run/secrets/right | md5sum; head -c 6 /run/secrets/left"
    left, right, number = prod.docker("exec", container, "sh", "-c", script).stdout.splitlines()
    assert left == right
    return int(number)


def _on_disk(prod: AgentHost) -> int:
    """Number of the pair that a container started now gets."""
    done = prod.docker("run", "--rm", *PLACE, "busybox", "sh", "-c", f"({CHECK}) && head -c 6 /tmp/left")
    return int(done.stdout)


def _starts(prod: AgentHost) -> int:
    """How often the agent has started."""
    return sum(line["event"] == "start" for line in prod.audit())


@pytest.fixture
def pair(prod: AgentHost) -> Iterator[AgentHost]:
    """prod.pair delivered as number 0, and a container that watches it. At the end nothing is left in memory."""
    assert _deliver(prod, _envelopes(prod, 1)[0])["changed"]
    prod.start("watcher", "--restart", "always", command=WATCH, volume=VOLUME)
    yield prod
    prod.docker("rm", "--force", "watcher")
    prod.ask("DELETE", f"/v1/mounts/{VOLUME}")
    # Docker asks again when the agent dies before it answers: such a user is counted twice, and its directory is left.
    eventually(lambda: not any(f"{VOLUME}/" in path for path in prod.live_files()))


def _never_mixed(prod: AgentHost, container: str = "watcher") -> None:
    seen = prod.docker("exec", container, "sh", "-c", "wc -l < /tmp/rounds; cat /tmp/mixed 2>&1", check=False)
    assert int(seen.stdout.splitlines()[0]) > 0
    assert "mixed\n" not in seen.stdout


def test_kills_during_deliveries_while_containers_start_and_stop(pair: AgentHost) -> None:
    texts = _envelopes(pair, 40, first=1)
    begun = _starts(pair)
    command = ["docker", "-H", pair.host.engine.address, "exec", "--interactive", pair.host.container]
    with subprocess.Popen(
        [*command, "python3", "-c", DELIVERIES, VOLUME, "kill"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin
        process.stdin.write(json.dumps(texts))
        process.stdin.close()
        started = pair.host.sh(
            f"""
            for number in 1 2 3 4 5 6; do
              docker run --rm --init {" ".join(PLACE)} busybox sh -c '{CHECK}' 2>&1 || echo "ended with $?"
            done
            """
        ).stdout
        assert process.stdout
        accepted = [int(line) + 1 for line in process.stdout.read().splitlines()]
        assert process.wait(60) == 0
    # Whatever started had a whole pair. When the agent dies while it holds Docker's request, Docker repeats that without
    # its content, so that container does not start.
    assert set(re.findall("ended with ([0-9]+)", started)) <= {"125"}, started
    assert started.count("ended with") == started.count("which came again empty: start it again"), started
    # An agent that was killed soon after its start may not have told of it.
    assert _starts(pair) - begun > 3
    assert accepted
    # A delivery that was cut off may have been accepted without a word, so a later one is possible; never an earlier.
    assert _number(pair) >= accepted[-1]
    assert _on_disk(pair) == _number(pair)
    _never_mixed(pair)
    last = _envelopes(pair, 1, first=99)[0]
    assert _deliver(pair, last)["changed"]
    assert _number(pair) == 99


def test_power_cut_during_deliveries(pair: AgentHost) -> None:
    texts = _envelopes(pair, 400, first=1)
    command = ["docker", "-H", pair.host.engine.address, "exec", "--interactive", pair.host.container]
    with subprocess.Popen(
        [*command, "python3", "-c", DELIVERIES, VOLUME, "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(texts))
        process.stdin.close()
        accepted = [int(process.stdout.readline()) + 1 for _delivery in range(10)]
        pair.host.power_cut()
        accepted += [int(line) + 1 for line in process.stdout.read().split()]
    assert accepted[-1] < 400
    eventually(lambda: pair.docker("inspect", "-f", "{{.State.Running}}", "watcher").stdout == "true\n", 60)
    assert _number(pair) >= accepted[-1]
    _never_mixed(pair)
    assert pair.mount_status(VOLUME)["valid"]
    # The newest that was ever accepted is remembered.
    assert "is not after" in str(_deliver(pair, texts[accepted[-1] - 2])["reason"])
    assert _deliver(pair, _envelopes(pair, 1, first=999)[0])["changed"]
    assert _number(pair) == 999
    assert pair.read("reader")


@pytest.fixture
def full_disk(pair: AgentHost) -> Iterator[AgentHost]:
    """The agent's disk has no byte left, nor has the one of its audit log."""
    pair.host.sh(
        f"""
        systemctl stop hostseald
        for place in {STATE} /var/log/hostseal; do
          cp -a $place /var/copy
          mount -t tmpfs -o size=4m,mode=0700,uid=$(id -u hostseal),gid=$(id -g hostseal) tmpfs $place
          cp -a /var/copy/. $place
          rm -r /var/copy
          dd if=/dev/zero of=$place/filler bs=4k 2>/dev/null || true
        done
        systemctl start hostseald
        """
    )
    yield pair
    pair.host.sh(
        f"""
        systemctl stop hostseald
        rm -f {STATE}/filler /var/log/hostseal/filler
        for place in {STATE} /var/log/hostseal; do
          cp -a $place /var/copy
          umount $place
          cp -a /var/copy/. $place
          rm -r /var/copy
        done
        systemctl start hostseald
        """
    )


def test_a_full_disk_refuses_and_the_next_run_mends(full_disk: AgentHost) -> None:
    text = _envelopes(full_disk, 1, first=7)[0]
    reason = str(_deliver(full_disk, text)["reason"])
    assert "No space left on device" in reason
    assert _number(full_disk) == 0
    assert full_disk.mount_status(VOLUME)["valid"]
    # A mount needs no disk, neither for itself nor for its audit line.
    assert _on_disk(full_disk) == 0
    full_disk.host.sh(f"rm {STATE}/filler")
    assert _deliver(full_disk, text)["changed"]
    assert _number(full_disk) == 7
    assert _on_disk(full_disk) == 7
    full_disk.host.sh(f"! find {STATE} -name '.*' -type f | grep .")


def test_a_full_disk_is_an_error_of_mount_and_the_next_run_mends(full_disk: AgentHost) -> None:
    secret = {"environment": "prod", "name": "large", "value": "x" * 100_000}
    delivery = {
        "name": "Deliver",
        "hostseal.secrets.mount": {"environment": "prod", "name": "large", "secrets": [{"source": "large"}]},
    }
    declaring = {"name": "Declare", "hostseal.secrets.secret": secret, "delegate_to": "localhost"}
    outcome = full_disk.control.tasks(declaring, delivery, check=False)
    assert "No space left on device" in outcome.message("Deliver")
    full_disk.host.sh(f"rm {STATE}/filler")
    assert full_disk.control.tasks(delivery).results["Deliver"]["changed"]
    assert not full_disk.control.tasks(delivery).results["Deliver"]["changed"]
    assert full_disk.ask("DELETE", "/v1/mounts/prod.large") == {"changed": True}


def test_a_full_tmpfs_refuses_and_the_old_pair_stays(pair: AgentHost) -> None:
    filler = "/run/hostseal/volumes/.filler"
    pair.host.sh(f"dd if=/dev/zero of={filler} bs=64k 2>/dev/null || true")
    try:
        text = _envelopes(pair, 1, first=8)[0]
        assert "No space left on device" in str(_deliver(pair, text)["reason"])
        assert _number(pair) == 0
        # What is not in memory yet can't be started, and says why; what is live still can.
        assert _on_disk(pair) == 0
        pair.docker("rm", "--force", "watcher")
        pair.host.sh(f"dd if=/dev/zero of={filler}2 bs=64k 2>/dev/null || true")
        done = pair.docker("run", "--rm", *PLACE, "busybox", "true", check=False)
        assert done.returncode == 125
        assert "No space left on device" in done.stderr
    finally:
        pair.host.sh(f"rm -f {filler} {filler}2")
    assert _deliver(pair, text)["changed"]
    assert _on_disk(pair) == 8
