# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A reader of the documentation: an empty directory, a bare host, a Vault server, and what the pages take for granted."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs_code import Block, matches
from tests.rig.engine import Engine
from tests.rig.host import ThrowawayHost
from tests.rig.openbao import BINARY, OpenBao, clean_leftovers
from tests.rig.paths import BUILD

TIMEOUT_SECONDS = 300
# Stands in for the images that the pages start: none can be pulled, and what is tested is what comes before the program.
IMAGES = ("mariadb", "nginx")
IMAGE = """docker run --name image busybox true
docker commit --change 'CMD ["sh", "-c", "trap exit TERM; trap : HUP; while :; do sleep 1; done"]' image %s
docker rm image
"""
SWARM = """docker swarm init --advertise-addr 127.0.0.1
printf 'swarm knew this' | docker secret create db_password -
printf 'and this' | docker secret create session_key -
docker service create --detach=false --no-resolve-image --name web --secret db_password --secret session_key nginx
"""
VAULT_FILE = """mkdir -p vars
openssl rand -hex 16 > vault-password
printf 'vault_smtp_password: correct horse battery staple' |
    ansible-vault encrypt --vault-password-file vault-password --output vars/vault.yml
"""
# What a page takes for granted: the host's part, the control node's part.
BEFORE = {
    "docs/git.md": ("", "git config --global user.name Reader; git config --global user.email reader@example.com"),
    "docs/migrate-ansible-vault.md": ("", f"unset HOSTSEAL_STORE\n{VAULT_FILE}"),
    "docs/migrate-swarm.md": (SWARM, ""),
    "docs/migrate-rancher.md": (
        "",
        "mkdir -m 700 /dev/shm/rancher-secrets; printf 'rancher knew this' > /dev/shm/rancher-secrets/shop_password",
    ),
}


class Reader:
    """Does what the pages say, in one directory and one shell, whose variables last."""

    def __init__(self, directory: Path, host: ThrowawayHost, bao: OpenBao) -> None:
        self.directory = directory
        self.host = host
        self.bao = bao
        self.variables = directory / ".variables"
        variables = " ".join(f"{key}={value}" for key, value in host.inventory().items())
        # Names of the pages, and what they are here.
        self.substitutions = {
            "docker1 ansible_host=192.0.2.10 ansible_user=root": f"docker1 {variables}",
            "ssh docker1": f"docker --host {host.engine.address} exec {host.container} sh -c",
            "https://vault.example.com:8200": bao.url,
            "/etc/ssl/certs/vault-ca.pem": bao.ca_cert,
            "/srv/reports/": f"{directory}/",
            "/srv/infrastructure": f"{directory}/infrastructure",
            "/backup/": f"{directory}/",
            "/dev/shm/": f"{directory}/",
        }
        (directory / "home").mkdir()
        self._keep(
            {
                "PATH": f"{BUILD / 'venv/bin'}:{BINARY.parent}:{os.environ['PATH']}",
                "HOME": str(directory / "home"),
                "LANG": "C.UTF-8",
                "ANSIBLE_COLLECTIONS_PATH": f"{BUILD / 'sym'}:{BUILD / 'collections'}",
                "ANSIBLE_PIPELINING": "true",
                "ANSIBLE_LOCALHOST_WARNING": "false",
            }
        )

    def _keep(self, variables: dict[str, str]) -> None:
        lines = [f"export {key}={shlex.quote(value)}\n" for key, value in variables.items()]
        self.variables.write_text("".join(lines), encoding="utf-8")

    def be_administrator_of_vault(self) -> None:
        """As after `vault login`."""
        shutil.copy(self.bao.token_file, self.directory / "home/.vault-token")
        self.shell(f"export VAULT_ADDR={self.bao.url} VAULT_CACERT={self.bao.ca_cert}")

    def do(self, block: Block) -> None:
        """Write the file, run the plays, or type the commands."""
        text = block.text
        for name, here in self.substitutions.items():
            text = text.replace(name, here)
        block = Block(block.where, block.language, text, block.reason)
        if block.file:
            path = self.directory / block.file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        elif block.language == "yaml":
            (self.directory / "page.json").write_text(json.dumps(block.plays()), encoding="utf-8")
            self.shell("ansible-playbook page.json")
        else:
            for command in block.commands():
                printed = self.host.sh(command.text).stdout if command.on_host else self.shell(command.text)
                assert matches(command.output, printed), f"{block.where}: {command.text}\n{printed}"

    def shell(self, command: str) -> str:
        """Run COMMAND on the control node; what it prints."""
        script = f"set -eu -o pipefail\n. {self.variables}\n{command}\nexport -p > {self.variables}\n"
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.directory,
            env={},
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def reader(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    clean_leftovers()
    host = ThrowawayHost(engine, f"t{os.getpid()}-docs")
    try:
        with OpenBao() as bao:
            host.start(load=("busybox",))
            host.sh("".join(IMAGE % image for image in IMAGES))
            yield Reader(tmp_path_factory.mktemp("docs"), host, bao)
    finally:
        host.remove()
