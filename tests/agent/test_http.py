# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Malformed and slow HTTP on the agent's sockets: an answer or a closed connection, never a hang or a traceback."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostseald import _http
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.agent.harness import Environment, RunningAgent, request


def echo(asked: _http.Request) -> tuple[int, dict[str, object]]:
    return 200, {"method": asked.method, "path": asked.path, "query": asked.query, "body": len(asked.body)}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A server that echoes, with the agent's own code."""
    path = tmp_path_factory.mktemp("http") / "s"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)
    listener.setblocking(False)
    running = _http.Server([_http.Service(listener, echo, 1000, most=4)])
    thread = threading.Thread(target=running.run, args=(lambda: None, None))
    thread.start()
    yield path
    running.stop()
    thread.join(5)
    listener.close()
    assert not thread.is_alive()


def exchange(path: Path, *pieces: bytes, pause: float = 0.0, finish: bool = True) -> bytes:
    """Send PIECES; all that comes back."""
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as client:
        client.settimeout(10)
        client.connect(str(path))
        answer = b""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for piece in pieces:
                client.sendall(piece)
                time.sleep(pause)
            if finish:
                client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while more := client.recv(65536):
                answer += more
        return answer


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 200),
        (b"GET / HTTP/1.0\r\n\r\n", 200),
        (b"GET /\r\n\r\n", 400),
        (b"GET / HTTP/2\r\n\r\n", 400),
        (b"get / HTTP/1.1\r\n\r\n", 400),
        (b"GET http://x/ HTTP/1.1\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n folded: x\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\na: \x00\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1e3\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 10\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: 1001\r\n\r\nabc", 413),
        (b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 411),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 10_000 + b"\r\n", 400),
        (b"GET / HTTP/1.1", 400),
    ],
)
def test_heads(server: Path, sent: bytes, status: int) -> None:
    answer = exchange(server, sent)
    assert status_of(answer) == status
    assert b"Connection: close" in answer
    json.loads(answer.partition(b"\r\n\r\n")[2])


def test_nothing_gets_nothing(server: Path) -> None:
    assert exchange(server) == b""


def test_pieces_make_a_request(server: Path) -> None:
    answer = exchange(
        server,
        b"PO",
        b"ST /a%20b?x=1&x=2&y HTTP/1.1\r\nContent-Le",
        b"ngth: 3\r\n\r",
        b"\nab",
        b"c",
        pause=0.02,
        finish=False,
    )
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {
        "method": "POST",
        "path": "/a b",
        "query": {"x": "2", "y": ""},
        "body": 3,
    }


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.binary(max_size=400),
        st.builds(
            lambda line, headers, body: line + b"\r\n" + b"".join(h + b"\r\n" for h in headers) + b"\r\n" + body,
            st.sampled_from([b"GET / HTTP/1.1", b"POST /x HTTP/1.1", b"PUT /%ff%00 HTTP/1.1"]) | st.binary(max_size=40),
            st.lists(
                st.sampled_from([b"Content-Length: 5", b"Content-Length: 0", b"Transfer-Encoding: x", b"a:b"])
                | st.binary(max_size=40),
                max_size=4,
            ),
            st.binary(max_size=60),
        ),
    )
)
def test_whatever_comes_is_answered(server: Path, sent: bytes) -> None:
    answer = exchange(server, sent)
    if sent:
        assert status_of(answer) in (200, 400, 411, 413)


def test_slow_and_silent_clients_hold_up_nobody(server: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "SECONDS_TO_READ", 0.5)
    silent = []
    for _number in range(12):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(server))
        client.sendall(b"GET / HT")
        silent.append(client)
    begin = time.monotonic()
    # Twelve of them, four at a time, half a second each: ours comes after three rounds at most.
    assert status_of(exchange(server, b"GET / HTTP/1.1\r\n\r\n")) == 200
    assert time.monotonic() - begin < 4
    for client in silent:
        client.close()


def test_bodies_that_docker_would_not_send(agent: RunningAgent) -> None:
    for body in (b"[]", b"{", b"null", b'{"Name": 7}', b'{"Name": ""}', b"{}", b"\xff", b"[" * 100_000):
        for call in ("Create", "Mount", "Unmount", "Path", "Get", "Remove"):
            status, answer = request(agent.plugin_socket, "POST", f"/VolumeDriver.{call}", body)
            assert status == 400, (call, body[:20])
            assert answer["Err"]
    assert "Traceback" not in agent.log


def test_unknown_requests(agent: RunningAgent) -> None:
    assert request(agent.plugin_socket, "POST", "/VolumeDriver.Nope")[0] == 404
    assert request(agent.plugin_socket, "GET", "/VolumeDriver.List")[0] == 404
    for method, target in (
        ("GET", "/"),
        ("GET", "/v2/status"),
        ("POST", "/v1/mounts/prod.db"),
        ("DELETE", "/v1/wipe"),
    ):
        assert agent.control(method, target)[0] == 404


def test_sigterm_answers_what_runs_and_the_socket_keeps_the_rest(agent: RunningAgent, prod: Environment) -> None:
    agent.deliver(prod.envelope())
    assert agent.stop() == 0
    answers: list[str] = []
    waiting = threading.Thread(target=lambda: answers.append(str(agent.mount())))
    waiting.start()
    time.sleep(0.2)
    assert not answers
    agent.start()
    waiting.join(10)
    assert answers
