# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent's control socket, for modules that run on the host, and its socket for the fetcher. Standard library only."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

from ._model import MAX_ENVELOPES, HostsealError

SOCKET = "/run/hostseal/agent.sock"

_BATCH_BYTES = 1 << 20


class AgentError(HostsealError):
    """The agent refused (STATUS is its HTTP status, the message its reason) or did not answer (STATUS is None)."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class AgentMissing(AgentError):
    """There is no agent on this host."""


def _batches(envelopes: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """What fits into one request: the agent takes a large envelope by itself, or many small ones."""
    batch: dict[str, str] = {}
    size = 0
    for volume, envelope in envelopes.items():
        if batch and (size + len(envelope) > _BATCH_BYTES or len(batch) == MAX_ENVELOPES):
            yield batch
            batch, size = {}, 0
        batch[volume] = envelope
        size += len(envelope)
    if batch:
        yield batch


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class AgentClient:
    """PATH is the socket, TIMEOUT in seconds for each step of a request."""

    def __init__(self, path: str = SOCKET, timeout: float = 60.0) -> None:
        self._path = path
        self._timeout = timeout

    def status(self, docker: bool = False) -> dict[str, Any]:
        """Health and mounts; with DOCKER also which containers use them."""
        return self._ask("GET", "/v1/status?docker=1" if docker else "/v1/status")

    def pin(self, environment: str, key_set: str, replace_key: bool = False) -> dict[str, Any]:
        """Pin an environment's verification keys: {"changed", "kids"}."""
        query = "?replace_key=1" if replace_key else ""
        return self._ask("PUT", f"/v1/environments/{quote(environment, safe='')}{query}", key_set)

    def deliver(self, envelopes: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """Deliver envelopes by volume: a receipt for each, or {"reason"} where it is refused."""
        outcomes: dict[str, dict[str, Any]] = {}
        for batch in _batches(envelopes):
            outcomes |= self._ask("PUT", "/v1/mounts", json.dumps(batch))
        return outcomes

    def remove(self, volume: str) -> dict[str, Any]:
        """Take a mount away: {"changed"}."""
        return self._ask("DELETE", f"/v1/mounts/{quote(volume, safe='')}")

    def prove(self, challenge: str) -> dict[str, Any]:
        """Have the holder of the challenged key vouch for the host's present one: {"kid", "proof"}."""
        return self._ask("POST", "/v1/proof", challenge)

    def forget_key(self, kid: str) -> dict[str, Any]:
        """Make the agent give up an older key that no envelope needs: {"changed"}."""
        return self._ask("DELETE", f"/v1/keys/{quote(kid, safe='')}")

    def wipe(self) -> dict[str, Any]:
        """Make the agent forget everything: {"changed"}."""
        return self._ask("POST", "/v1/wipe")

    def wanted(self) -> dict[str, Any]:
        """For the fetcher: {"host", "environments": by name {"sha256" of the held manifest, "wanted": SHA-256 by volume}}."""
        return self._ask("GET", "/v1/manifests")

    def put_manifest(self, environment: str, text: str) -> dict[str, Any]:
        """For the fetcher: bring a manifest, {"changed", "wanted"}."""
        return self._ask("PUT", f"/v1/manifests/{quote(environment, safe='')}", text)

    def report_fetch(self, environment: str, reason: str | None) -> None:
        """For the fetcher: tell why it failed, or None."""
        self._ask("PUT", f"/v1/fetches/{quote(environment, safe='')}", json.dumps({"reason": reason}))

    def _ask(self, method: str, target: str, body: str | None = None) -> dict[str, Any]:
        connection = _UnixConnection(self._path, self._timeout)
        try:
            connection.request(method, target, body=None if body is None else body.encode())
            response = connection.getresponse()
            answer = json.loads(response.read())
        except (FileNotFoundError, ConnectionRefusedError):
            raise AgentMissing(
                f"there is no agent at {self._path}: install it with the role hostseal.secrets.host_agent"
            ) from None
        except PermissionError:
            raise AgentError(f"{self._path} may only be opened by root: use become") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise AgentError(
                f"the agent did not answer in time or broke off ({type(error).__name__}): see 'systemctl status hostseald'"
            ) from None
        finally:
            connection.close()
        if not isinstance(answer, dict):
            raise AgentError("the agent's answer is not what was expected: is it another version?")
        if response.status != 200:
            raise AgentError(str(answer.get("reason", f"status {response.status}")), response.status)
        return answer
