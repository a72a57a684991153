# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Known answers: vectors of the RFCs, a fixture of format 1 that was made by hand, and another JOSE library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils import _envelope as envelope
from ansible_collections.hostseal.secrets.plugins.module_utils import _jose
from ansible_collections.hostseal.secrets.plugins.module_utils._model import Mount
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends import Binding
from ansible_collections.hostseal.secrets.plugins.plugin_utils._backends.localkey import LocalKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwcrypto.jwk import JWK

from tests.unit import jose

FIXTURE: dict[str, Any] = json.loads((Path(__file__).parent / "fixtures" / "format-1.json").read_text(encoding="utf-8"))
HOST = _jose.load_host_key(json.dumps(FIXTURE["host_key"]), private=True)
SIGNER = _jose.load_signing_key(json.dumps(FIXTURE["signing_key"]))
MOUNT = Mount.from_options(
    {
        "environment": "prod",
        "name": "db",
        "secrets": [
            {"source": "password", "uid": 999, "mode": "0400"},
            {"source": "tls_key", "target": "tls/key", "gid": 33, "mode": "0440"},
        ],
        "change_mode": "signal",
        "splay": "30s",
        "expires_after": "1d",
    }
)


def test_thumbprint_of_rfc_8037_appendix_a3() -> None:
    x = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"
    expected = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    assert _jose.load_signing_key(json.dumps({"kty": "OKP", "crv": "Ed25519", "x": x})).thumbprint() == expected
    assert jose.thumbprint("Ed25519", jose.unb64u(x)) == expected


def test_signature_of_rfc_8037_appendix_a4() -> None:
    private = Ed25519PrivateKey.from_private_bytes(jose.unb64u("nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"))
    assert jose.jws('{"alg":"EdDSA"}', "Example of Ed25519 signing", private) == (
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    )


def test_envelope_of_format_1_opens() -> None:
    statement = envelope.read_statement(FIXTURE["envelope"], [SIGNER])
    assert statement.state_digest == FIXTURE["state_digest"]
    assert statement.options == MOUNT.options
    files = envelope.decrypt(FIXTURE["envelope"], statement, HOST)
    assert [file.data.decode() for file in files] == list(FIXTURE["values"].values())


def test_records_of_format_1_are_read() -> None:
    assert envelope.read_host_record(FIXTURE["host_record"], "prod", "db1", [SIGNER]).thumbprint() == HOST.thumbprint()
    assert envelope.read_key_set(FIXTURE["key_set"], None).keys[0].thumbprint() == SIGNER.thumbprint()


def test_format_1_is_what_is_made_today() -> None:
    """A change of the format must not go by unnoticed: hosts and stores hold the old one."""
    versions = [
        (1, letter * 32, value.encode()) for letter, value in zip("ab", FIXTURE["values"].values(), strict=True)
    ]
    draft = envelope.encrypt(MOUNT, "db1", HOST, SIGNER.thumbprint(), 1_790_000_000_000, versions)
    made, fixed = (
        json.loads(jose.unb64u(text.split(".")[1])) for text in (draft.covered.decode(), FIXTURE["envelope"])
    )
    assert {**made, "jwe_sha256": ""} == {**fixed, "jwe_sha256": ""}
    header, plaintext = jose.open_jwe(draft.jwe, jose.unb64u(FIXTURE["host_key"]["d"]))
    fixed_header, fixed_plaintext = jose.open_jwe(
        FIXTURE["envelope"].split("\n")[1], jose.unb64u(FIXTURE["host_key"]["d"])
    )
    assert json.loads(plaintext) == json.loads(fixed_plaintext)
    assert {**header, "epk": 0} == {**fixed_header, "epk": 0}
    assert (
        _jose.signing_input(
            envelope.HOST_RECORD, SIGNER.thumbprint(), envelope.host_record("prod", "db1", HOST)
        ).decode()
        == FIXTURE["host_record"].rpartition(".")[0]
    )
    assert (
        _jose.signing_input(
            envelope.KEY_SET, SIGNER.thumbprint(), envelope.key_set("prod", 1_790_000_000_000, [SIGNER])
        ).decode()
        == FIXTURE["key_set"].rpartition(".")[0]
    )


def test_key_file_of_format_1_opens_what_it_sealed(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    path = tmp_path / "prod.jwks"
    path.write_text(json.dumps(FIXTURE["localkey"]["file"]), encoding="ascii")
    path.chmod(0o600)
    backend = LocalKey(tmp_path, "prod")
    value = FIXTURE["values"]["password"].encode()
    assert backend.decrypt([(Binding("prod", "password", 7), FIXTURE["localkey"]["ciphertext"])]) == [value]
    assert backend.fingerprint([(Binding("prod", "password", 1), value)]) == [FIXTURE["localkey"]["fingerprint"]]
    assert backend.verification_keys()[0].thumbprint() == SIGNER.thumbprint()


def _sealed(host: JWK, private: Ed25519PrivateKey) -> str:
    values = [(1, "x", b"hunter2 \0\xff"), (2, "y", b"")]
    kid = jose.thumbprint("Ed25519", jose.raw(private))
    draft = envelope.encrypt(MOUNT, "db1", host, kid, 1_790_000_000_000, values)
    return draft.sign(private.sign(draft.covered))


def test_another_jose_library_reads_what_is_sealed() -> None:
    # Here, not at the top: nothing else in this file needs it.
    from joserfc import jwe, jws
    from joserfc.jwk import OKPKey

    host, private = _jose.new_host_key(), Ed25519PrivateKey.generate()
    statement, ciphertext = _sealed(host, private).split()
    public = {"kty": "OKP", "crv": "Ed25519", "x": jose.b64u(jose.raw(private))}
    verified = jws.deserialize_compact(
        statement, OKPKey.import_key(public), registry=jws.JWSRegistry(algorithms=["EdDSA"])
    )
    assert json.loads(verified.payload)["host"] == "db1"
    registry = jwe.JWERegistry(algorithms=["ECDH-ES+A256KW", "A256GCM"], strict_check_header=False)
    opened = jwe.decrypt_compact(ciphertext, OKPKey.import_key(host.export_private(as_dict=True)), registry=registry)
    assert opened.plaintext is not None
    assert [jose.unb64u(file["data"]) for file in json.loads(opened.plaintext)["files"]] == [b"hunter2 \0\xff", b""]


@pytest.mark.parametrize("line", [0, 1])
def test_sealing_by_hand_agrees(line: int) -> None:
    host, private = _jose.new_host_key(), Ed25519PrivateKey.generate()
    text = _sealed(host, private).split("\n")[line]
    if line:
        _header, plaintext = jose.open_jwe(text, jose.unb64u(host.export_private(as_dict=True)["d"]))
        assert jose.unb64u(json.loads(plaintext)["files"][0]["data"]) == b"hunter2 \0\xff"
    else:
        covered, _dot, signature = text.rpartition(".")
        private.public_key().verify(jose.unb64u(signature), covered.encode())
