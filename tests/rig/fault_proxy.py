# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A TLS proxy that fails on request: chosen answers, delays and lost connections before a real server."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal
from urllib.parse import urlsplit

from tests.rig.certificates import Pair

Drop = Literal["before", "after"]
# Between two peers only (RFC 9110, 7.6.1), or set anew by the proxy.
_HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host", "content-length"}


@dataclass
class Rule:
    """What happens to the next `count` requests that match, after `skip` of them (count=None: to all of them).

    `status` is answered instead of forwarding, with {"errors": [...]} as its body; `delay` seconds pass before anything
    else; `drop` closes the connection "before" the request is forwarded, or "after" the server answered (lost answer).
    """

    path: str = ".*"
    method: str = ".*"
    count: int | None = 1
    skip: int = 0
    status: int | None = None
    errors: Sequence[str] = ("injected fault",)
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0
    drop: Drop | None = None
    used: int = 0

    def takes(self, method: str, path: str) -> bool:
        """Whether this rule is for the request; counts it when it matches."""
        if self.count == 0 or not re.fullmatch(self.method, method) or not re.search(self.path, path):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.count is not None:
            self.count -= 1
        self.used += 1
        return True


@dataclass(frozen=True)
class Seen:
    """One request: `status` is None when the client got no answer; `forwarded` when the server got the request."""

    method: str
    path: str
    status: int | None
    forwarded: bool


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    proxy: FaultProxy

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up, or one that does not trust the certificate: its own affair, and part of tests."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # A client's idle connection must not hold a thread for good.
    timeout = 60
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr: the proxy records what it sees."""

    def _serve(self) -> None:
        self.server.proxy.handle(self)

    do_DELETE = do_GET = do_HEAD = do_LIST = do_PATCH = do_POST = do_PUT = do_SCAN = _serve  # noqa: N815 - so http.server finds them


class FaultProxy:
    """In front of TARGET (https URL). A context manager; `url` is what clients use, with the same CA as the server's.

    TLS ends here, so a client's certificate does not reach the server.
    """

    def __init__(
        self,
        target: str,
        ca_cert: str,
        identity: Pair,
        timeout: float = 60,
        address: str = "127.0.0.1",
        clients: bool = False,
    ) -> None:
        """At ADDRESS, which IDENTITY has to be for. With CLIENTS, only for those with a certificate under the same CA."""
        parts = urlsplit(target)
        self._host, self._port = str(parts.hostname), parts.port or 443
        self._trust = ssl.create_default_context(cafile=ca_cert)
        self._timeout = timeout
        self._lock = threading.Lock()
        self._rules: list[Rule] = []
        self._seen: list[Seen] = []
        self._server = _Server((address, 0), _Handler)
        self._server.proxy = self
        offer = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        offer.load_cert_chain(identity.cert, identity.key)
        if clients:
            offer.verify_mode = ssl.CERT_REQUIRED
            offer.load_verify_locations(ca_cert)
        # The handshake belongs to the connection's own thread: a silent client must not stop the others.
        self._server.socket = offer.wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False, suppress_ragged_eofs=True
        )
        self.url = f"https://{address}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.socket.close()
        self._thread.join()

    # -- use ----------------------------------------------------------------------------------------------------

    def add(self, rule: Rule) -> Rule:
        """Put RULE after those that are there; the first that takes a request decides. Its `used` counts."""
        with self._lock:
            self._rules.append(rule)
        return rule

    def clear(self) -> None:
        """Forget all rules; what was seen stays."""
        with self._lock:
            self._rules.clear()

    def seen(self, path: str = ".*", method: str = ".*") -> list[Seen]:
        """The requests whose path (with query) and method match these patterns, in the order of their ends."""
        with self._lock:
            return [one for one in self._seen if re.fullmatch(method, one.method) and re.search(path, one.path)]

    # -- work ---------------------------------------------------------------------------------------------------

    def handle(self, request: _Handler) -> None:
        """One request, in its connection's thread."""
        # The whole body is read before a fault: an early close with unread bytes would be a reset, another fault.
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        with self._lock:
            rule = next((one for one in self._rules if one.takes(request.command, request.path)), None)
        if rule and rule.delay:
            time.sleep(rule.delay)
        if rule and rule.drop == "before":
            self._lose(request, forwarded=False)
        elif rule and rule.status is not None:
            answer = json.dumps({"errors": list(rule.errors)}).encode()
            fields = [("Content-Type", "application/json"), *rule.headers.items()]
            self._answer(request, rule.status, fields, answer, forwarded=False)
        else:
            self._forward(request, body, rule)

    def _forward(self, request: _Handler, body: bytes, rule: Rule | None) -> None:
        connection = http.client.HTTPSConnection(self._host, self._port, context=self._trust, timeout=self._timeout)
        try:
            headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP}
            connection.request(request.command, request.path, body=body or None, headers=headers)
            reply = connection.getresponse()
            content = reply.read()
        except (OSError, http.client.HTTPException):
            # As without a proxy: a server that does not answer is a connection that breaks.
            self._lose(request, forwarded=True)
            return
        finally:
            connection.close()
        if rule and rule.drop == "after":
            self._lose(request, forwarded=True)
            return
        fields = [(name, value) for name, value in reply.getheaders() if name.lower() not in _HOP_BY_HOP]
        self._answer(request, reply.status, fields, content, forwarded=True)

    def _record(self, request: _Handler, status: int | None, forwarded: bool) -> None:
        with self._lock:
            self._seen.append(Seen(request.command, request.path, status, forwarded))

    def _lose(self, request: _Handler, forwarded: bool) -> None:
        self._record(request, None, forwarded)
        request.close_connection = True
        try:
            request.connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the client was faster

    def _answer(
        self, request: _Handler, status: int, fields: Sequence[tuple[str, str]], content: bytes, forwarded: bool
    ) -> None:
        # Before the answer: a test that has the answer may count at once.
        self._record(request, status, forwarded)
        request.send_response_only(status)
        for name, value in fields:
            request.send_header(name, value)
        if status != http.HTTPStatus.NO_CONTENT:
            request.send_header("Content-Length", str(len(content)))
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(content)
