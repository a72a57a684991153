# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real Vault-compatible server with the bridge set up by its module, in front of it a proxy that hosts can reach."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.agent.harness import AGENT
from tests.integration.playbook import ControlNode, Outcome
from tests.rig import certificates
from tests.rig.certificates import Pair
from tests.rig.fault_proxy import FaultProxy
from tests.rig.openbao import OpenBao, clean_leftovers

# The bridge is imported from the file that hosts run.
sys.path.insert(0, str(AGENT))

SECRET = "what the application reads"


@pytest.fixture(scope="module")
def bao() -> Iterator[OpenBao]:
    """A server with one secret, and a policy that reads it. Each file has its own: their roles have the same names."""
    clean_leftovers()
    with OpenBao() as server:
        client = server.client()
        client.sys.enable_secrets_engine("kv", path="app", options={"version": "1"})
        client.write_data("app/web", data={"value": SECRET})
        client.sys.create_or_update_policy("app-web", 'path "app/web" { capabilities = ["read"] }')
        yield server


def proxy_before(bao: OpenBao, folder: Path, address: str = "127.0.0.1", clients: bool = False) -> FaultProxy:
    """A proxy at ADDRESS with a certificate of the server's CA."""
    authority = Pair(Path(bao.ca_cert), Path(bao.ca_key))
    identity = certificates.issue(authority, folder, "proxy", "proxy", address=address)
    return FaultProxy(bao.url, bao.ca_cert, identity, address=address, clients=clients)


def bridge_task(bao: OpenBao, host: str, public_key: Any, mounts: list[str], **more: Any) -> dict[str, Any]:
    """The task of the control node that sets the bridge up for one host."""
    options = {
        "environment": "prod",
        "url": bao.url,
        "ca_cert": bao.ca_cert,
        "token_path": str(Path(bao.token_file).parent),
        "token_file": Path(bao.token_file).name,
        "roles": [{"name": "web", "policies": ["app-web"]}],
        "hosts": [
            {"name": host, "public_key": public_key, "mounts": [{"name": name, "role": "web"} for name in mounts]}
        ],
        **more,
    }
    return {"name": "Bridge", "hostseal.secrets.vault_bridge": options}


def set_up(control: ControlNode, *arguments: Any, **more: Any) -> Outcome:
    """Run that task."""
    return control.tasks(bridge_task(*arguments, **more), hosts="localhost")
