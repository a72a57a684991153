# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The rig by hand: `python -m tests.rig up NAME`, see --help."""

from __future__ import annotations

import argparse
import os
import sys

from tests.rig import archives, engine, images, openbao
from tests.rig.host import ThrowawayHost, clean_leftovers, inventory_text, listed
from tests.rig.openbao import OpenBao


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.rig", description="Throwaway Docker hosts and OpenBao servers."
    )
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
    for action, text in (
        ("vault-up", "start an OpenBao server (the one there is, with its data, when it exists)"),
        ("vault-down", "remove an OpenBao server and its data"),
    ):
        actions.add_parser(action, help=text).add_argument("name")
    actions.choices["vault-up"].add_argument("--for-hosts", action="store_true", help="where hosts reach it, too")
    actions.add_parser("forget", help="remove the rig's images from the engine, and all OpenBao servers")
    actions.add_parser("status", help="the engine, the hosts and the OpenBao servers of this checkout")
    build = actions.add_parser("build", help="build images beforehand")
    build.add_argument("--release", choices=images.RELEASES, action="append")
    stop = actions.add_parser(
        "engine-stop", help="remove all hosts and OpenBao servers of this checkout, end the engine that the rig started"
    )
    stop.add_argument("--if-idle", action="store_true", help="leave everything when there is a host or a server")
    return parser


def _status() -> None:
    found = engine.find()
    print(f"engine: {found.address if found else 'none'}")
    for row in listed(found) if found else []:
        print("host: {}  owner: {}  state: {}".format(*row))
    for row in openbao.listed():
        print("openbao: {}  owner: {}  state: {}".format(*row))


def _engine_stop(if_idle: bool) -> None:
    found = engine.find()
    openbao.clean_leftovers()
    if found:
        clean_leftovers(found)
    hosts = [row[0] for row in listed(found)] if found else []
    servers = [row[0] for row in openbao.listed()]
    if if_idle and hosts + servers:
        print(f"engine left running for {', '.join(hosts + servers)}")
        return
    openbao.remove_all()
    if found:
        for name in hosts:
            ThrowawayHost(found, name).remove()
    print("engine stopped" if engine.stop() else "no engine of the rig was running")


def _vault(action: str, name: str, for_hosts: bool) -> None:
    openbao.clean_leftovers()
    if action == "vault-down":
        OpenBao(name, owned=False).remove()
        return
    server = OpenBao(name, owned=False, address=engine.ensure().gateway() if for_hosts else "127.0.0.1")
    server.start()
    print(f"url: {server.url}\nca_cert: {server.ca_cert}\ntoken_file: {server.token_file}")


def _forget() -> None:
    openbao.remove_all()
    found = engine.find()
    if found:
        images.forget(found)


def main() -> int:
    options = _parser().parse_args()
    if options.action in ("vault-up", "vault-down"):
        _vault(options.action, options.name, getattr(options, "for_hosts", False))
        return 0
    if options.action == "engine-stop":
        _engine_stop(options.if_idle)
        return 0
    if options.action in ("status", "forget"):
        {"status": _status, "forget": _forget}[options.action]()
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
