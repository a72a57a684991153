# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Fetches from a static HTTPS server what is published for this host, and hands it to the agent, which verifies it.

It has the network and no key of ours. A manifest that has not changed is answered with 304 (RFC 9110 section 13.1.2) and
costs nothing else. After a failure a timed run waits longer from time to time, for a random part of it.
"""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from ._agent_client import AgentClient, AgentError
from ._envelope import MAX_ENVELOPE_BYTES
from ._files import write_json
from ._https import Answer, HttpsClient, HttpsError, tls_context
from ._manifest import MANIFEST_FILE, MAX_MANIFEST_BYTES, envelope_name
from ._model import HostsealError

SECONDS_TO_ASK = 120.0
_LONGEST_PAUSE = 3600
# Handed over before more is fetched: memory is bounded by this and one envelope.
_BATCH_BYTES = 4 << 20
_ETAG = re.compile(r'(W/)?"[!#-~]{0,256}"')


class FetchError(HostsealError):
    """Something is not fetched; the message says why. PAUSE is for how many seconds the server wants to be left alone."""

    def __init__(self, message: str, pause: int = 0) -> None:
        super().__init__(message)
        self.pause = pause


class _NothingThereError(FetchError):
    """The server has no such file."""


class Fetcher:
    """INTERVAL is that of the timer, in seconds. MEMORY is a file of its own, for what it may lose."""

    def __init__(self, server: HttpsClient, agent: AgentClient, memory: str, interval: int) -> None:
        self._server = server
        self._agent = agent
        self._memory = memory
        self._interval = interval

    def run(self, is_timed: bool) -> None:
        """Fetch for all environments of this host; HostsealError when something failed. A timed run may be left out."""
        memory = self._remembered()
        # A clock that was set back must not make the pause longer.
        if is_timed and 0 < memory["not_before"] - time.time() <= _LONGEST_PAUSE:
            return
        asked = self._agent.wanted()
        failed: dict[str, HostsealError] = {}
        for environment, held in sorted(asked["environments"].items()):
            try:
                self._fetch(asked["host"], environment, held, memory["etags"])
            except HostsealError as error:
                failed[environment] = error
        # What was never published: with others that are, it comes to the host in another way.
        absent = {
            name
            for name, error in failed.items()
            if isinstance(error, _NothingThereError) and asked["environments"][name]["sha256"] is None
        }
        if len(absent) < len(asked["environments"]):
            failed = {name: error for name, error in failed.items() if name not in absent}
        for environment in asked["environments"]:
            why = failed.get(environment)
            if not isinstance(why, AgentError):  # the agent knows its own
                self._agent.report_fetch(environment, None if why is None else str(why))
        memory["failures"] = memory["failures"] + 1 if failed else 0
        asked_for = max((error.pause for error in failed.values() if isinstance(error, FetchError)), default=0)
        memory["not_before"] = time.time() + self._pause(memory["failures"], asked_for)
        with suppress(OSError):  # the disk is full: it is only fetched more often
            write_json(self._memory, memory)
        if failed:
            raise HostsealError("; ".join(str(error) for error in failed.values()))

    def _pause(self, failures: int, asked_for: int) -> float:
        """Seconds in which timed runs are left out."""
        if not failures:
            return 0
        doubled: float = self._interval * 2 ** min(failures, 10) * random.uniform(0.5, 1)  # noqa: S311 - spreads load
        return min(_LONGEST_PAUSE, max(doubled, asked_for))

    def _fetch(self, host: str, environment: str, held: Mapping[str, Any], etags: dict[str, list[str]]) -> None:
        folder = f"/{quote(host, safe='')}/{quote(environment, safe='')}"
        known, etag = etags.get(environment, ["", ""])
        headers = {"If-None-Match": etag} if etag and known == held["sha256"] else {}
        answer = self._get(f"{folder}/{MANIFEST_FILE}", MAX_MANIFEST_BYTES, headers)
        wanted = held["wanted"]
        if answer.status == 200:
            text = answer.body.decode("ascii", "replace")
            wanted = self._agent.put_manifest(environment, text)["wanted"]
            etag = answer.headers.get("ETag", "")
            etags[environment] = [envelope_name(text), etag if _ETAG.fullmatch(etag) else ""]
        self._bring(folder, wanted)

    def _bring(self, folder: str, wanted: Mapping[str, str]) -> None:
        """Fetch envelopes and hand them over; what is there goes, whatever is missing."""
        troubles: list[str] = []
        pause = 0
        batch: dict[str, str] = {}
        for volume, name in sorted(wanted.items()):
            try:
                body = self._get(f"{folder}/{quote(name, safe='')}", MAX_ENVELOPE_BYTES).body
            except FetchError as error:
                troubles.append(f"the envelope of mount {volume!r} is withheld: {error}")
                pause = max(pause, error.pause)
                continue
            envelope = body.decode("ascii", "replace")
            if envelope_name(envelope) != name:
                troubles.append(f"the envelope of mount {volume!r} is not the one that the manifest names")
                continue
            batch[volume] = envelope
            if sum(map(len, batch.values())) > _BATCH_BYTES:
                troubles += self._hand_over(batch)
                batch = {}
        troubles += self._hand_over(batch)
        if troubles:
            raise FetchError("; ".join(troubles), pause)

    def _hand_over(self, batch: Mapping[str, str]) -> list[str]:
        return [outcome["reason"] for outcome in self._agent.deliver(batch).values() if "reason" in outcome]

    def _get(self, path: str, most: int, headers: Mapping[str, str] | None = None) -> Answer:
        try:
            answer = self._server.ask("GET", path, time.monotonic() + SECONDS_TO_ASK, most, headers=headers)
        except HttpsError as error:
            raise FetchError(str(error)) from None
        if answer.status == 200 or (answer.status == 304 and headers):
            return answer
        where = f"{self._server.name} answers {answer.status} for {path}:"
        if answer.status in (404, 410):
            raise _NothingThereError(f"{where} publish it with hostseal.secrets.seal, or check hostseal_pull_url")
        if answer.status in (401, 403):
            raise FetchError(f"{where} it does not let this host in, check hostseal_pull_client_cert and its rights")
        if 300 <= answer.status < 400:
            raise FetchError(f"{where} redirects are not followed, set hostseal_pull_url to where it leads")
        retry = answer.headers.get("Retry-After", "")
        raise FetchError(f"{where} it can't answer now", int(retry) if re.fullmatch("[0-9]{1,6}", retry) else 0)

    def _remembered(self) -> dict[str, Any]:
        """etags: by environment the SHA-256 of a manifest that the agent has, and its entity tag."""
        fresh: dict[str, Any] = {"etags": {}, "failures": 0, "not_before": 0}
        try:
            with open(self._memory, encoding="utf-8") as file:
                found = json.load(file)
            return found if found.keys() == fresh.keys() else fresh
        except (OSError, ValueError, AttributeError):
            return fresh


def load_fetcher(agent: str, credentials: str, state: str) -> Fetcher:
    """AGENT is the agent's socket; CREDENTIALS and STATE are what systemd's LoadCredential= and StateDirectory= made."""
    try:
        with open(os.path.join(credentials, "fetch.json"), encoding="utf-8") as file:
            settings = json.load(file)
        server = HttpsClient("the server", str(settings["url"]), tls_context(credentials, "fetch"))
        return Fetcher(server, AgentClient(agent), os.path.join(state, "memory.json"), int(settings["interval"]))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise HostsealError(
            f"the fetcher's files can't be read ({type(error).__name__}): run the role hostseal.secrets.host_agent"
        ) from None
