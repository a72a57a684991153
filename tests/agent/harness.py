# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""A real agent process below a temporary root, with real sockets and a real tmpfs; and the environment that feeds it."""

from __future__ import annotations

import compileall
import contextlib
import fcntl
import hashlib
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ansible_collections.hostseal.secrets.plugins.module_utils import _envelope as envelopes
from ansible_collections.hostseal.secrets.plugins.module_utils import _jose
from ansible_collections.hostseal.secrets.plugins.module_utils._model import Mount
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _zipapp
from jwcrypto.jwk import JWK

CHECKOUT = Path(__file__).parents[2]

PODMAN_ID = "2f73349cfc4630255319c6c8dfc1b46a8996ace9d14d8e07563b165915918ec2"
# Puts the sockets where systemd would: file descriptors 3 and up, and says so for its own process id.
_LAUNCHER = """
import os, sys
sockets = [int(number) for number in sys.argv[1].split(",")]
for place, number in enumerate(sockets, start=3):
    os.dup2(number, place)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(sockets)))
os.execv(sys.argv[2], sys.argv[2:])
"""


def unpacked_agent() -> Path:
    """The members of the zip application, in a folder: Python keeps what it compiles of files there, and starts sooner."""
    sources = _zipapp.agent_sources(CHECKOUT)
    folder = CHECKOUT / "build" / "agent" / hashlib.sha256(_zipapp.build(sources)).hexdigest()[:16]
    if not folder.exists():
        new = folder.with_name(f"{folder.name}.{os.getpid()}")
        for name, content in sources.items():
            (new / name).parent.mkdir(parents=True, exist_ok=True)
            (new / name).write_bytes(content)
        compileall.compile_dir(new, quiet=1)
        try:
            new.rename(folder)
        except OSError:  # another worker was faster
            shutil.rmtree(new)
    return folder


AGENT = unpacked_agent()


class Environment:
    """An environment's signing key, and envelopes made with it."""

    def __init__(self, name: str = "prod", host: str = "db1", host_key: JWK | None = None) -> None:
        self.name = name
        self.host = host
        self.host_key = host_key or _jose.new_host_key()
        self.signing_key = JWK.generate(kty="OKP", crv="Ed25519")
        self.issued_at = int(time.time() * 1000)

    @property
    def kid(self) -> str:
        return str(self.signing_key.thumbprint())

    def sign(self, typ: str, payload: dict[str, Any], by: JWK | None = None) -> str:
        """A JWS over PAYLOAD."""
        key = by or self.signing_key
        covered = _jose.signing_input(typ, key.thumbprint(), payload)
        return _jose.attach_signature(covered, key.get_op_key("sign").sign(covered))

    def key_set(self, issued_at: int = 1000, keys: list[JWK] | None = None, by: JWK | None = None) -> str:
        """The environment's key set."""
        payload = envelopes.key_set(self.name, issued_at, keys or [self.signing_key])
        return self.sign(envelopes.KEY_SET, payload, by)

    def mount(
        self,
        name: str,
        files: dict[str, bytes],
        options: dict[str, Any] | None = None,
        token: dict[str, Any] | None = None,
    ) -> Mount:
        """A mount of files named by their targets; the secrets' names are the targets with underscores."""
        entries: list[dict[str, Any]] = [token] if token else []
        for target in files:
            target, *more = target.split("|")  # "target|uid|gid|mode"
            entry: dict[str, Any] = {"source": target.replace("/", "_"), "target": target}
            entry.update(zip(("uid", "gid", "mode"), more))
            entries.append(entry)
        return Mount.from_options({"environment": self.name, "name": name, "secrets": entries, **(options or {})})

    def envelope(
        self,
        name: str = "db",
        files: dict[str, bytes] | None = None,
        *,
        issued_at: int | None = None,
        host: str | None = None,
        options: dict[str, Any] | None = None,
        version: int = 1,
        version_id: str | None = None,
        token: dict[str, Any] | None = None,
    ) -> str:
        """A sealed mount, newer than all before unless ISSUED_AT says otherwise."""
        files = {"db_password": b"s3cret"} if files is None else files
        if issued_at is None:
            self.issued_at += 1
            issued_at = self.issued_at
        versions = [(version, version_id or os.urandom(8).hex(), value) for value in files.values()]
        public = _jose.load_host_key(self.host_key.export_public())
        mount = self.mount(name, files, options, token)
        draft = envelopes.encrypt(mount, host or self.host, public, self.kid, issued_at, versions)
        return draft.sign(self.signing_key.get_op_key("sign").sign(draft.covered))


class UnixConnection(http.client.HTTPConnection):
    """http.client over a Unix socket."""

    def __init__(self, path: str | Path, timeout: float = 30.0) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def request(path: str | Path, method: str, target: str, body: bytes | str | None = None) -> tuple[int, dict[str, Any]]:
    """One request to a Unix socket."""
    with contextlib.closing(UnixConnection(path)) as connection:
        connection.request(method, target, body=body)
        response = connection.getresponse()
        return response.status, json.loads(response.read())


class RunningAgent:
    """The agent below ROOT. Its sockets outlive the process, as systemd's do."""

    def __init__(self, root: Path, host_key: JWK | None = None, host: str = "db1") -> None:
        self.root = root
        self.host = host
        self.host_key = host_key or _jose.new_host_key()
        self.older_keys: list[JWK] = []
        self.arguments: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None
        self.volumes = root / "run/hostseal/volumes"
        self.published = root / "var/lib/hostseal/volumes"
        self.state = root / "var/lib/hostseal/state"
        self.audit_file = root / "var/log/hostseal/audit.jsonl"
        self.plugin_socket = root / "p/hostseal.sock"
        self.podman_socket = root / "p/podman-plugin.sock"
        self.control_socket = root / "p/agent.sock"
        for folder in (
            self.volumes,
            self.published,
            self.state,
            self.audit_file.parent,
            root / "p",
            root / "credentials",
        ):
            folder.mkdir(parents=True)
        for folder in ("users", "changes", "metrics", "services", "alerts"):
            (root / "run/hostseal" / folder).mkdir()
        self.save_identity()
        self._mounted: list[Path] = []
        sockets = (self.plugin_socket, self.podman_socket, self.control_socket)
        self._listeners = [self._listen(path) for path in sockets]

    def save_identity(self) -> None:
        (self.root / "credentials/host.key").write_text(_jose.dump_host_keys([self.host_key, *self.older_keys]))
        public = self.host_key.export_public(as_dict=True)
        (self.root / "credentials/host.json").write_text(json.dumps({"host": self.host, "jwk": public}))

    @staticmethod
    def _listen(path: Path) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(512)
        return listener

    def mount_tmpfs(self, size: str = "32m") -> None:
        """What the two mount units do."""
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700,nosuid,nodev", "tmpfs", self.volumes], check=True
        )
        self._mounted.append(self.volumes)
        subprocess.run(["mount", "-o", "bind,ro", self.volumes, self.published], check=True)
        self._mounted.append(self.published)

    def unmount_tmpfs(self) -> None:
        while self._mounted:
            subprocess.run(["umount", "-l", self._mounted.pop()], check=True)

    def start(self, python: str = sys.executable) -> RunningAgent:
        """Start the process and wait until it has said READY=1."""
        ready = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        address = self.root / "p/notify"
        address.unlink(missing_ok=True)
        ready.bind(str(address))
        ready.settimeout(20)
        copies = [fcntl.fcntl(listener.fileno(), fcntl.F_DUPFD, 100) for listener in self._listeners]
        log = (self.root / "log").open("ab")
        self.process = subprocess.Popen(
            [
                python,
                "-c",
                _LAUNCHER,
                ",".join(map(str, copies)),
                python,
                "-I",
                str(AGENT),
                "agent",
                "--root",
                str(self.root),
                *self.arguments,
            ],
            pass_fds=copies,
            env={
                "PATH": os.environ["PATH"],
                "NOTIFY_SOCKET": str(address),
                "CREDENTIALS_DIRECTORY": str(self.root / "credentials"),
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        log.close()
        for copy in copies:
            os.close(copy)
        with contextlib.closing(ready):
            assert ready.recv(100) == b"READY=1"
        return self

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.terminate()
        status = self.process.wait(20)
        self.process = None
        return status

    def close(self) -> None:
        """Leave nothing behind."""
        self.kill()
        for listener in self._listeners:
            listener.close()
        self.unmount_tmpfs()

    @property
    def log(self) -> str:
        return (self.root / "log").read_text()

    def plugin(self, method: str, **arguments: Any) -> dict[str, Any]:
        """One call of Docker's volume plugin API."""
        status, answer = request(self.plugin_socket, "POST", f"/{method}", json.dumps(arguments))
        assert status == 200, answer
        return answer

    def podman(self, method: str, **arguments: Any) -> tuple[int, dict[str, Any]]:
        """One call of the same API by Podman, which sends one ID for everything."""
        return request(self.podman_socket, "POST", f"/{method}", json.dumps({"ID": PODMAN_ID, **arguments}))

    def mount(self, volume: str = "prod.db", user: str = "a" * 64) -> Path:
        """Mount, which must succeed."""
        answer = self.plugin("VolumeDriver.Mount", Name=volume, ID=user)
        assert not answer["Err"], answer
        assert answer["Mountpoint"] == str(self.published / volume)
        return self.published / volume

    def refused_mount(self, volume: str = "prod.db") -> str:
        """The reason of a Mount that must fail."""
        answer = self.plugin("VolumeDriver.Mount", Name=volume, ID="f" * 64)
        assert answer["Err"]
        assert "Mountpoint" not in answer
        return str(answer["Err"])

    def unmount(self, volume: str = "prod.db", user: str = "a" * 64) -> None:
        answer = self.plugin("VolumeDriver.Unmount", Name=volume, ID=user)
        assert answer == {"Err": ""}

    def control(self, method: str, target: str, body: bytes | str | None = None) -> tuple[int, dict[str, Any]]:
        """One request to the control socket."""
        return request(self.control_socket, method, target, body)

    def pin(
        self, environment: Environment, text: str | None = None, replace_key: bool = False
    ) -> tuple[int, dict[str, Any]]:
        query = "?replace_key=1" if replace_key else ""
        return self.control("PUT", f"/v1/environments/{environment.name}{query}", text or environment.key_set())

    def deliver(self, envelope: str, volume: str = "prod.db") -> dict[str, Any]:
        """Deliver, which must succeed; the receipt."""
        status, receipt = self.control("PUT", f"/v1/mounts/{volume}", envelope)
        assert status == 200, receipt
        return receipt

    def refused(self, envelope: str | bytes, volume: str = "prod.db") -> str:
        """The reason of a delivery that must fail."""
        status, answer = self.control("PUT", f"/v1/mounts/{volume}", envelope)
        assert status == 409, answer
        return str(answer["reason"])

    def status(self, docker: bool = False) -> dict[str, Any]:
        status, answer = self.control("GET", "/v1/status?docker=1" if docker else "/v1/status")
        assert status == 200, answer
        return answer

    def audit(self) -> list[dict[str, Any]]:
        """The audit lines so far; they are written by a thread of the agent, so a short wait may be needed."""
        time.sleep(0.05)
        return [json.loads(line) for line in self.audit_file.read_text().splitlines()]
