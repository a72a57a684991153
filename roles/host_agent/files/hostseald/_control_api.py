# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The control socket: keys, envelopes, holds of services, wipe, status.

And the fetcher's socket, with what it needs. Errors are {"reason": text}.
"""

from __future__ import annotations

from typing import Any

from ._agent import Agent
from ._envelope import MAX_ENVELOPE_BYTES
from ._http import HttpError, Request
from ._model import MAX_ENVELOPES, HostsealError, check_name, split_volume
from ._users import SYSTEMD

# The two newlines of an envelope take a byte more in JSON.
MAX_BODY_BYTES = MAX_ENVELOPE_BYTES + 1024


class ControlApi:
    """Requests to method calls."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def handle(self, request: Request) -> tuple[int, dict[str, Any]]:
        """Answer one request."""
        try:
            return 200, self._answer(request)
        except HostsealError as error:
            raise HttpError(409, str(error)) from None
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            raise HttpError(409, f"a disk of the host failed: {error.strerror}{where}") from None

    def _answer(self, request: Request) -> dict[str, Any]:
        route, name = _route(request)
        if route == "GET v1/status":
            return self._agent.status.read(docker=_flag(request, "docker"))
        if route == "PUT v1/environments/":
            return self._agent.keys.pin(check_name("environment", name), _text(request), _flag(request, "replace_key"))
        if route in ("PUT v1/mounts/", "DELETE v1/mounts/"):
            split_volume(name)
            return (
                self._deliver_one(name, _text(request))
                if request.method == "PUT"
                else self._agent.deliveries.remove(name)
            )
        if route == "PUT v1/holds/":
            return {"path": self._agent.mounts.mount(name, SYSTEMD)}
        if route == "DELETE v1/holds/":
            self._agent.mounts.unmount(name, SYSTEMD)
            return {}
        if route == "PUT v1/mounts":
            return self._agent.deliveries.deliver(_envelopes(request))
        if route == "POST v1/proof":
            return self._agent.keys.prove(_text(request))
        if route == "DELETE v1/keys/":
            return self._agent.keys.forget_key(name)
        if route == "POST v1/wipe":
            outcome = self._agent.deliveries.wipe_all()
            self._agent.pull.forget()
            return outcome
        raise HttpError(404, "there is no such request")

    def _deliver_one(self, volume: str, envelope: str) -> dict[str, Any]:
        outcome = self._agent.deliveries.deliver({volume: envelope})[volume]
        if "reason" in outcome:
            raise HttpError(409, outcome["reason"])
        return outcome


class FetchApi(ControlApi):
    """What the fetcher may ask, at a socket of its own: it has the network, and is not trusted."""

    def _answer(self, request: Request) -> dict[str, Any]:
        route, name = _route(request)
        if route == "GET v1/manifests":
            return self._agent.pull.wanted()
        if route == "PUT v1/manifests/":
            return self._agent.pull.accept(check_name("environment", name), _text(request))
        if route == "PUT v1/mounts":
            return self._agent.pull.deliver(_envelopes(request))
        if route == "PUT v1/fetches/":
            reason = request.json().get("reason")
            return self._agent.pull.report(check_name("environment", name), None if reason is None else str(reason))
        raise HttpError(404, "there is no such request")


def _route(request: Request) -> tuple[str, str]:
    """Method and path of a request without the name at its end, and that name."""
    version, _slash, rest = request.path[1:].partition("/")
    kind, _slash, name = rest.partition("/")
    return f"{request.method} {version}/{kind}{'/' if name else ''}", name


def _envelopes(request: Request) -> dict[str, str]:
    """Volume to envelope; what is wrong with one volume's envelope is for the agent to find."""
    envelopes = request.json()
    if len(envelopes) > MAX_ENVELOPES:
        raise HttpError(413, f"there are {len(envelopes)} envelopes, at most {MAX_ENVELOPES} are allowed at once")
    for volume, envelope in envelopes.items():
        split_volume(volume)
        if not isinstance(envelope, str):
            raise HttpError(400, "an envelope is not a text")
    return envelopes


def _flag(request: Request, name: str) -> bool:
    return request.query.get(name) == "1"


def _text(request: Request) -> str:
    """JOSE is ASCII; what is not becomes a character that its reader refuses."""
    return request.body.decode("ascii", "replace")
