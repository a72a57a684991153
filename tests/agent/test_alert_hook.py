# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""The program that hands alerts over, run as the unit does: a real command, a real https server."""

from __future__ import annotations

import http.server
import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hostseald import _alert_hook

from tests.agent.harness import AGENT
from tests.rig import certificates

ALERT = {"time": 1, "host": "db1", "alert": "used", "volume": "prod.db"}


class Webhook(http.server.ThreadingHTTPServer):
    """Keeps what is posted; the first FAILURES posts are answered with 500."""

    def __init__(self, identity: certificates.Pair) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.posts: list[Any] = []
        self.failures = 0
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(identity.cert, identity.key)
        self.socket = context.wrap_socket(self.socket, server_side=True)
        self.url = f"https://127.0.0.1:{self.server_address[1]}/alerts"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Webhook

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.posts.append((self.path, self.headers["Content-Type"], body))
        self.send_response(500 if len(self.server.posts) <= self.server.failures else 204)
        self.end_headers()


@pytest.fixture
def webhook(tmp_path: Path) -> Iterator[Webhook]:
    identity = certificates.issue(certificates.authority(tmp_path), tmp_path, "server", "localhost")
    with Webhook(identity) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def prepare(root: Path, settings: Any) -> None:
    """One alert, which is to be taken away, and one that is being written at this moment."""
    folder = root / "run/hostseal/alerts"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "1-0.json").write_text(json.dumps(ALERT))
    (folder / ".2-0.json").write_text("{")
    (root / "alerts.json").write_text(json.dumps(settings))


def run(root: Path, settings: Any) -> subprocess.CompletedProcess[str]:
    """Run the program."""
    prepare(root, settings)
    environment = {**os.environ, "CREDENTIALS_DIRECTORY": str(root), "SSL_CERT_FILE": str(root / "ca.pem")}
    command = [sys.executable, "-I", str(AGENT), "alert", "--root", str(root)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)


def left(root: Path) -> list[str]:
    return sorted(os.listdir(root / "run/hostseal/alerts"))


def test_command_and_webhook_get_the_alert(tmp_path: Path, webhook: Webhook) -> None:
    webhook.failures = 1
    seen = tmp_path / "seen"
    done = run(tmp_path, {"command": ["tee", "-a", str(seen)], "webhook": webhook.url})
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(seen.read_text()) == ALERT
    assert webhook.posts == [("/alerts", "application/json", ALERT)] * 2
    assert left(tmp_path) == [".2-0.json"]


def test_what_fails_is_tried_three_times_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tries = tmp_path / "tries"
    prepare(tmp_path, {"command": ["sh", "-c", f"echo x >> {tries}; exit 1"], "webhook": "https://127.0.0.1:1/"})
    pauses: list[float] = []
    monkeypatch.setattr(_alert_hook, "time", SimpleNamespace(sleep=pauses.append))
    _alert_hook.hand_over(str(tmp_path / "run/hostseal/alerts"), str(tmp_path))
    assert tries.read_text() == "x\n" * 3
    assert pauses == [0.0, 2.0, 10.0] * 2
    told = capsys.readouterr().err
    assert "the command of alerts failed for 1-0.json" in told
    assert "the webhook of alerts failed for 1-0.json" in told
    assert left(tmp_path) == [".2-0.json"]


def test_settings_that_are_not_there(tmp_path: Path) -> None:
    done = run(tmp_path, {"command": 1})
    assert done.returncode == 1
    assert "run the role again" in done.stderr
    assert "1-0.json" in left(tmp_path)
