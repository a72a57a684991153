# Copyright (c) 2026, hostseal contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Throwaway X.509: a CA, certificates for a server on loopback and for a client."""

from __future__ import annotations

import datetime
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_LIFE = datetime.timedelta(days=30)
# Hosts with a clock that is a little behind accept the certificate too.
_SKEW = datetime.timedelta(hours=1)


@dataclass(frozen=True)
class Pair:
    """Where a certificate and its private key lie, both PEM."""

    cert: Path
    key: Path


def write_private(path: Path, data: bytes) -> None:
    """Write DATA to PATH, which only its owner may read; never half of it."""
    new = path.with_name(f".{path.name}.new")
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    new.replace(path)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _save(folder: Path, stem: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    pair = Pair(folder / f"{stem}.pem", folder / f"{stem}-key.pem")
    plain = serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    write_private(pair.key, key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    write_private(pair.cert, certificate.public_bytes(pem))
    return pair


def authority(folder: Path, stem: str = "ca") -> Pair:
    """A new CA in FOLDER."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"hostseal test CA {os.urandom(4).hex()}")
    certificate = (
        _builder(name, name, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(authority=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    return _save(folder, stem, certificate, key)


def issue(
    ca: Pair, folder: Path, stem: str, common_name: str, client: bool = False, address: str = "127.0.0.1"
) -> Pair:
    """A new certificate under CA in FOLDER: for a server on loopback or at ADDRESS, or with `client` for a client."""
    issuer = x509.load_pem_x509_certificate(ca.cert.read_bytes())
    ca_key = serialization.load_pem_private_key(ca.key.read_bytes(), password=None)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise TypeError("the CA's key must be one that `authority` made")
    key = ec.generate_private_key(ec.SECP256R1())
    purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
    builder = (
        _builder(_name(common_name), issuer.subject, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(authority=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()), critical=False)
    )
    if not client:
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address(address))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return _save(folder, stem, builder.sign(ca_key, hashes.SHA256()), key)
