# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""HTTP/1.1 over Unix sockets, as little as Docker's plugin client and our modules need.

One request per connection, JSON answers. Written out because http.server would cost a tenth of the agent's memory and
most of a request's time. Chunked requests are refused: neither Docker nor our clients send them.
"""

from __future__ import annotations

import json
import os
import re
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, unquote

MAX_HEAD_BYTES = 16 << 10
SECONDS_TO_READ = 20.0
SECONDS_TO_WRITE = 10.0

_REQUEST_LINE = re.compile(r"([A-Z]{1,16}) (/[!-~]*) HTTP/1\.[01]")
_HEADER = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*)")
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 409: "Conflict", 413: "Content Too Large"}


class HttpError(Exception):
    """A request that gets STATUS and REASON as its answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(frozen=True)
class Request:
    """PATH is percent-decoded, of QUERY the last of equal names counts."""

    method: str
    path: str
    query: dict[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"Request({self.method} {self.path})"

    def json(self) -> dict[str, Any]:
        """The body as a JSON object; an empty body is an empty one."""
        if not self.body.strip():
            return {}
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            raise HttpError(400, "the body is not JSON") from None
        if not isinstance(value, dict):
            raise HttpError(400, "the body is not a JSON object")
        return value


Handler = Callable[[Request], "tuple[int, dict[str, Any]]"]


def read_request(connection: socket.socket, longest_body: int) -> Request:
    """Read one request; HttpError when it is malformed, too long or too slow, EOFError when nothing came."""
    deadline = time.monotonic() + SECONDS_TO_READ
    data = bytearray()
    while (end := data.find(b"\r\n\r\n", 0, MAX_HEAD_BYTES)) < 0:
        if len(data) >= MAX_HEAD_BYTES:
            raise HttpError(400, "the request's head is too long")
        if not _receive(connection, data, deadline):
            if not data:
                raise EOFError
            raise HttpError(400, "the request's head is cut off")
    method, target, length = _parse_head(bytes(data[:end]).decode("latin-1"))
    del data[: end + 4]
    if length > longest_body:
        # Take it off the socket, else closing would tear down the answer with it.
        unread = min(length, 8 * longest_body) - len(data)
        while unread > 0:
            data.clear()
            if not _receive(connection, data, deadline):
                break
            unread -= len(data)
        raise HttpError(413, f"the body has {length} bytes, at most {longest_body} are allowed")
    while len(data) < length:
        if not _receive(connection, data, deadline):
            raise HttpError(400, "the body is cut off")
    path, _mark, query = target.partition("?")
    return Request(method, unquote(path), dict(parse_qsl(query, keep_blank_values=True)), bytes(data[:length]))


def _parse_head(head: str) -> tuple[str, str, int]:
    """Method, target and length of the body."""
    first, *lines = head.split("\r\n")
    request = _REQUEST_LINE.fullmatch(first)
    if not request:
        raise HttpError(400, "the request line is malformed")
    lengths = set()
    for line in lines:
        header = _HEADER.fullmatch(line)
        if not header:
            raise HttpError(400, "a header is malformed")
        name, value = header[1].lower(), header[2].strip()
        if name == "transfer-encoding":
            raise HttpError(411, "send a Content-Length")
        if name == "content-length":
            if not re.fullmatch(r"[0-9]{1,15}", value):
                raise HttpError(400, "the Content-Length is malformed")
            lengths.add(int(value))
    if len(lengths) > 1:
        raise HttpError(400, "there are two Content-Lengths")
    return request[1], request[2], lengths.pop() if lengths else 0


def _receive(connection: socket.socket, data: bytearray, deadline: float) -> bool:
    """Append what comes next; False at the end of the stream."""
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise HttpError(408, "the request came too slowly")
    connection.settimeout(remaining)
    try:
        more = connection.recv(1 << 16)
    except socket.timeout:
        raise HttpError(408, "the request came too slowly") from None
    data += more
    return bool(more)


def _answer(connection: socket.socket, status: int, payload: dict[str, Any]) -> None:
    body = json.dumps(payload).encode() + b"\n"
    head = (
        f"HTTP/1.1 {status} {_REASONS.get(status, 'Error')}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    connection.settimeout(SECONDS_TO_WRITE)
    connection.sendall(head.encode() + body)


class Service:
    """One listening socket with its handler. At most MOST requests at a time; further ones wait in the backlog."""

    def __init__(self, listener: socket.socket, handler: Handler, longest_body: int, most: int) -> None:
        self.listener = listener
        self.handler = handler
        self.longest_body = longest_body
        self.most = most
        self.running: dict[int, float] = {}

    def serve(self, connection: socket.socket) -> None:
        """Answer the one request of CONNECTION and close it."""
        with connection:
            try:
                try:
                    status, payload = self.handler(read_request(connection, self.longest_body))
                except HttpError as error:
                    status, payload = error.status, {"reason": error.reason, "Err": error.reason}
                except (EOFError, ConnectionError):
                    return
                except Exception as error:
                    # Not its text: a library may have put anything into it.
                    at = error.__traceback__
                    while at is not None and at.tb_next is not None:
                        at = at.tb_next
                    where = f"{os.path.basename(at.tb_frame.f_code.co_filename)}:{at.tb_lineno}" if at else "?"
                    reason = f"internal error {type(error).__name__} at {where}"
                    sys.stderr.write(f"hostseald: {reason}\n")
                    status, payload = 500, {"reason": reason, "Err": reason}
                _answer(connection, status, payload)
            except OSError:
                pass  # the client is gone; what was done stays done


class Server:
    """Serves all services from threads until stop() is called."""

    def __init__(self, services: list[Service]) -> None:
        self._services = services
        self._wake_read, self._wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._stopping = False
        self.last_request = time.monotonic()

    def stop(self) -> None:
        """End run() soon; callable from a signal handler and from any thread."""
        self._stopping = True
        self._wake()

    def _wake(self) -> None:
        with suppress(BlockingIOError):  # a full pipe wakes as well
            os.write(self._wake_write, b"x")

    def busy(self) -> bool:
        """Whether a request is being served."""
        return any(service.running for service in self._services)

    def longest_running(self) -> float:
        """Seconds since the oldest request that is still being served began."""
        begins = [begin for service in self._services for begin in list(service.running.values())]
        return time.monotonic() - min(begins) if begins else 0.0

    def run(self, tick: Callable[[], None], interval: float | None) -> None:
        """Accept until stopped; TICK is called every INTERVAL seconds (None: never), for signs of life."""
        next_tick = time.monotonic()
        while not self._stopping:
            wait = None
            if interval is not None:
                if time.monotonic() >= next_tick:
                    tick()
                    next_tick = time.monotonic() + interval
                wait = max(0.0, next_tick - time.monotonic())
            open_services = {
                service.listener: service for service in self._services if len(service.running) < service.most
            }
            sources: list[socket.socket | int] = [self._wake_read, *open_services]
            for source in select.select(sources, [], [], wait)[0]:
                if isinstance(source, socket.socket):
                    self._accept(open_services[source])
                else:
                    os.read(source, 4096)

    def finish(self, seconds: float) -> None:
        """Wait until the running requests are answered, SECONDS at most."""
        deadline = time.monotonic() + seconds
        while self.busy() and time.monotonic() < deadline:
            time.sleep(0.01)

    def _accept(self, service: Service) -> None:
        try:
            connection, _address = service.listener.accept()
        except BlockingIOError:
            return
        except OSError:
            time.sleep(0.05)  # out of file descriptors: running requests will give some back
            return
        self.last_request = time.monotonic()
        key = id(connection)
        service.running[key] = self.last_request

        def work() -> None:
            try:
                service.serve(connection)
            finally:
                was_full = len(service.running) >= service.most
                del service.running[key]
                if was_full:
                    self._wake()

        threading.Thread(target=work, daemon=True).start()


def call(path: str, method: str, target: str, payload: dict[str, Any], seconds: float) -> tuple[int, dict[str, Any]]:
    """Ask a server of this kind at the Unix socket PATH; OSError or ValueError when no good answer came in time."""
    body = json.dumps(payload).encode()
    deadline = time.monotonic() + seconds
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(seconds)
        connection.connect(path)
        connection.sendall(f"{method} {target} HTTP/1.1\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        data = bytearray()
        try:
            while _receive(connection, data, deadline):
                pass
        except HttpError:
            raise TimeoutError("no answer in time") from None
    head, _gap, rest = bytes(data).partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/1\.[01] ([0-9]{3}) ", head)
    if not status:
        raise ValueError("no HTTP answer")
    answer = json.loads(rest)
    if not isinstance(answer, dict):
        raise ValueError("the answer is not a JSON object")
    return int(status[1]), answer
