# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The agent's side of the bridge's socket. Every call has a deadline and may fail."""

from __future__ import annotations

from typing import Any

from ._http import call
from ._model import HostsealError, Token

# The bridge itself gives up a little earlier, with a reason.
SECONDS_TO_ASK = 10.0


class BridgeError(HostsealError):
    """No token for now; the message says why."""


class BridgeClient:
    """Talks to the bridge's socket at PATH."""

    def __init__(self, path: str) -> None:
        self._path = path

    def token(self, environment: str, mount: str, token: Token) -> dict[str, Any]:
        """A wrapped token: {"token", "accessor" of the token inside, "seconds" it can be unwrapped}."""
        asked = {"environment": environment, "mount": mount, "role": token.role, "wrap_ttl": token.wrap_ttl}
        return self._call("/v1/token", asked)

    def is_used(self, token: str) -> bool:
        """Whether a wrapped token was unwrapped, or has expired."""
        return bool(self._call("/v1/lookup", {"token": token})["used"])

    def end(self, accessor: str) -> None:
        """Revoke a token."""
        self._call("/v1/end", {"accessor": accessor})

    def _call(self, target: str, payload: dict[str, Any]) -> dict[str, Any]:
        try:
            status, answer = call(self._path, "POST", target, payload, SECONDS_TO_ASK)
        except FileNotFoundError:
            raise BridgeError(
                "this host has no bridge to Vault: set hostseal_bridge_address and run the role hostseal.secrets.host_agent"
            ) from None
        except TimeoutError:
            raise BridgeError(f"the bridge did not answer in {SECONDS_TO_ASK:.0f} s") from None
        except (OSError, ValueError) as error:
            raise BridgeError(
                f"the bridge does not answer ({type(error).__name__}): see 'systemctl status hostseal-bridge'"
            ) from None
        if status != 200:
            raise BridgeError(str(answer.get("reason")))
        return answer
