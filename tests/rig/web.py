# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A static HTTPS server with entity tags: the files of a directory, and answers that a test wants instead."""

from __future__ import annotations

import hashlib
import ssl
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from tests.rig import certificates
from tests.rig.certificates import Pair


@dataclass(frozen=True)
class Instead:
    """What is answered in the place of a file."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


class WebServer:
    """Serves ROOT at ADDRESS below /files/. seen has (path, status) of each request; clients: a certificate is needed."""

    def __init__(self, root: Path, folder: Path, address: str = "127.0.0.1", clients: bool = False) -> None:
        self.root = root
        self.seen: list[tuple[str, int]] = []
        # By the end of a path.
        self.instead: dict[str, Instead] = {}
        self.authority: Pair = certificates.authority(folder, "web-ca")
        identity = certificates.issue(self.authority, folder, "web", "web", address=address)
        self._server = ThreadingHTTPServer((address, 0), self._handler())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(identity.cert, identity.key)
        if clients:
            context.load_verify_locations(self.authority.cert)
            context.verify_mode = ssl.CERT_REQUIRED
        # The handshake is the handler's thread's: a client that gives up must not stop others.
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://{address}:{self._server.server_port}/files"

    def __enter__(self) -> WebServer:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def take_seen(self) -> list[tuple[str, int]]:
        """Requests since the last call."""
        seen, self.seen = self.seen, []
        return seen

    def _answer(self, path: str, tag: str | None) -> Instead:
        for end, instead in self.instead.items():
            if path.endswith(end):
                return instead
        file = (self.root / unquote(path).removeprefix("/files/")).resolve()
        if self.root.resolve() not in file.parents or not file.is_file():
            return Instead(404)
        body = file.read_bytes()
        etag = f'"{hashlib.sha256(body).hexdigest()}"'
        return Instead(304, b"", {"ETag": etag}) if tag == etag else Instead(200, body, {"ETag": etag})

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                answer = server._answer(self.path, self.headers.get("If-None-Match"))
                server.seen.append((self.path.removeprefix("/files/"), answer.status))
                self.send_response_only(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                if answer.status != 304:
                    self.send_header("Content-Length", str(len(answer.body)))
                self.end_headers()
                self.wfile.write(answer.body)

            def log_message(self, *_arguments: Any) -> None:
                """No lines on the test's output."""

        return Handler
