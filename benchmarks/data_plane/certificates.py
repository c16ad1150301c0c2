"""Certificates for the contenders: a root, and one leaf that both ends of a pair show."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from pathlib import Path

NAME = "peer.troth.test"
"""The leaf's DNS name, for those that can verify no other kind."""

IDENTITY = "spiffe://cluster.local/ns/troth/sa/server"

ROOT, LEAF, KEY, LEAF_AND_KEY = "root.pem", "leaf.pem", "key.pem", "leaf-and-key.pem"


def write_certificates(directory: Path) -> None:
    """Write a new root and leaf (ECDSA P-256 like troth's) into ``directory``."""
    root_key, leaf_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "root")])
    names = x509.SubjectAlternativeName(
        [x509.DNSName(NAME), x509.UniformResourceIdentifier(IDENTITY)]
    )
    usage = x509.ExtendedKeyUsage(
        [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    )
    root = (
        _builder(root_name, root_name, root_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(root_key, hashes.SHA256())
    )
    leaf = (
        _builder(x509.Name([]), root_name, leaf_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage, critical=False)
        .add_extension(names, critical=True)
        .sign(root_key, hashes.SHA256())
    )
    leaf_pem = leaf.public_bytes(Encoding.PEM)
    key_pem = leaf_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for name, content in (
        (ROOT, root.public_bytes(Encoding.PEM)),
        (LEAF, leaf_pem),
        (KEY, key_pem),
        (LEAF_AND_KEY, leaf_pem + key_pem),
    ):
        (directory / name).write_bytes(content)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=1))
        .not_valid_after(now + timedelta(days=1))
    )
