# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""hostseald.pyz PROGRAM: started by systemd; agent, docker-helper, podman-helper and bridge with their sockets."""

from __future__ import annotations

import argparse
import ctypes
import functools
import os
import signal
import socket
import sys
import time
from collections.abc import Callable

from . import _systemd
from ._files import remove_file
from ._http import Handler, Server, Service
from ._model import HostsealError
from ._paths import Paths
from ._reconcile import GAP_SECONDS, QUIET_SECONDS

STUCK_SECONDS = 180.0
_PR_SET_DUMPABLE = 4
_PLUGIN_SOCKETS = {"docker": "hostseal.sock", "podman": "podman-plugin.sock"}


def run_agent(paths: Paths, options: argparse.Namespace) -> None:
    """Serve the engines and the control socket until SIGTERM."""
    # Imported here: the helpers have no business with keys and cryptography.
    from . import _control_api, _plugin_api
    from ._agent import Agent
    from ._audit import Audit
    from ._host import load_host
    from ._metrics import Metrics, forget_metrics

    # A request is a few short turns of several threads; Python's 5 ms between two of them would be most of its time.
    sys.setswitchinterval(0.0002)
    # No core dump and no ptrace by the own user; root is not kept out by this.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    sockets = _sockets("agent.sock", *(_PLUGIN_SOCKETS[engine] for engine in options.engines))
    host = load_host(os.environ.get("CREDENTIALS_DIRECTORY", ""))
    audit = Audit(paths.audit, host.name)
    owner_of_zero = (options.uid_offset, options.gid_offset)
    agent = Agent(
        paths,
        host,
        audit,
        options.quiet,
        options.gap,
        owner_of_zero,
        options.key_protection,
        options.alerts,
        options.engines,
    )
    agent.start(options.fetch)
    if options.metrics:
        status = functools.partial(agent.status.read, docker=False, examine=False)
        Metrics(paths.metrics, status, audit.counts, options.metrics_interval).start()
    else:
        forget_metrics(paths.metrics)
    control = _control_api.ControlApi(agent)
    services = [Service(sockets["agent.sock"], control.handle, _control_api.MAX_BODY_BYTES, most=16)]
    for engine in options.engines:
        kind = _plugin_api.PodmanApi if engine == "podman" else _plugin_api.PluginApi
        plugin = kind(agent.mounts, agent.envelopes)
        services.append(Service(sockets[_PLUGIN_SOCKETS[engine]], plugin.handle, _plugin_api.MAX_BODY_BYTES, most=128))
    if options.fetch:
        fetch = _control_api.FetchApi(agent)
        services.append(Service(_listen(paths.fetch), fetch.handle, _control_api.MAX_BODY_BYTES, most=4))
    server = Server(services)

    def alive() -> None:
        if server.longest_running() < STUCK_SECONDS:
            _systemd.notify("WATCHDOG=1")

    _serve(server, alive, _systemd.watchdog_interval())
    audit.close(2.0)


def run_docker_helper(paths: Paths, options: argparse.Namespace) -> None:
    """Serve the agent until SIGTERM, or until nothing has come for a while: the socket starts it again."""
    from ._docker_helper import DockerHelper

    _serve_until_idle("docker.sock", DockerHelper(paths.docker).handle, options)


def run_podman_helper(paths: Paths, options: argparse.Namespace) -> None:
    """The same for Podman."""
    from ._podman_helper import PodmanHelper

    _serve_until_idle("podman.sock", PodmanHelper(paths.podman).handle, options)


def run_bridge(_paths: Paths, options: argparse.Namespace) -> None:
    """Serve the agent until SIGTERM, or until nothing has come for a while: the socket starts it again."""
    from ._bridge import load_bridge

    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    _serve_until_idle("bridge.sock", load_bridge(os.environ.get("CREDENTIALS_DIRECTORY", "")).handle, options)


def run_alert(paths: Paths, _options: argparse.Namespace) -> None:
    """Hand the alerts that lie there to the host's command and webhook."""
    from ._alert_hook import hand_over

    hand_over(paths.alerts, os.environ.get("CREDENTIALS_DIRECTORY", ""))


def run_fetch(paths: Paths, _options: argparse.Namespace) -> None:
    """Fetch what is published for this host, once."""
    from ._fetch import load_fetcher

    places = [os.environ.get(name, "") for name in ("CREDENTIALS_DIRECTORY", "STATE_DIRECTORY")]
    load_fetcher(paths.fetch, *places).run(is_timed="TRIGGER_UNIT" in os.environ)


def run_hold(paths: Paths, options: argparse.Namespace) -> None:
    """Have the agent show a mount to services."""
    from ._hold import ask

    ask(paths.agent, "PUT", options.mount)


def run_release(paths: Paths, options: argparse.Namespace) -> None:
    """They have ended."""
    from ._hold import ask

    ask(paths.agent, "DELETE", options.mount)


def run_services(paths: Paths, _options: argparse.Namespace) -> None:
    """Signal or restart the services whose mounts have changed."""
    from ._services import change_services

    change_services(paths.services)


def _serve_until_idle(name: str, handler: Handler, options: argparse.Namespace) -> None:
    sockets = _sockets(name)
    server = Server([Service(sockets[name], handler, 1 << 20, most=16)])

    def idle() -> None:
        if not server.busy() and time.monotonic() - server.last_request > options.idle:
            server.stop()

    _serve(server, idle, options.idle / 4)


def _serve(server: Server, tick: Callable[[], None], interval: float | None) -> None:
    signal.signal(signal.SIGTERM, lambda _number, _frame: server.stop())
    _systemd.notify("READY=1")
    server.run(tick, interval)
    _systemd.notify("STOPPING=1")
    server.finish(10.0)


def _sockets(*names: str) -> dict[str, socket.socket]:
    sockets = _systemd.listening_sockets()
    missing = [name for name in names if name not in sockets]
    if missing:
        raise HostsealError(f"systemd passed no socket {missing[0]}: start the socket unit, not the program")
    return sockets


def _listen(path: str) -> socket.socket:
    """A socket at PATH for the group of its directory, whose set-group-ID bit hands the group on.

    None of systemd's: it would not add one to a service that runs, and nothing is lost by who comes while it does not.
    """
    remove_file(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    listener.bind(path)
    os.chmod(path, 0o660)
    listener.listen(16)
    return listener


def main(arguments: list[str]) -> int:
    """Run one of the programs; the exit status."""
    programs = {
        "agent": run_agent,
        "docker-helper": run_docker_helper,
        "podman-helper": run_podman_helper,
        "bridge": run_bridge,
        "alert": run_alert,
        "fetch": run_fetch,
        "hold": run_hold,
        "release": run_release,
        "services": run_services,
    }
    parser = argparse.ArgumentParser(prog="hostseald.pyz", description=__doc__)
    parser.add_argument("program", choices=sorted(programs))
    parser.add_argument("mount", nargs="?", default="", help="ENVIRONMENT.MOUNT to hold or to release")
    parser.add_argument(
        "--engines", nargs="+", default=["docker"], choices=sorted(_PLUGIN_SOCKETS), help="whose containers it serves"
    )
    parser.add_argument("--uid-offset", type=int, default=0, help="the host's uid of root in containers (userns-remap)")
    parser.add_argument("--gid-offset", type=int, default=0, help="the host's gid of root in containers (userns-remap)")
    parser.add_argument(
        "--quiet", type=float, default=QUIET_SECONDS, help="seconds without a mount before counts are checked"
    )
    parser.add_argument("--gap", type=float, default=GAP_SECONDS, help="seconds between the two checks")
    parser.add_argument("--metrics", action="store_true", help="write a file for node_exporter's textfile collector")
    parser.add_argument("--metrics-interval", type=float, default=30.0, help="seconds between two writes of that file")
    parser.add_argument(
        "--key-protection", default="file", choices=("file", "systemd-creds"), help="in what kind of file the key lies"
    )
    parser.add_argument("--alerts", action="store_true", help="write a file for each alert, for the program alert")
    parser.add_argument("--fetch", action="store_true", help="take what the program fetch brings")
    parser.add_argument("--idle", type=float, default=60.0, help="seconds after which helpers and bridge end")
    parser.add_argument("--root", default="/", help="another root directory, for tests")
    options = parser.parse_args(arguments)
    os.umask(0o077)
    try:
        programs[options.program](Paths(options.root), options)
    except HostsealError as error:
        sys.stderr.write(f"hostseald: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
