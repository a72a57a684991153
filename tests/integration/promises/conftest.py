# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A host of two environments, and somebody who can make envelopes of his own."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest
from jwcrypto.jwk import JWK

from tests.agent.harness import Environment
from tests.integration.agent.conftest import AgentHost
from tests.integration.playbook import ControlNode, declare, install, mount
from tests.rig.engine import Engine
from tests.rig.host import ThrowawayHost

GOOD = "the good value"


@pytest.fixture(scope="session")
def prod(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentHost]:
    """A host with prod.db and staging.db delivered; the container "reader" has prod.db."""
    host = ThrowawayHost(engine, f"t{os.getpid()}-promises")
    try:
        host.start(load=("busybox",))
        made = AgentHost(host, ControlNode(tmp_path_factory.mktemp("promises"), host))
        made.control.tasks(
            *declare(password_db=GOOD, other="the other value"),
            *declare("staging", password_db="the value of staging"),
            hosts="localhost",
        )
        made.control.tasks(install("prod", "staging"))
        made.deliver(GOOD)
        made.control.tasks(mount("db", "password_db", environment="staging"))
        made.start("reader", "--restart", "always")
        yield made
    finally:
        host.remove()


def forger(prod: AgentHost, environment: str = "prod") -> Environment:
    """Somebody with the keys of ENVIRONMENT; what he seals is for this host and newer than all before."""
    public = JWK(**json.loads(prod.host.out("cat", "/etc/hostseal/host.json"))["jwk"])
    made = Environment(environment, prod.host.name, public)
    keys = json.loads((prod.control.keys / f"{environment}.jwks").read_text(encoding="utf-8"))["keys"]
    made.signing_key = JWK(**next(key for key in keys if key["kty"] == "OKP"))
    made.issued_at = max(made.issued_at, *prod.ask("GET", "/v1/status")["marks"].values())
    return made
