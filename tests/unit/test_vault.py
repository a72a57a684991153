# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the vault backend does without a server: how batches are cut, what is refused before a request is made."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError
from ansible_collections.hostseal.secrets.plugins.plugin_utils import _vault
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends import Binding, vault
from hypothesis import given
from hypothesis import strategies as st

from tests.markers import Markers
from tests.rig import certificates

# Nothing listens there.
NOWHERE = "https://127.0.0.1:9"


@given(st.lists(st.integers(0, 30 << 20), max_size=1200), st.integers(1, 3), st.integers(0, 2))
def test_parts_are_whole_and_within_the_limits(sizes: list[int], members: int, spare: int) -> None:
    class Sized(str):
        """Some megabytes that are not there."""

        size: int

        def __len__(self) -> int:
            return self.size

    def entry(size: int) -> dict[str, str]:
        text = Sized("x")
        text.size = size
        return {"a": text, **{str(number): "" for number in range(1, members)}}

    batch = [entry(size) for size in sizes]
    parts = vault._parts(batch, spare)
    assert [index for part in parts for index in range(part.start, part.stop)] == list(range(len(batch)))
    for part in parts:
        count = part.stop - part.start
        # Names and values of all members, the name batch_input, and the names beside it.
        assert count > 0
        assert count * members * 2 + 1 + spare <= 1000
        assert count == 1 or sum(sizes[part]) <= vault.MAX_CHARACTERS
    # As few as can be: each part with the first item of the next would be too large.
    for part, after in zip(parts, parts[1:], strict=False):
        full = (after.start - part.start + 1) * members * 2 + 1 + spare > 1000
        assert full or sum(sizes[part]) + sizes[after.start] > vault.MAX_CHARACTERS


def test_the_first_failure_is_told_and_the_rest_not_begun() -> None:
    begun = []

    def ask(part: slice) -> list[str]:
        begun.append(part.start)
        time.sleep(0.02)  # as long as a server takes
        raise HostsealError(f"part {part.start}")

    with pytest.raises(HostsealError, match="part 0"):
        vault._in_parallel(ask, [slice(number, number + 1) for number in range(100)])
    assert len(begun) < 50


@pytest.mark.parametrize(
    ("url", "message"),
    [
        (None, "needs url, or the environment variable VAULT_ADDR"),
        ("vault.example.com:8200", "not an http or https address"),
        ("ftp://vault.example.com", "not an http or https address"),
        ("https://[::1", "not an address"),
        ("http://vault.example.com:8200", "not encrypted: use https"),
        ("https://ann:hunter2hunter2@vault.example.com", "url holds a user name or password"),
    ],
)
def test_odd_addresses_are_refused(url: str | None, message: str) -> None:
    with pytest.raises(HostsealError, match=message) as caught:
        _vault.VaultSession({"url": url, "token": "t"})
    assert "hunter2" not in str(caught.value)


def test_no_encryption_needs_a_word_or_a_local_address() -> None:
    assert _vault._address({"url": "http://127.0.0.1:8200/"}) == "http://127.0.0.1:8200"
    assert _vault._address({"url": "http://[::1]:8200"}) == "http://[::1]:8200"
    assert _vault._address({"url": "http://vault.example.com", "validate_certs": False}) == "http://vault.example.com"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"timeout": 0}, "timeout 0 is less than 1"),
        ({"retries": -1}, "retries -1 is less than 0"),
        ({"ca_cert": "/nowhere/ca.pem"}, "ca_cert '/nowhere/ca.pem' does not exist"),
        ({"cert_auth_public_key": "/nowhere/c.pem"}, "cert_auth_public_key '/nowhere/c.pem' does not exist"),
        ({"auth_method": "approle"}, "auth_method approle needs role_id"),
        ({"auth_method": "approle", "role_id": "r"}, "needs secret_id or secret_id_file"),
        ({"auth_method": "jwt", "role_id": "r"}, "needs jwt or jwt_file"),
        ({"auth_method": "userpass"}, "needs username"),
        ({"auth_method": "userpass", "username": "ann"}, "needs password or password_file"),
        ({"auth_method": "userpass", "username": "ann", "password_file": "/nowhere/p"}, "password_file /nowhere/p can"),
        ({"auth_method": "cert"}, "needs cert_auth_public_key"),
        ({"token": None, "token_path": "/nowhere"}, "give token, VAULT_TOKEN or the file /nowhere/.vault-token"),
        ({"token": "two\nlines of a token"}, "token or namespace holds a character that can't be sent"),
    ],
)
def test_what_is_missing_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(HostsealError, match=message) as caught:
        _vault.VaultSession({"url": NOWHERE, "token": "t", **options})
    assert "lines of" not in str(caught.value)


def test_files_that_are_no_certificates_are_named(tmp_path: Path) -> None:
    ca = certificates.authority(tmp_path)
    pair = certificates.issue(ca, tmp_path, "client", "ann", client=True)
    other = certificates.issue(ca, tmp_path, "other", "ben", client=True)
    locked = tmp_path / "locked.pem"
    subprocess.run(
        ["openssl", "ec", "-aes128", "-passout", "pass:x", "-in", pair.key, "-out", locked],
        check=True,
        capture_output=True,
    )
    odd = tmp_path / "odd"
    odd.write_bytes(b"no certificate\xff")
    for options, message in (
        ({"ca_cert": str(odd)}, "holds no certificate in PEM"),
        ({"cert_auth_public_key": str(odd)}, "are no PEM"),
        ({"cert_auth_public_key": str(pair.cert), "cert_auth_private_key": str(other.key)}, "do not belong together"),
        ({"cert_auth_public_key": str(pair.cert), "cert_auth_private_key": str(locked)}, "the key has a passphrase"),
    ):
        with pytest.raises(HostsealError, match=message):
            _vault.VaultSession({"url": NOWHERE, "token": "t", **options})


def test_words_of_the_server_that_repeat_the_request_are_not_told() -> None:
    marker = Markers.random("value").text("value")
    body = {"batch_input": [{"plaintext": marker}], "key_version": 1}
    assert _vault._quotable(["bad\n input"], body) == ": bad input"
    assert _vault._quotable([f"invalid value {marker} for plaintext"], body) == ""
    assert len(_vault._quotable(["x" * 1000], body)) == 302


def test_a_lease_ages_at_half_of_its_life(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    renewed = _vault._Lease.of({"lease_duration": 60, "renewable": True}, own=True)
    looked_up = _vault._Lease.of({"ttl": 20, "creation_ttl": 60}, own=False)
    endless = _vault._Lease.of({"ttl": 0}, own=False)
    assert (renewed.is_aging(), looked_up.is_aging(), endless.is_aging()) == (False, True, False)
    now += 31
    assert (renewed.is_aging(), endless.is_aging()) == (True, False)


def test_a_batch_answered_by_something_else_is_refused() -> None:
    with pytest.raises(HostsealError, match="not one of the vault backend"):
        vault._ours(Binding("prod", "a", 1), "localkey:v1:AAAA")
    with pytest.raises(HostsealError, match="is not base64"):
        vault._bytes("{}")
