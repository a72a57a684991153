# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Stands in for AWX's API, as no AWX runs here: keeps what it is sent if AWX would take it, and refuses the rest.

Only what the modules of awx.awx ask of version 2 of the API, https://ansible.readthedocs.io/projects/awx/.
"""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from tests.awx_schemas import SCHEMAS, problems
from tests.rig.paths import ROOT

TOKEN = "token-of-the-administrator"
Item = dict[str, Any]
# Fields that hold the id of something, and what it is.
_REFERENCES = {
    "organization": "organizations",
    "credential": "credentials",
    "credential_type": "credential_types",
    "project": "projects",
    "inventory": "inventories",
    "execution_environment": "execution_environments",
}
_DEFAULTS: dict[str, Item] = {
    "credentials": {"inputs": {}},
    "inventories": {"kind": "", "host_filter": None},
    "projects": {"scm_revision": "0" * 40},
}
_PATH = re.compile(r"/api/v2/(\w+)/(?:(\d+)/(?:(survey_spec|credentials)/)?)?")


class Refusal(Exception):
    """An answer other than success: a status and why."""

    def __init__(self, status: int, reason: Any) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


class AWX:
    """What it holds, and the writes that it was asked for, refused ones too."""

    def __init__(self) -> None:
        self.items: dict[str, dict[int, Item]] = {kind: {} for kind in (*SCHEMAS, "organizations")}
        self.surveys: dict[int, Item] = {}
        self.attached: dict[int, list[int]] = {}
        self.writes: list[tuple[str, str, Item]] = []
        self._add("organizations", {"name": "Default"})
        self._add("credential_types", {"name": "Machine", "kind": "ssh", "managed": True})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"awx": self}))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> AWX:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def named(self, kind: str) -> dict[str, Item]:
        """All of a kind by name."""
        return {item["name"]: item for item in self.items[kind].values()}

    def answer(self, method: str, path: str, query: dict[str, str], payload: Item | None) -> tuple[int, Any]:
        """Status and body of a request."""
        found = _PATH.fullmatch(path)
        if not found or found[1] not in self.items:
            raise Refusal(404, f"{path} is not known")
        kind, number, part = found[1], int(found[2] or 0), found[3]
        if method != "GET":
            self.writes.append((method, path, dict(payload or {})))
        if not number:
            return (201, self._create(kind, payload or {})) if method == "POST" else (200, self._listed(kind, query))
        if number not in self.items[kind]:
            raise Refusal(404, f"{path} does not exist")
        if part == "survey_spec":
            return 200, self._survey(number, payload)
        if part == "credentials":
            return (204, None) if self._attach(number, payload) else (200, self._page(part, self.attached[number]))
        if method == "PATCH":
            self._check(kind, {**self._writable(kind, number), **(payload or {})})
            if kind == "credential_types" and payload and self._is_in_use(number):
                raise Refusal(403, "Modifications to inputs are not allowed for credential types that are in use")
            self.items[kind][number].update(payload or {})
        return 200, self.items[kind][number]

    def _add(self, kind: str, payload: Item) -> Item:
        number = len(self.items[kind]) + 1
        url = f"/api/v2/{kind}/{number}/"
        related = {"survey_spec": f"{url}survey_spec/"}
        item = {"id": number, "url": url, "type": kind, "related": related, "summary_fields": {}}
        # As AWX does with a choice that is null.
        chosen = {"kind": ""} if payload.get("kind", "") is None else {}
        self.items[kind][number] = {**item, **_DEFAULTS.get(kind, {}), **payload, **chosen}
        self.attached.setdefault(number, [])
        return self.items[kind][number]

    def _create(self, kind: str, payload: Item) -> Item:
        self._check(kind, payload)
        if any(payload["name"] == item["name"] for item in self.items[kind].values()):
            raise Refusal(400, {"__all__": [f"{kind} with this name already exists."]})
        return self._add(kind, payload)

    def _check(self, kind: str, payload: Item) -> None:
        found = problems(kind, payload)
        for name, other in _REFERENCES.items():
            if payload.get(name) is not None and payload[name] not in self.items[other]:
                found.append(f"{name} {payload[name]} does not exist")
        # The project is this repository.
        if kind == "job_templates" and not (ROOT / payload["playbook"]).is_file():
            found.append("Playbook not found for project.")
        if found:
            raise Refusal(400, {"__all__": found})

    def _writable(self, kind: str, number: int) -> Item:
        return {name: value for name, value in self.items[kind][number].items() if name in SCHEMAS[kind]["properties"]}

    def _is_in_use(self, number: int) -> bool:
        return any(item["credential_type"] == number for item in self.items["credentials"].values())

    def _listed(self, kind: str, query: dict[str, str]) -> Item:
        fits = [
            number
            for number, item in self.items[kind].items()
            if all(str(item.get(name)) == value for name, value in query.items())
        ]
        return self._page(kind, fits)

    def _page(self, kind: str, numbers: list[int]) -> Item:
        results = [self.items[kind][number] for number in numbers]
        return {"count": len(results), "next": None, "previous": None, "results": results}

    def _survey(self, number: int, payload: Item | None) -> Item:
        if payload is None:
            return self.surveys.get(number, {})
        found = problems("survey_spec", payload)
        if found:
            raise Refusal(400, {"error": found})
        self.surveys[number] = payload
        return {}

    def _attach(self, number: int, payload: Item | None) -> bool:
        if payload is None:
            return False
        kinds = [self.items["credentials"][other]["credential_type"] for other in self.attached[number]]
        if payload.get("disassociate"):
            self.attached[number].remove(payload["id"])
        elif self.items["credentials"][payload["id"]]["credential_type"] in kinds:
            raise Refusal(400, {"error": "Cannot assign multiple credentials of the same type."})
        else:
            self.attached[number].append(payload["id"])
        return True


class _Handler(BaseHTTPRequestHandler):
    awx: AWX

    def _handle(self) -> None:
        split = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        # A GET of the modules has the body {}.
        text = self.rfile.read(length)
        payload = json.loads(text) if length and self.command != "GET" else None
        try:
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                raise Refusal(401, "no token")
            status, body = self.awx.answer(self.command, split.path, dict(parse_qsl(split.query)), payload)
        except Refusal as refusal:
            status, body = refusal.status, refusal.reason
        content = b"" if body is None else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-API-Product-Name", "AWX")
        self.send_header("X-API-Product-Version", "24.6.1")
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = do_DELETE = _handle  # noqa: N815

    def log_message(self, *_arguments: Any) -> None:  # pylint: disable=arguments-differ
        """Nothing."""
