# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

"""Envelopes, host records and key sets: what is made opens, and everything else is refused with a reason."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from ansible_collections.hostseal.secrets.plugins.module_utils import _envelope as envelope
from ansible_collections.hostseal.secrets.plugins.module_utils import _jose
from ansible_collections.hostseal.secrets.plugins.module_utils._jose import EnvelopeError
from ansible_collections.hostseal.secrets.plugins.module_utils._model import HostsealError, Mount, Token
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from jwcrypto.jwe import JWE
from jwcrypto.jwk import JWK

from tests.unit import jose

MIB = 1 << 20
ISSUED_AT = 1_790_000_000_000
VALUES = {"password": b"hunter2 \0\xff\n", "certificate": b"aGVsbG8=", "empty": b""}


@dataclass
class Environment:
    """An environment's signing key, made without the library under test."""

    private: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def raw(self) -> bytes:
        return jose.raw(self.private)

    @property
    def public(self) -> JWK:
        return _jose.load_signing_key(json.dumps({"kty": "OKP", "crv": "Ed25519", "x": jose.b64u(self.raw)}))

    @property
    def kid(self) -> str:
        return jose.thumbprint("Ed25519", self.raw)

    def sign(self, typ: str, payload: object, **header: object) -> str:
        return jose.jws({"alg": "EdDSA", "kid": self.kid, "typ": typ, **header}, payload, self.private)


PROD, STAGING = Environment(), Environment()
HOST, OTHER_HOST = _jose.new_host_key(), _jose.new_host_key()
PUBLIC_HOST = _jose.load_host_key(HOST.export_public())


def host_raw(key: JWK = HOST) -> bytes:
    return jose.unb64u(key.export_public(as_dict=True)["x"])


SECRETS: list[dict[str, Any]] = [
    {"source": "password", "uid": 999, "mode": "0400"},
    {"source": "certificate", "target": "tls/crt"},
    {"source": "empty", "gid": 33},
]
TOKEN = {"role": "web", "target": "vault-token", "uid": 0, "gid": 0, "mode": "0444", "wrap_ttl": 60}


def mount(**changes: Any) -> Mount:
    return Mount.from_options({"environment": "prod", "name": "db", "secrets": SECRETS, **changes})


def seal(wanted: Mount | None = None, host: str = "db1", key: JWK = PUBLIC_HOST, issued_at: int = ISSUED_AT) -> str:
    wanted = wanted or mount()
    versions = [(number, f"{number:032x}", VALUES[entry.source]) for number, entry in enumerate(wanted.entries, 1)]
    draft = envelope.encrypt(wanted, host, key, PROD.kid, issued_at, versions)
    return draft.sign(PROD.private.sign(draft.covered))


def unseal(text: str, key: JWK = HOST, keys: list[JWK] | None = None) -> list[envelope.File]:
    return envelope.decrypt(text, envelope.read_statement(text, [PROD.public] if keys is None else keys), key)


SAMPLE = seal()


def forge(
    files: Any = None,
    header: dict[str, Any] | None = None,
    statement: dict[str, Any] | None = None,
    jwe: str | None = None,
    environment: Environment = PROD,
    **jws_header: Any,
) -> str:
    """An envelope made by hand: right in everything that is not given. Values of ... take a member away."""
    where = {"environment": "prod", "host": "db1", "mount": "db", "issued_at": ISSUED_AT}
    ref = {"target": "a", "uid": 0, "gid": 0, "mode": "0444"}
    protected = {
        "alg": "ECDH-ES+A256KW",
        "enc": "A256GCM",
        "typ": "hostseal-files+json",
        "kid": jose.thumbprint("X25519", host_raw()),
        **where,
        **(header or {}),
    }
    if files is None:
        files = {"files": [{**ref, "data": jose.b64u(b"value")}]}
    if jwe is None:
        jwe = jose.jwe(_given(protected), jose.as_json(files), host_raw())
    payload = {
        "format": 1,
        **where,
        "expires_at": None,
        "state_digest": "0" * 64,
        "options": {},
        "secrets": [{"name": "a", "version": 1, **ref}],
        "jwe_sha256": hashlib.sha256(jwe.encode()).hexdigest(),
        **(statement or {}),
    }
    return f"{environment.sign('hostseal-statement+json', _given(payload), **jws_header)}\n{jwe}\n"


def _given(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not ...}


# What is right


def test_round_trip() -> None:
    statement = envelope.read_statement(SAMPLE, [STAGING.public, PROD.public])
    assert (statement.environment, statement.host, statement.mount) == ("prod", "db1", "db")
    assert (statement.volume, statement.issued_at, statement.expires_at) == ("prod.db", ISSUED_AT, None)
    assert statement.secrets[0] == envelope.SecretRef("password", 1, "password", 999, 0, 0o400)
    files = envelope.decrypt(SAMPLE, statement, HOST)
    assert [(file.target, file.uid, file.gid, file.mode, file.data) for file in files] == [
        ("password", 999, 0, 0o400, VALUES["password"]),
        ("tls/crt", 0, 0, 0o444, VALUES["certificate"]),
        ("empty", 0, 33, 0o444, b""),
    ]


@pytest.mark.parametrize("secrets", [[], ["password"]])
def test_token_is_in_the_statement_and_in_no_file(secrets: list[str]) -> None:
    token = {"vault_token": {"role": "web", "wrap_ttl": "2m"}, "target": "a/token", "uid": 999, "mode": "0400"}
    wanted = mount(secrets=[*secrets, token], while_booting="wait", match={"labels": {"app": "web"}})
    draft = envelope.encrypt(wanted, "db1", HOST, PROD.kid, ISSUED_AT, [(1, "1", b"x")] * len(secrets))
    text = draft.sign(PROD.private.sign(draft.covered))
    statement = envelope.read_statement(text, [PROD.public])
    assert statement.vault_token == wanted.token == Token("web", "a/token", 999, 0, 0o400, 120)
    assert statement.options == wanted.options
    assert [ref.name for ref in statement.secrets] == secrets
    assert [file.target for file in envelope.decrypt(text, statement, HOST)] == secrets


def test_what_is_forged_right_opens() -> None:
    """Else the refusals below would prove nothing."""
    assert [file.data for file in unseal(forge())] == [b"value"]


def test_nothing_of_a_value_is_in_clear() -> None:
    value = b"0123456789 a secret that is long enough to be found"
    wanted = mount(secrets=["password"])
    draft = envelope.encrypt(wanted, "db1", PUBLIC_HOST, PROD.kid, ISSUED_AT, [(1, "id", value)])
    clear = draft.covered + b"".join(jose.unb64u(part) for part in draft.covered.decode().split("."))
    clear += draft.jwe.encode() + b"".join(jose.unb64u(part) for part in draft.jwe.split("."))
    for form in (
        value,
        base64.b64encode(value)[:20],
        value.hex().encode()[:20],
        hashlib.sha256(value).hexdigest().encode(),
    ):
        assert form not in clear


def test_repr_of_a_file_shows_no_data() -> None:
    file = unseal(SAMPLE)[0]
    assert repr(file) == str(file) == "File('password')"
    assert "hunter2" not in f"{[file]} {file!r:>40}"


def test_sealing_twice_gives_different_ciphertexts_for_one_state() -> None:
    one, two = seal(), seal()
    assert one.split("\n")[1].split(".")[1:] != two.split("\n")[1].split(".")[1:]
    digests = {envelope.read_statement(text, [PROD.public]).state_digest for text in (one, two)}
    assert len(digests) == 1


def test_expiry_is_in_the_statement() -> None:
    statement = envelope.read_statement(seal(mount(expires_after="1h")), [PROD.public])
    assert statement.expires_at == ISSUED_AT + 3_600_000


@given(st.lists(st.binary(max_size=300), min_size=1, max_size=4))
@settings(max_examples=25)
def test_any_bytes_come_back(values: list[bytes]) -> None:
    wanted = mount(secrets=[f"s{number}" for number in range(len(values))])
    versions = [(1, str(number), value) for number, value in enumerate(values)]
    draft = envelope.encrypt(wanted, "db1", PUBLIC_HOST, PROD.kid, ISSUED_AT, versions)
    assert [file.data for file in unseal(draft.sign(PROD.private.sign(draft.covered)))] == values


def test_largest_mount_opens_with_the_longest_targets() -> None:
    names = [f"s{number:03}" for number in range(256)]
    # The longest spelling in JSON: a character of two bytes becomes an escape of six.
    targets = [f"{'é' * 120}/" * 4 + "é" * 24 + name for name in names]
    secrets = [{"source": name, "target": target} for name, target in zip(names, targets)]
    values = [b"\xff" * (8 * MIB // 256)] * 256
    draft = envelope.encrypt(
        mount(secrets=secrets),
        "db1",
        PUBLIC_HOST,
        PROD.kid,
        ISSUED_AT,
        [(1, name, value) for name, value in zip(names, values)],
    )
    text = draft.sign(PROD.private.sign(draft.covered))
    assert [file.data for file in unseal(text)] == values


def test_limits_at_sealing() -> None:
    def attempt(sizes: list[int]) -> None:
        wanted = mount(secrets=[f"s{number}" for number in range(len(sizes))])
        versions = [(1, "id", b"x" * size) for size in sizes]
        envelope.encrypt(wanted, "db1", PUBLIC_HOST, PROD.kid, ISSUED_AT, versions)

    attempt([MIB])
    with pytest.raises(EnvelopeError, match="secret 's0' has 1048577 bytes, at most 1048576"):
        attempt([MIB + 1])
    with pytest.raises(EnvelopeError, match=r"mount 'prod\.db' has 8388609 bytes, at most 8388608"):
        attempt([MIB] * 8 + [1])


# The state digest

_DIGEST_CHANGES: list[Callable[[dict[str, Any]], None]] = [
    lambda state: state.update(mount=mount(name="web")),
    lambda state: state.update(mount=mount(environment="staging")),
    lambda state: state.update(mount=mount(change_mode="restart")),
    lambda state: state.update(mount=mount(change_signal="SIGUSR1")),
    lambda state: state.update(mount=mount(splay="1s")),
    lambda state: state.update(mount=mount(on_remove="keep")),
    lambda state: state.update(mount=mount(owner="web")),
    lambda state: state.update(mount=mount(expires_after="1h")),
    lambda state: state.update(mount=mount(secrets=["password", "certificate", "x"])),
    lambda state: state.update(mount=mount(secrets=["password", "certificate", {"source": "empty", "uid": 1}])),
    lambda state: state.update(mount=mount(match={"image": "web"})),
    lambda state: state.update(mount=mount(secrets=[*SECRETS, {"vault_token": {"role": "web"}}])),
    lambda state: state.update(host="db2"),
    lambda state: state.update(version_ids=["1", "2", "4"]),
    lambda state: state.update(version_ids=["2", "1", "3"]),
    lambda state: state.update(host_kid="other"),
    lambda state: state.update(signing_kid="other"),
]


@pytest.mark.parametrize("change", _DIGEST_CHANGES)
def test_digest_changes_with_everything_that_matters(change: Callable[[dict[str, Any]], None]) -> None:
    state: dict[str, Any] = {
        "mount": mount(),
        "host": "db1",
        "version_ids": ["1", "2", "3"],
        "host_kid": "host",
        "signing_kid": "signer",
    }
    before = envelope.state_digest(**state)
    assert before == envelope.state_digest(**state)
    change(state)
    assert envelope.state_digest(**state) != before


def test_digest_ignores_the_order_of_files() -> None:
    secrets = ["a", "b"]
    assert envelope.state_digest(mount(secrets=secrets), "h", ["1", "2"], "k", "s") == envelope.state_digest(
        mount(secrets=secrets[::-1]), "h", ["2", "1"], "k", "s"
    )


# Who may sign and open


def test_other_host_cannot_open() -> None:
    with pytest.raises(EnvelopeError, match="encrypted to another key than this host's"):
        unseal(SAMPLE, key=OTHER_HOST)


def test_other_hosts_key_under_this_hosts_kid_does_not_open() -> None:
    jwe = jose.jwe(
        {"alg": "ECDH-ES+A256KW", "enc": "A256GCM", "typ": "hostseal-files+json", "kid": HOST.thumbprint(),
         "environment": "prod", "host": "db1", "mount": "db", "issued_at": ISSUED_AT},
        b"{}", host_raw(OTHER_HOST),
    )  # fmt: skip
    with pytest.raises(EnvelopeError, match="does not open with this host's key"):
        unseal(forge(jwe=jwe))


@pytest.mark.parametrize("keys", [[], [STAGING.public]])
def test_signer_must_be_pinned(keys: list[JWK]) -> None:
    with pytest.raises(EnvelopeError, match="signed by a key that is not pinned"):
        envelope.read_statement(SAMPLE, keys)


def test_claiming_a_pinned_kid_is_not_enough() -> None:
    with pytest.raises(EnvelopeError, match="the signature does not match"):
        envelope.read_statement(forge(environment=STAGING, kid=PROD.kid), [PROD.public])


def test_other_environment_cannot_sign_a_captured_envelope_as_its_own() -> None:
    captured = SAMPLE.split("\n")[1]
    text = forge(jwe=captured, statement={"environment": "staging"}, environment=STAGING)
    assert envelope.read_statement(text, [STAGING.public]).environment == "staging"
    with pytest.raises(EnvelopeError, match="made for another environment, host, mount or time"):
        unseal(text, keys=[STAGING.public])


@pytest.mark.parametrize(
    "statement", [{"environment": "staging"}, {"host": "db2"}, {"mount": "web"}, {"issued_at": ISSUED_AT + 1}]
)
def test_statement_and_ciphertext_must_agree(statement: dict[str, Any]) -> None:
    with pytest.raises(EnvelopeError, match="made for another environment, host, mount or time"):
        unseal(forge(statement=statement))


def test_ciphertext_of_another_envelope_is_refused() -> None:
    text = SAMPLE.split("\n", maxsplit=1)[0] + "\n" + seal().split("\n")[1] + "\n"
    with pytest.raises(EnvelopeError, match="not the one that was signed"):
        envelope.read_statement(text, [PROD.public])


# Damage


def test_every_flipped_bit_is_refused() -> None:
    keys = [PROD.public]
    for place in range(len(SAMPLE)):
        for bit in (0, 6):
            damaged = SAMPLE[:place] + chr(ord(SAMPLE[place]) ^ 1 << bit) + SAMPLE[place + 1 :]
            with pytest.raises(EnvelopeError):
                unseal(damaged, keys=keys)


def test_every_truncation_is_refused() -> None:
    for length in range(len(SAMPLE)):
        for ending in ("", "\n"):
            if SAMPLE[:length] + ending == SAMPLE:
                continue
            with pytest.raises(EnvelopeError):
                envelope.read_statement(SAMPLE[:length] + ending, [PROD.public])


@pytest.mark.parametrize(
    "text",
    [
        SAMPLE + "\n",
        SAMPLE + SAMPLE,
        "\n" + SAMPLE,
        SAMPLE.replace("\n", "\r\n"),
        " " + SAMPLE,
        SAMPLE.replace("\n", "\n\n", 1),
        "",
        "\n",
        "\n\n",
        SAMPLE.replace(".", "=.", 1),
    ],
)
def test_anything_around_it_is_refused(text: str) -> None:
    with pytest.raises(EnvelopeError, match="truncated or not an envelope"):
        envelope.read_statement(text, [PROD.public])


def test_signature_with_another_spelling_is_refused() -> None:
    """64 bytes leave four unused bits in the last character: sixteen spellings of one signature."""
    jws, jwe, _end = SAMPLE.split("\n")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    spelling = alphabet[alphabet.index(jws[-1]) ^ 1]
    assert jose.unb64u(jws.rpartition(".")[2]) == jose.unb64u(jws[:-1].rpartition(".")[2] + spelling)
    with pytest.raises(EnvelopeError, match="not canonical base64url"):
        envelope.read_statement(f"{jws[:-1]}{spelling}\n{jwe}\n", [PROD.public])


# Algorithms and headers of the signature


def _with_first_line(jws: str) -> str:
    return f"{jws}\n{SAMPLE.split(chr(10))[1]}\n"


def _hmac_with_public_key(secret: bytes) -> str:
    header = {"alg": "HS256", "kid": PROD.kid, "typ": "hostseal-statement+json"}
    covered = f"{jose.b64u(jose.as_json(header))}.{SAMPLE.split('.')[1]}"
    return f"{covered}.{jose.b64u(hmac.digest(secret, covered.encode(), 'sha256'))}"


@pytest.mark.parametrize(
    "alg", ["none", "None", "HS256", "RS256", "ES256", "Ed448", "Ed25519", "eddsa", "", None, 5, ["EdDSA"]]
)
def test_signature_algorithm_is_fixed(alg: object) -> None:
    with pytest.raises(EnvelopeError, match="the JWS algorithm is not EdDSA"):
        envelope.read_statement(forge(alg=alg), [PROD.public])


def test_public_key_is_no_hmac_secret() -> None:
    for secret in (PROD.raw, jose.b64u(PROD.raw).encode(), PROD.public.export_public().encode()):
        with pytest.raises(EnvelopeError, match="the JWS algorithm is not EdDSA"):
            envelope.read_statement(_with_first_line(_hmac_with_public_key(secret)), [PROD.public])


def test_signature_may_not_be_left_out() -> None:
    header, payload, _signature = SAMPLE.split("\n", maxsplit=1)[0].split(".")
    for jws in (f"{header}.{payload}.", f"{header}.{payload}"):
        with pytest.raises(EnvelopeError, match="truncated or not an envelope"):
            envelope.read_statement(_with_first_line(jws), [PROD.public])
    for signature in ("AA", jose.b64u(bytes(64)), jose.b64u(bytes(32)), jose.b64u(b"\xff" * 64), jose.b64u(bytes(65))):
        with pytest.raises(EnvelopeError, match="the signature does not match"):
            envelope.read_statement(_with_first_line(f"{header}.{payload}.{signature}"), [PROD.public])


@pytest.mark.parametrize(
    "extra",
    [
        {"crit": ["b64"], "b64": False},
        {"jwk": {}},
        {"x5c": []},
        {"jku": "https://example.com"},
        {"cty": "json"},
        {"b64": True},
    ],
)
def test_more_members_in_the_signature_header_are_refused(extra: dict[str, Any]) -> None:
    with pytest.raises(EnvelopeError, match="other members than alg, kid and typ"):
        envelope.read_statement(forge(**extra), [PROD.public])


def test_a_signed_thing_of_another_kind_is_no_statement() -> None:
    record = PROD.sign(envelope.HOST_RECORD, envelope.host_record("prod", "db1", PUBLIC_HOST))
    keys = PROD.sign(envelope.KEY_SET, envelope.key_set("prod", ISSUED_AT, [PROD.public]))
    statement = SAMPLE.split("\n", maxsplit=1)[0]
    for jws in (record, keys):
        with pytest.raises(EnvelopeError, match=r"not of type hostseal-statement\+json"):
            envelope.read_statement(_with_first_line(jws), [PROD.public])
    for jws in (statement, keys):
        with pytest.raises(EnvelopeError, match=r"not of type hostseal-host\+json"):
            envelope.read_host_record(jws, "prod", "db1", [PROD.public])
    for jws in (statement, record):
        with pytest.raises(EnvelopeError, match=r"not of type hostseal-keys\+json"):
            envelope.read_key_set(jws, [PROD.public])


# Algorithms and headers of the ciphertext


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"alg": "dir"}, "algorithms are not"),
        ({"alg": "RSA1_5"}, "algorithms are not"),
        ({"alg": "ECDH-ES"}, "algorithms are not"),
        ({"alg": "ECDH-ES+A128KW"}, "algorithms are not"),
        ({"alg": "none"}, "algorithms are not"),
        ({"alg": None}, "algorithms are not"),
        ({"enc": "A128GCM"}, "algorithms are not"),
        ({"enc": "A256CBC-HS512"}, "algorithms are not"),
        ({"typ": "hostseal-statement+json"}, "algorithms are not"),
        ({"zip": "DEF"}, "other members"),
        ({"crit": ["exp"], "exp": 1}, "other members"),
        ({"apu": "QQ"}, "other members"),
        ({"apv": "QQ"}, "other members"),
        ({"jwk": {}}, "other members"),
        ({"p2c": 10**9}, "other members"),
        ({"kid": ...}, "other members"),
        ({"mount": ...}, "other members"),
        ({"kid": "x"}, "another key than this host's"),
        ({"kid": None}, "another key than this host's"),
        ({"host": "db2"}, "made for another"),
        ({"issued_at": str(ISSUED_AT)}, "made for another"),
    ],
)
def test_ciphertext_header_is_fixed(header: dict[str, Any], reason: str) -> None:
    with pytest.raises(EnvelopeError, match=reason):
        unseal(forge(header=header))


@pytest.mark.parametrize(
    ("alg", "enc", "extra"),
    [
        ("ECDH-ES", "A256GCM", {}),
        ("ECDH-ES+A128KW", "A256GCM", {}),
        ("ECDH-ES+A256KW", "A128GCM", {}),
        ("ECDH-ES+A256KW", "A256GCM", {"zip": "DEF"}),
        ("dir", "A256GCM", {}),
        ("RSA1_5", "A256GCM", {}),
        ("A256KW", "A256GCM", {}),
    ],
)
def test_working_ciphertext_of_another_algorithm_is_refused(alg: str, enc: str, extra: dict[str, Any]) -> None:
    """Made by the library, so that nothing but the rule is in its way."""
    kinds = {
        "dir": {"kty": "oct", "size": 256},
        "A256KW": {"kty": "oct", "size": 256},
        "RSA1_5": {"kty": "RSA", "size": 2048},
    }
    key = JWK.generate(**kinds[alg]) if alg in kinds else PUBLIC_HOST
    header = {"alg": alg, "enc": enc, "typ": "hostseal-files+json", "kid": HOST.thumbprint(), "environment": "prod",
              "host": "db1", "mount": "db", "issued_at": ISSUED_AT, **extra}  # fmt: skip
    files = {"files": [{"target": "a", "uid": 0, "gid": 0, "mode": "0444", "data": "eA"}]}
    token = JWE(json.dumps(files), protected=json.dumps(header), algs=[alg, enc])
    token.add_recipient(key)
    jwe = token.serialize(compact=True)
    if jwe.split(".")[1]:
        expected = "other members|algorithms are not"
    else:
        # An empty encrypted key: dir and ECDH-ES have none.
        expected = "truncated or not an envelope"
    with pytest.raises(EnvelopeError, match=expected):
        unseal(forge(jwe=jwe))


LOW_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
]
GOOD_EPK = {"kty": "OKP", "crv": "X25519", "x": jose.b64u(host_raw(OTHER_HOST))}


@pytest.mark.parametrize(
    "epk",
    [
        *({**GOOD_EPK, "x": jose.b64u(point)} for point in LOW_ORDER),
        {**GOOD_EPK, "x": jose.b64u(bytes(31))},
        {**GOOD_EPK, "x": jose.b64u(bytes(33))},
        {**GOOD_EPK, "x": ""},
        {**GOOD_EPK, "x": None},
        {**GOOD_EPK, "x": 5},
        {**GOOD_EPK, "crv": "Ed25519"},
        {**GOOD_EPK, "crv": "X448"},
        {**GOOD_EPK, "crv": 1},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "oct", "k": "AA"},
        {},
        None,
        "x",
        [],
        5,
    ],
)
def test_bad_ephemeral_key(epk: object) -> None:
    with pytest.raises(EnvelopeError, match="does not open with this host's key"):
        unseal(forge(header={"epk": epk}))


@pytest.mark.parametrize("part", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "content", ["AA", "AAAAA", "", jose.b64u(bytes(12)), jose.b64u(bytes(40)), jose.b64u(bytes(16))]
)
def test_bad_part_of_the_ciphertext(part: int, content: str) -> None:
    parts = SAMPLE.split("\n")[1].split(".")
    parts[part] = content
    with pytest.raises(EnvelopeError, match="does not open|truncated"):
        unseal(forge(jwe=".".join(parts), header={}, statement={}))


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(
    st.fixed_dictionaries({}, optional=dict.fromkeys(("kty", "crv", "x", "d", "kid", "use", "alg"), _json)),
    st.binary(max_size=40),
)
@settings(max_examples=60)
def test_any_ephemeral_key_is_refused_by_us(epk: dict[str, Any], wrapped: bytes) -> None:
    parts = forge(header={"epk": {**GOOD_EPK, **epk}}).split("\n")[1].split(".")
    parts[1] = jose.b64u(wrapped) or "AA"
    with pytest.raises(EnvelopeError):
        unseal(forge(jwe=".".join(parts)))


# The statement


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ({"format": 2}, "it has format 2, this side knows 1: upgrade the older one"),
        ({"format": "1"}, "it has format '1'"),
        ({"format": ...}, "it has format None"),
        ({"environment": ...}, "other members than expected"),
        ({"extra": 1}, "other members than expected"),
        ({"environment": "pr.od"}, "environment name 'pr.od' is not allowed"),
        ({"environment": None}, "environment name is missing"),
        ({"host": "a/b"}, "host name 'a/b'"),
        ({"mount": "../db"}, "mount name '../db'"),
        ({"issued_at": 0}, "out of range"),
        ({"issued_at": -1}, "out of range"),
        ({"issued_at": True}, "out of range"),
        ({"issued_at": 1.5}, "out of range"),
        ({"issued_at": "1"}, "out of range"),
        ({"issued_at": 1 << 53}, "out of range"),
        ({"expires_at": "never"}, "out of range"),
        ({"expires_at": 0}, "out of range"),
        ({"state_digest": "x"}, "a digest of the statement is malformed"),
        ({"state_digest": "A" * 64}, "a digest of the statement is malformed"),
        ({"state_digest": None}, "a digest of the statement is malformed"),
        ({"jwe_sha256": "0" * 63}, "a digest of the statement is malformed"),
        ({"jwe_sha256": "0" * 64}, "the ciphertext is not the one that was signed"),
        ({"options": []}, "the statement is malformed"),
        ({"options": {"change_mode": "exec"}}, "change_mode 'exec'"),
        ({"options": {"command": "rm"}}, "unknown option 'command'"),
        ({"options": {"splay": -1}}, "splay -1"),
        ({"secrets": {}}, "the statement is malformed"),
        ({"secrets": []}, "does not have 1 to 256 secrets"),
        ({"secrets": [5]}, "a secret of the statement is malformed"),
        ({"secrets": [{"name": "a"}]}, "a secret of the statement is malformed"),
        ({"vault_token": None}, "the vault_token of the statement is malformed"),
        ({"vault_token": {"role": "web"}}, "the vault_token of the statement is malformed"),
        ({"vault_token": {**TOKEN, "role": "../web"}}, "role name '../web' is not allowed"),
        ({"vault_token": {**TOKEN, "target": "../x"}}, "target '../x' is not allowed"),
        ({"vault_token": {**TOKEN, "wrap_ttl": 86400}}, "wrap_ttl 86400 s is outside"),
        ({"vault_token": {**TOKEN, "target": "a"}}, "target 'a' is used twice"),
        ({"options": {"match": {}}}, "match says neither image nor labels"),
    ],
)
def test_bad_statement(statement: dict[str, Any], reason: str) -> None:
    with pytest.raises(HostsealError) as caught:
        envelope.read_statement(forge(statement=statement), [PROD.public])
    assert reason in str(caught.value)


def _ref(**changes: Any) -> dict[str, Any]:
    return {"name": "a", "version": 1, "target": "a", "uid": 0, "gid": 0, "mode": "0444", **changes}


@pytest.mark.parametrize(
    "refs",
    [
        [_ref(target="../x")],
        [_ref(target="/etc/shadow")],
        [_ref(target="..data")],
        [_ref(target="a\0")],
        [_ref(uid=-1)],
        [_ref(gid=2**32)],
        [_ref(mode="4755")],
        [_ref(mode=292)],
        [_ref(name="a/b")],
        [_ref(version=0)],
        [_ref(), _ref()],
        [_ref(), _ref(target="a/b")],
        [_ref(target=f"t{number}") for number in range(257)],
    ],
)
def test_bad_secrets_of_a_statement(refs: list[dict[str, Any]]) -> None:
    with pytest.raises(HostsealError):
        envelope.read_statement(forge(statement={"secrets": refs}), [PROD.public])


@given(
    st.sampled_from(
        ["environment", "host", "mount", "issued_at", "expires_at", "state_digest", "options", "secrets", "vault_token"]
    ),
    _json,
)
def test_any_member_of_a_signed_statement_is_taken_or_refused_by_us(name: str, value: object) -> None:
    try:
        envelope.read_statement(forge(statement={name: value}), [PROD.public])
    except HostsealError as error:
        assert len(str(error)) < 500


@pytest.mark.parametrize(
    "payload",
    [
        "null",
        "[]",
        "5",
        "{",
        "",
        '{"a"',
        "[" * 100_000,
        '{"a":' * 100_000,
        "9" * 5000,
        "NaN",
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
    ],
)
def test_payload_that_is_no_object(payload: str | bytes) -> None:
    with pytest.raises(EnvelopeError, match="is not JSON|is not a JSON object|not a JWS|has format None"):
        _jose.verify(PROD.sign(envelope.STATEMENT, payload), envelope.STATEMENT, [PROD.public])
        envelope.read_statement(_with_first_line(PROD.sign(envelope.STATEMENT, payload)), [PROD.public])


@pytest.mark.parametrize(
    "header", ["[" * 100_000, '{"alg":' * 100_000, "[]", "5", "{", b"\xff", '{"kid":' + "9" * 5000 + "}"]
)
def test_header_that_is_no_object(header: str | bytes) -> None:
    jws = jose.jws(header, "{}", PROD.private)
    with pytest.raises(EnvelopeError, match="the JWS header is not"):
        envelope.read_statement(_with_first_line(jws), [PROD.public])
    jwe = SAMPLE.split("\n")[1]
    with pytest.raises(EnvelopeError, match="the JWE header is not"):
        unseal(forge(jwe=jose.b64u(jose.as_json(header)) + "." + jwe.partition(".")[2]))


def test_error_stays_short_whatever_is_in_the_message() -> None:
    with pytest.raises(EnvelopeError) as caught:
        envelope.read_statement(forge(statement={"format": "x" * MIB}), [PROD.public])
    assert len(str(caught.value)) < 300


@given(st.text(st.sampled_from("AZaz09-_.\n=\0é"), max_size=80) | st.text(max_size=40))
def test_any_text_is_refused(text: str) -> None:
    for read in (envelope.unverified_statement, lambda text: envelope.read_statement(text, [PROD.public])):
        with pytest.raises(EnvelopeError):
            read(text)
    with pytest.raises(EnvelopeError):
        envelope.read_key_set(text, None)
    for load in (_jose.load_host_key, _jose.load_signing_key):
        with pytest.raises(EnvelopeError):
            load(text)


def test_unverified_statement_reads_what_is_said() -> None:
    text = forge(environment=STAGING)
    assert envelope.unverified_statement(text).volume == "prod.db"


# The files


def _file(**changes: Any) -> dict[str, Any]:
    return {"target": "a", "uid": 0, "gid": 0, "mode": "0444", "data": "eA", **changes}


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"files": [_file(target="../../etc/shadow")]}, "not the ones that were signed"),
        ({"files": [_file(), _file()]}, "not the ones that were signed"),
        ({"files": []}, "not the ones that were signed"),
        ({"files": [_file(target="b")]}, "not the ones that were signed"),
        ({"files": [_file(mode="0666")]}, "not the ones that were signed"),
        ({"files": [_file(uid=1)]}, "not the ones that were signed"),
        ({"files": [_file(gid=1)]}, "not the ones that were signed"),
        ({"files": [_file(data=None)]}, "not base64url"),
        ({"files": [_file(data="A")]}, "not base64url"),
        ({"files": [_file(data=5)]}, "not base64url"),
        ({"files": [_file(data="é")]}, "not base64url"),
        ({"files": [_file(link="x")]}, "a file is malformed"),
        ({"files": [5]}, "a file is malformed"),
        ({"files": {}}, "the files are malformed"),
        ({}, "the files are malformed"),
        ({"files": [_file()], "more": 1}, "the files are malformed"),
        ({"files": [_file(target=f"t{number}") for number in range(257)]}, "not the ones that were signed"),
        ({"files": [_file(data=jose.b64u(b"x" * (MIB + 1)))]}, "a file is larger than 1048576 bytes"),
        ([], "the JWE payload is not a JSON object"),
        ("[" * 100_000, "the JWE payload is not JSON"),
        (b"\xff\xff", "the JWE payload is not JSON"),
    ],
)
def test_bad_files(files: Any, reason: str) -> None:
    with pytest.raises(HostsealError) as caught:
        unseal(forge(files=files))
    assert reason in str(caught.value)


def test_nine_mebibytes_of_files_are_refused() -> None:
    """Each by itself is small enough; made by hand, as encrypt() refuses to."""
    for size, reason in ((MIB, "at most|larger than"), (990_000, "all are larger than 8388608")):
        refs = [_ref(target=f"t{number}") for number in range(9)]
        files = {"files": [_file(target=ref["target"], data=jose.b64u(b"x" * size)) for ref in refs]}
        with pytest.raises(EnvelopeError, match=reason):
            unseal(forge(files=files, statement={"secrets": refs}))


def test_text_beyond_all_limits_is_refused_unread() -> None:
    with pytest.raises(EnvelopeError, match=f"at most {envelope.MAX_ENVELOPE_BYTES} are allowed"):
        envelope.read_statement("A" * (envelope.MAX_ENVELOPE_BYTES + 1), [PROD.public])


# Keys


def _jwk(x: bytes | str, curve: str = "X25519", **more: Any) -> str:
    return json.dumps({"kty": "OKP", "crv": curve, "x": x if isinstance(x, str) else jose.b64u(x), **more})


GOOD_X = host_raw()


@pytest.mark.parametrize(
    "text",
    [
        _jwk(GOOD_X, "Ed25519"),
        _jwk(GOOD_X, "X448"),
        _jwk(GOOD_X[:31]),
        _jwk(GOOD_X + b"\0"),
        _jwk(b""),
        _jwk(GOOD_X, d=jose.b64u(bytes(32))),
        _jwk(GOOD_X, kid="x"),
        _jwk(GOOD_X, kid=5),
        _jwk(GOOD_X, use="enc"),
        json.dumps({"kty": "EC", "crv": "X25519", "x": jose.b64u(GOOD_X)}),
        json.dumps({"kty": "OKP", "crv": "X25519"}),
        json.dumps({"kty": "OKP", "crv": "X25519", "x": 5}),
        json.dumps({"kty": "OKP", "crv": ["X25519"], "x": jose.b64u(GOOD_X)}),
        json.dumps({"kty": "OKP", "crv": "X25519", "x": None}),
        json.dumps({"kty": "oct", "k": jose.b64u(GOOD_X)}),
        HOST.export_private(),
        "",
        "null",
        "[]",
        "{",
        "[" * 100_000,
    ],
)
def test_bad_host_key(text: str) -> None:
    with pytest.raises(EnvelopeError, match="key|JWK"):
        _jose.load_host_key(text)


@pytest.mark.parametrize("point", LOW_ORDER, ids=bytes.hex)
def test_host_key_of_low_order_is_refused(point: bytes) -> None:
    """It would make everybody's secrets readable, or fail the whole batch that it is sealed in."""
    with pytest.raises(EnvelopeError, match="malformed"):
        _jose.load_host_key(_jwk(point))


def test_key_has_one_spelling() -> None:
    """Two spellings of one key would have two thumbprints."""
    x = jose.b64u(GOOD_X)
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for spelling in (x + "=", x[:-1] + alphabet[alphabet.index(x[-1]) ^ 1]):
        with pytest.raises(EnvelopeError, match="malformed"):
            _jose.load_host_key(_jwk(spelling))


def test_private_key_is_told_from_a_public_one() -> None:
    assert _jose.load_host_key(HOST.export_private(), private=True).thumbprint() == HOST.thumbprint()
    with pytest.raises(EnvelopeError, match="not a private X25519 JWK"):
        _jose.load_host_key(HOST.export_public(), private=True)
    for text in (json.dumps({**json.loads(HOST.export_private()), "d": "AA"}), HOST.export_private()[:-2]):
        with pytest.raises(EnvelopeError) as caught:
            _jose.load_host_key(text, private=True)
        assert HOST.export_private(as_dict=True)["d"] not in str(caught.value)


def test_new_host_keys_differ_and_carry_their_thumbprint() -> None:
    assert HOST.thumbprint() != OTHER_HOST.thumbprint()
    assert HOST.export_public(as_dict=True)["kid"] == HOST.thumbprint() == jose.thumbprint("X25519", GOOD_X)


# Host records


def test_host_record() -> None:
    payload = envelope.host_record("prod", "db1", HOST)
    assert "d" not in payload["jwk"]
    record = PROD.sign(envelope.HOST_RECORD, payload)
    assert envelope.read_host_record(record, "prod", "db1", [PROD.public]).thumbprint() == HOST.thumbprint()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"environment": "staging"}, "for another environment or host"),
        ({"host": "db2"}, "for another environment or host"),
        ({"format": 2}, "another format"),
        ({"extra": 1}, "another format"),
        ({"host": ...}, "another format"),
        ({"jwk": 5}, "key is not a JSON object"),
        ({"jwk": HOST.export_private(as_dict=True)}, "not a public X25519 JWK"),
        ({"jwk": PROD.public.export_public(as_dict=True)}, "not a public X25519 JWK"),
    ],
)
def test_bad_host_record(changes: dict[str, Any], reason: str) -> None:
    payload = _given({**envelope.host_record("prod", "db1", HOST), **changes})
    with pytest.raises(EnvelopeError, match=reason):
        envelope.read_host_record(PROD.sign(envelope.HOST_RECORD, payload), "prod", "db1", [PROD.public])


def test_host_record_of_another_signer() -> None:
    record = STAGING.sign(envelope.HOST_RECORD, envelope.host_record("prod", "db1", HOST))
    with pytest.raises(EnvelopeError, match="not pinned"):
        envelope.read_host_record(record, "prod", "db1", [PROD.public])


# Key sets


def _key_set(signer: Environment = PROD, keys: list[Any] | None = None, **changes: Any) -> str:
    payload = envelope.key_set("prod", ISSUED_AT, [PROD.public])
    if keys is not None:
        payload["keys"] = keys
    return signer.sign(envelope.KEY_SET, _given({**payload, **changes}))


def test_key_set_is_vouched_for_by_itself_at_first_and_by_an_old_key_later() -> None:
    first = envelope.read_key_set(_key_set(), None)
    assert (first.environment, first.issued_at) == ("prod", ISSUED_AT)
    assert [key.thumbprint() for key in first.keys] == [PROD.kid]
    new = _key_set(keys=[STAGING.public.export_public(as_dict=True)])
    assert [key.thumbprint() for key in envelope.read_key_set(new, first.keys).keys] == [STAGING.kid]


def test_key_set_signed_by_a_stranger() -> None:
    for keys in (None, [PROD.public]):
        with pytest.raises(EnvelopeError, match="not pinned"):
            envelope.read_key_set(_key_set(STAGING), keys)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"keys": []}, "does not have 1 to 16 keys"),
        ({"keys": [{}] * 17}, "does not have 1 to 16 keys"),
        ({"keys": {}}, "does not have 1 to 16 keys"),
        ({"keys": [5]}, "key is not a JSON object"),
        ({"keys": [{"kty": "oct", "k": "AA"}]}, "not a public Ed25519 JWK"),
        ({"keys": [HOST.export_public(as_dict=True)]}, "not a public Ed25519 JWK"),
        ({"environment": "a.b"}, "environment name"),
        ({"issued_at": 0}, "out of range"),
        ({"format": 2}, "another format"),
        ({"extra": 1}, "another format"),
    ],
)
def test_bad_key_set(changes: dict[str, Any], reason: str) -> None:
    for keys in (None, [PROD.public]):
        with pytest.raises(HostsealError, match=reason):
            envelope.read_key_set(_key_set(**changes), keys)


def _both(**changes: Any) -> tuple[str, str]:
    """The same keys, PROD's and STAGING's, signed by each of them."""
    keys = [key.export_public(as_dict=True) for key in (STAGING.public, PROD.public)]
    return _key_set(PROD, keys, **changes), _key_set(STAGING, keys, **changes)


def test_key_set_with_two_signatures_is_taken_by_whom_either_is_known_to() -> None:
    for lines in (_both(), _both()[::-1]):
        read = [
            envelope.read_key_set("\n".join(lines), keys)
            for keys in (None, [PROD.public], [STAGING.public], [Environment().public, STAGING.public])
        ]
        assert {tuple(key.thumbprint() for key in one.keys) for one in read} == {(STAGING.kid, PROD.kid)}
        with pytest.raises(EnvelopeError, match="not pinned"):
            envelope.read_key_set("\n".join(lines), [Environment().public])


def test_key_set_whose_lines_differ_is_refused_whoever_reads_it() -> None:
    good, other = _both()[0], _both(issued_at=ISSUED_AT + 1)[1]
    stranger = Environment()
    foreign = _key_set(stranger, [stranger.public.export_public(as_dict=True)])
    # The same payload in another spelling is another one too.
    header, payload, signature = good.split(".")
    spelt = f"{header}.{jose.b64u(b' ' + jose.unb64u(payload))}.{signature}"
    for lines in ((good, other), (other, good), (good, foreign), (foreign, good), (good, spelt)):
        for keys in (None, [PROD.public], [STAGING.public], [stranger.public]):
            with pytest.raises(EnvelopeError, match="its signatures are not over the same keys"):
                envelope.read_key_set("\n".join(lines), keys)


def test_a_strangers_signature_over_the_same_keys_gives_him_nothing() -> None:
    stranger = Environment()
    text = "\n".join((_key_set(stranger), _key_set()))
    for keys in (None, [PROD.public]):
        assert [key.thumbprint() for key in envelope.read_key_set(text, keys).keys] == [PROD.kid]
    alone = _key_set(stranger)
    with pytest.raises(EnvelopeError, match="not pinned"):
        envelope.read_key_set(alone, None)


def test_a_wrong_signature_in_a_known_name_is_refused() -> None:
    good, second = _both()
    header, payload, _signature = good.split(".")
    forged = f"{header}.{payload}.{second.split('.')[2]}"
    for text in (forged, f"{forged}\n{second}"):
        with pytest.raises(EnvelopeError, match="signature"):
            envelope.read_key_set(text, [PROD.public])


@pytest.mark.parametrize("around", ["{}\n", "\n{}", "{}\n\n{}", "{}\r\n{}", " {}", "{}\n{}\nx", "{}\n."])
def test_anything_around_the_lines_of_a_key_set_is_refused(around: str) -> None:
    for keys in (None, [PROD.public]):
        with pytest.raises(EnvelopeError, match="not a JWS in compact serialization"):
            envelope.read_key_set(around.format(*_both()), keys)


def test_key_set_as_it_is_signed() -> None:
    payload = envelope.key_set("prod", ISSUED_AT, [PROD.public, STAGING.public])
    text = envelope.sign_key_set(payload, [(one.kid, one.private.sign) for one in (PROD, STAGING)])
    assert text.count("\n") == 1
    for keys in (None, [PROD.public], [STAGING.public]):
        assert envelope.read_key_set(text, keys).issued_at == ISSUED_AT
    longest = envelope.key_set("e" * 63, ISSUED_AT, [Environment().public for _number in range(15)] + [PROD.public])
    text = envelope.sign_key_set(longest, [(PROD.kid, PROD.private.sign)] * 2)
    assert len(envelope.read_key_set(text, [PROD.public]).keys) == 16
