# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rig by hand: `python -m tests.rig up NAME`, see --help."""

from __future__ import annotations

import argparse
import os
import sys

from tests.rig import archives, engine, images
from tests.rig.host import ThrowawayHost, clean_leftovers, inventory_text, listed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.rig", description="Throwaway Docker hosts.")
    actions = parser.add_subparsers(dest="action", required=True)
    up = actions.add_parser("up", help="create and boot a host (anew when it exists); it stays until 'down'")
    up.add_argument("name")
    up.add_argument("--release", choices=images.RELEASES, default="bookworm")
    up.add_argument("--load", action="append", choices=archives.NAMES, default=["busybox"], help="images to load")
    for action, text in (
        ("down", "remove a host"),
        ("reboot", "reboot a host in good order"),
        ("power-cut", "kill a host and boot it again"),
        ("shell", "a root shell on a host"),
        ("inventory", "print an Ansible inventory line"),
    ):
        actions.add_parser(action, help=text).add_argument("name")
    actions.add_parser("forget", help="remove the rig's images from the engine")
    actions.add_parser("status", help="the engine and the hosts of this checkout")
    build = actions.add_parser("build", help="build images beforehand")
    build.add_argument("--release", choices=images.RELEASES, action="append")
    stop = actions.add_parser(
        "engine-stop", help="remove all hosts of this checkout, end the engine that the rig started"
    )
    stop.add_argument("--if-idle", action="store_true", help="leave everything when there is a host")
    return parser


def _status() -> None:
    found = engine.find()
    print(f"engine: {found.address if found else 'none'}")
    for row in listed(found) if found else []:
        print("host: {}  owner: {}  state: {}".format(*row))


def _engine_stop(if_idle: bool) -> None:
    found = engine.find()
    if found:
        clean_leftovers(found)
        hosts = [row[0] for row in listed(found)]
        if if_idle and hosts:
            print(f"engine left running for {', '.join(hosts)}")
            return
        for name in hosts:
            ThrowawayHost(found, name).remove()
    print("engine stopped" if engine.stop() else "no engine of the rig was running")


def main() -> int:
    options = _parser().parse_args()
    if options.action == "status":
        _status()
        return 0
    if options.action == "engine-stop":
        _engine_stop(options.if_idle)
        return 0
    if options.action == "forget":
        found = engine.find()
        if found:
            images.forget(found)
        return 0
    outer = engine.ensure()
    if options.action == "build":
        for release in options.release or ["bookworm"]:
            print(archives.prepare(outer, release, archives.NAMES))
        return 0
    host = ThrowawayHost(outer, options.name, getattr(options, "release", "bookworm"), owned=False)
    if options.action == "up":
        clean_leftovers(outer)
        host.start(load=list(dict.fromkeys(options.load)))
        print(inventory_text(host), end="")
    elif options.action == "down":
        host.remove()
    elif options.action == "reboot":
        host.reboot()
    elif options.action == "power-cut":
        host.power_cut()
    elif options.action == "inventory":
        print(inventory_text(host), end="")
    else:
        os.execvp("docker", ["docker", "-H", outer.address, "exec", "-it", host.container, "bash", "-l"])
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except engine.RigError as error:
        sys.exit(f"rig: {error}")
