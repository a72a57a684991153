# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part of the measurements that runs on a host, with its own Python and the standard library alone.

Called as: python3 -c SOURCE COMMAND ARGUMENTS, the arguments as JSON, longer data on stdin; answers JSON on stdout.
Durations are in milliseconds unless a name says otherwise.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from urllib.parse import quote

PLUGIN = "/run/docker/plugins/hostseal.sock"
CONTROL = "/run/hostseal/agent.sock"
DOCKER = "/run/docker.sock"
PUBLISHED = "/var/lib/hostseal/volumes"
STATE = "/var/lib/hostseal/state/mounts"
FARM = "/srv/farm"


def ask(path, method, target, body=None):
    """One request to a Unix socket over a new connection, as Docker and the modules do; the answer's JSON."""
    data = b"" if body is None else (body if isinstance(body, str) else json.dumps(body)).encode()
    head = f"{method} {target} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nConnection: close\r\n"
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(300)
        connection.connect(path)
        connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        with connection.makefile("rb") as answer:
            status = int(answer.readline().split()[1])
            length = None
            chunked = False
            while line := answer.readline().strip().lower():
                if line.startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
                chunked = chunked or line == b"transfer-encoding: chunked"
            content = read_chunks(answer) if chunked else answer.read(length)
    if status >= 300:
        raise SystemExit(f"{target}: {status} {content.decode(errors='replace').strip()}")
    parsed = json.loads(content) if content.strip() else None
    if isinstance(parsed, dict) and parsed.get("Err"):
        raise SystemExit(f"{target}: {parsed['Err']}")
    return parsed


def read_chunks(answer):
    content = b""
    while size := int(answer.readline(), 16):
        content += answer.read(size)
        answer.readline()
    return content


def plugin(what, volume, user):
    return ask(PLUGIN, "POST", f"/VolumeDriver.{what}", {"Name": volume, "ID": user})


def deliver_one(volume, envelope, path=CONTROL):
    return ask(path, "PUT", f"/v1/mounts/{quote(volume)}", envelope)


def timed(action, *arguments):
    began = time.perf_counter()
    action(*arguments)
    return (time.perf_counter() - began) * 1000


def rotations(names, rounds):
    """Every round begins with another one, so that none is always the first after the last one's noise."""
    names = list(names)
    for number in range(rounds):
        start = number % len(names)
        yield from names[start:] + names[:start]


def run_quietly(argv):
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"{argv[0]} ended with {done.returncode}: {done.stderr.decode(errors='replace').strip()}")


# -- commands ---------------------------------------------------------------------------------------------------------


def deliver(_arguments, envelopes):
    """Hand envelopes to the agent."""
    for volume, envelope in envelopes.items():
        deliver_one(volume, envelope)
    return len(envelopes)


def mounts(arguments, _data):
    """First Mount of each volume (decrypts), a second one (counts only), and the Unmounts (the last one wipes)."""
    taken = {"first": [], "again": [], "unmount": []}
    for number in range(arguments["rounds"]):
        for volume in arguments["volumes"]:
            users = [hashlib.sha256(f"{number} {volume} {user}".encode()).hexdigest() for user in "ab"]
            taken["first"].append(timed(plugin, "Mount", volume, users[0]))
            if arguments["target"] not in os.listdir(os.path.join(PUBLISHED, volume)):
                raise SystemExit(f"{volume} is mounted, but its files are not there")
            taken["again"].append(timed(plugin, "Mount", volume, users[1]))
            plugin("Unmount", volume, users[1])
            taken["unmount"].append(timed(plugin, "Unmount", volume, users[0]))
    return taken


def credentials(arguments, _data):
    """The same files kept and opened by systemd-creds: encrypted to the host, decrypted into memory one by one."""
    folder, memory = "/srv/credentials", "/run/credentials-bench"
    for path in (folder, memory):
        os.makedirs(path, 0o700, exist_ok=True)
    subprocess.run(["systemd-creds", "setup"], check=True, capture_output=True)
    names = [f"c{number}" for number in range(arguments["files"])]
    for name in names:
        subprocess.run(
            ["systemd-creds", "--with-key=host", f"--name={name}", "encrypt", "-", f"{folder}/{name}"],
            input=b"x" * arguments["bytes"],
            check=True,
            capture_output=True,
        )

    def open_all():
        for name in names:
            run_quietly(["systemd-creds", f"--name={name}", "decrypt", f"{folder}/{name}", f"{memory}/{name}"])

    taken = []
    for _number in range(arguments["rounds"]):
        taken.append(timed(open_all))
        for name in names:
            os.unlink(f"{memory}/{name}")
    return taken


def update(arguments, envelopes):
    """Mount all volumes, hand over new envelopes as the module mount does, and look for the new bytes.

    "total" is from the first byte sent until all new bytes were read where Docker binds them from; "swap" from when the
    first envelope was on disk until the last mount showed its new files, both by the times of the file system.
    """
    digests, target = arguments["digests"], arguments["target"]
    user = hashlib.sha256(os.urandom(8)).hexdigest()
    for volume in envelopes:
        plugin("Mount", volume, user)
    agent = main_pid("hostseald.service")
    spent = cpu_nanoseconds(agent)
    began = time.perf_counter()
    outcomes = ask(CONTROL, "PUT", "/v1/mounts", envelopes)
    shown = {}
    for volume in envelopes:
        with open(os.path.join(PUBLISHED, volume, target), "rb") as file:
            shown[volume] = hashlib.sha256(file.read()).hexdigest()
    total = (time.perf_counter() - began) * 1000
    cpu = (cpu_nanoseconds(agent) - spent) / 1e6
    for volume, digest in digests.items():
        if not outcomes[volume].get("live") or shown[volume] != digest:
            raise SystemExit(f"{volume} shows old bytes after its receipt: {outcomes[volume].get('reason')}")
    on_disk = min(os.stat(os.path.join(STATE, volume)).st_ctime_ns for volume in envelopes)
    seen = max(os.lstat(os.path.join(PUBLISHED, volume, "..data")).st_ctime_ns for volume in envelopes)
    for volume in envelopes:
        plugin("Unmount", volume, user)
    return {"total": total, "swap": (seen - on_disk) / 1e6, "cpu_ms": cpu}


def idle(arguments, _data):
    """Memory of the agent's unit and of the engine, and what the agent computes while nobody asks it anything."""
    pid = main_pid("hostseald.service")
    before = cpu_nanoseconds(pid)
    time.sleep(arguments["seconds"])
    spent = cpu_nanoseconds(pid) - before
    return {
        "rss": resident_bytes(pid),
        "docker_rss": resident_bytes(main_pid("docker.service")),
        "cpu_ms": spent / 1e6,
    }


def main_pid(unit):
    shown = subprocess.run(["systemctl", "show", "-P", "MainPID", unit], check=True, capture_output=True)
    return int(shown.stdout)


def resident_bytes(pid):
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("VmRSS:"))


def cpu_nanoseconds(pid):
    """Time on a processor of all threads, ended ones too: the clock of clock_getcpuclockid(3)."""
    return time.clock_gettime_ns(~pid << 3 | 2)


def commands(arguments, _data):
    """Run each of some commands in turn; how long each run took."""
    taken = {name: [] for name in arguments["commands"]}
    for name in rotations(taken, arguments["rounds"]):
        taken[name].append(timed(run_quietly, arguments["commands"][name]))
    return taken


def restart_docker(_arguments, _data):
    """Stop the engine and start it: until it has stopped, and until it answers again."""
    # Restarting it this often is nothing that systemd should refuse.
    subprocess.run(["systemctl", "reset-failed", "docker.service", "docker.socket"], check=False, capture_output=True)
    stopped = timed(run_quietly, ["systemctl", "stop", "docker.socket", "docker.service"])

    def start():
        run_quietly(["systemctl", "start", "docker.service"])
        ask(DOCKER, "GET", "/version")

    return {"stop": stopped, "start": timed(start)}


def make_volumes(arguments, _data):
    """Make Docker know volumes, as `docker volume create` does; how many it knows."""
    for name in arguments["volumes"]:
        ask(DOCKER, "POST", "/volumes/create", {"Name": name, "Driver": arguments["driver"]})
    return len(ask(DOCKER, "GET", "/volumes")["Volumes"])


def restart_agent(arguments, _data):
    """Restart the agent while volumes are in use: until it serves, its first answers, and its memory then."""
    user = hashlib.sha256(os.urandom(8)).hexdigest()
    for volume in arguments["volumes"]:
        plugin("Mount", volume, user)
    taken = []
    for _number in range(arguments["rounds"]):
        run_quietly(["systemctl", "stop", "hostseald.service"])
        found = {"start": timed(run_quietly, ["systemctl", "start", "hostseald.service"])}
        found["mount"] = timed(plugin, "Mount", arguments["volumes"][0], "f" * 64)
        plugin("Unmount", arguments["volumes"][0], "f" * 64)
        for name in ("first", "again"):
            found[name] = timed(ask, CONTROL, "GET", "/v1/status")
        found["docker"] = timed(ask, CONTROL, "GET", "/v1/status?docker=1")
        found["rss"] = resident_bytes(main_pid("hostseald.service"))
        taken.append(found)
    for volume in arguments["volumes"]:
        plugin("Unmount", volume, user)
    return taken


def list_volumes(arguments, _data):
    """Docker's list of its volumes, and its memory then."""
    taken = [timed(ask, DOCKER, "GET", "/volumes") for _number in range(arguments["rounds"])]
    return {"list": taken, "rss": resident_bytes(main_pid("docker.service"))}


def swarm_update(arguments, _data):
    """Swarm's way to change a secret of a running service: until the new task's container shows it."""
    run_quietly(["docker", "swarm", "init", "--advertise-addr", "127.0.0.1"])
    try:
        make_swarm_secret("v0")
        create = "docker service create --detach --no-resolve-image --init --name bench --secret source=v0,target=pw"
        run_quietly([*create.split(), "busybox", "sleep", "3600"])
        wait_for_swarm("v0")
        taken = []
        for number in range(1, arguments["rounds"] + 1):
            new = f"v{number}"
            change = f"--secret-rm v{number - 1} --secret-add source={new},target=pw"
            began = time.perf_counter()
            make_swarm_secret(new)
            run_quietly(["docker", "service", "update", "--detach", "--no-resolve-image", *change.split(), "bench"])
            wait_for_swarm(new)
            taken.append((time.perf_counter() - began) * 1000)
        return taken
    finally:
        subprocess.run(["docker", "service", "rm", "bench"], check=False, capture_output=True)
        run_quietly(["docker", "swarm", "leave", "--force"])


def make_swarm_secret(name):
    subprocess.run(["docker", "secret", "create", name, "-"], input=name.encode(), check=True, capture_output=True)


def wait_for_swarm(value):
    deadline = time.monotonic() + 60
    filters = ["--filter", "label=com.docker.swarm.service.name=bench", "--filter", "status=running"]
    while time.monotonic() < deadline:
        found = subprocess.run(["docker", "ps", "-q", *filters], check=True, capture_output=True, text=True)
        for container in found.stdout.split():
            shown = subprocess.run(
                ["docker", "exec", container, "cat", "/run/secrets/pw"], check=False, capture_output=True, text=True
            )
            if shown.stdout == value:
                return
        time.sleep(0.02)
    raise SystemExit(f"the swarm service did not show {value} within 60 s")


# -- many agents on one machine: each has private views of the paths that a host has once ------------------------------

ENTER = "mount --rbind {base}/run /run/hostseal && mount --bind {base}/etc /etc/hostseal"
PYTHON = f"""#!/bin/sh
exec unshare --mount --propagation private sh -c '{ENTER} && exec /usr/bin/python3 "$@"' -- "$@"
"""
AGENT = f"""
touch {{base}}/run/docker.sock
mount --bind /run/hostseal/docker.sock {{base}}/run/docker.sock
mount --bind {{base}}/lib /var/lib/hostseal
mount --bind {{base}}/log /var/log/hostseal
{ENTER}
mount -t tmpfs -o size=8m,mode=0700,nosuid,nodev,noexec tmpfs /run/hostseal/volumes
mount --bind -o ro /run/hostseal/volumes /var/lib/hostseal/volumes
exec /usr/bin/python3 -c "$LAUNCHER" {{base}}
"""
LAUNCHER = """
import os, socket, sys
base = sys.argv[1]
sockets = [socket.socket(socket.AF_UNIX) for _number in range(2)]
for passed, path in zip(sockets, ("/run/hostseal/agent.sock", base + "/hostseal.sock")):
    passed.bind(path)
    passed.listen(64)
saved = [os.dup(passed.fileno()) for passed in sockets]
spare = [os.dup(number) for number in saved]
for place, number in enumerate(spare, start=3):
    os.dup2(number, place)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", CREDENTIALS_DIRECTORY=base + "/etc")
os.execv("/usr/bin/python3", ["python3", "-I", "/usr/local/lib/hostseal/hostseald.pyz", "agent"])
"""


def farm_prepare(arguments, _data):
    """Directories for the hosts NAMES, and for each a `python` that sees them in the usual places."""
    for name in arguments["names"]:
        base = f"{FARM}/{name}"
        for folder in ("etc", "log", "lib/state", "lib/volumes", "run/users", "run/changes", "run/volumes"):
            os.makedirs(f"{base}/{folder}")
        with open(f"{base}/python", "w", encoding="ascii") as file:
            file.write(PYTHON.format(base=base))
        os.chmod(f"{base}/python", 0o700)
    return True


def farm_start(arguments, _data):
    """An agent for each of the hosts; waits until all answer, each under its own name."""
    for name in arguments["names"]:
        base = f"{FARM}/{name}"
        script = AGENT.format(base=base)
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-euc", script]
        unit = ["systemd-run", "--quiet", "--collect", "--slice=farm.slice", f"--unit=farm-{name}"]
        run_quietly([*unit, f"--setenv=LAUNCHER={LAUNCHER}", *command])
    deadline = time.monotonic() + 180
    for name in arguments["names"]:
        while farm_name(name) != name:
            if time.monotonic() > deadline:
                raise SystemExit(f"the agent of {name} did not start, see journalctl -u farm-{name}")
            time.sleep(0.05)
    return len(arguments["names"])


def farm_name(name):
    try:
        return ask(f"{FARM}/{name}/run/agent.sock", "GET", "/v1/status")["host"]
    except OSError:
        return None


def farm_count(arguments, _data):
    """How many mounts the agents hold in good order that were sealed after SINCE, in milliseconds."""
    states = [ask(f"{FARM}/{name}/run/agent.sock", "GET", "/v1/status") for name in arguments["names"]]
    return sum(
        mount["valid"] and mount["issued_at"] > arguments["since"] for state in states for mount in state["mounts"]
    )


def farm_stop(_arguments, _data):
    """End the agents of the farm."""
    run_quietly(["systemctl", "stop", "farm.slice"])
    shutil.rmtree(FARM)
    return True


COMMANDS = {
    function.__name__: function
    for function in (
        deliver,
        mounts,
        credentials,
        update,
        idle,
        commands,
        restart_docker,
        make_volumes,
        restart_agent,
        list_volumes,
        swarm_update,
        farm_prepare,
        farm_start,
        farm_count,
        farm_stop,
    )
}

if __name__ == "__main__":
    print(json.dumps(COMMANDS[sys.argv[1]](json.loads(sys.argv[2]), json.load(sys.stdin))))
