"""The certificates of a test cluster, as an installer would make them."""

from __future__ import annotations

import datetime as dt
import ipaddress
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_VALIDITY = dt.timedelta(days=1)


class ClusterCA:
    """A certificate authority that keeps what it issues in a directory.

    Args:
        directory: For ``ca.crt`` and the ``NAME.crt`` and ``NAME.key`` of what is issued.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name("kubernetes", ())
        self.certificate = directory / "ca.crt"
        template = _template(self._name, self._key.public_key()).issuer_name(self._name)
        template = template.add_extension(
            x509.BasicConstraints(ca=True, path_length=0), critical=True
        )
        signed = template.sign(self._key, hashes.SHA256())
        self.certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))

    def issue(
        self,
        file: str,
        user: str,
        *,
        groups: Sequence[str] = (),
        names: Sequence[str] = (),
        addresses: Sequence[str] = (),
    ) -> tuple[Path, Path]:
        """Issue a certificate for a user and groups, and for a server's names and addresses.

        Returns:
            The files of the certificate and of its key.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        usages = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        template = (
            _template(_name(user, groups), key.public_key())
            .issuer_name(self._name)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        )
        if names or addresses:
            alternatives = [
                *(x509.DNSName(name) for name in names),
                *(x509.IPAddress(ipaddress.ip_address(address)) for address in addresses),
            ]
            template = template.add_extension(
                x509.SubjectAlternativeName(alternatives), critical=False
            )
        signed = template.sign(self._key, hashes.SHA256())
        certificate = self._directory / f"{file}.crt"
        certificate.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
        return certificate, write_key(self._directory / f"{file}.key", key)


def write_key(path: Path, key: ec.EllipticCurvePrivateKey | None = None) -> Path:
    """Write a private key, a new one if none is given."""
    path.touch(mode=0o600)
    path.write_bytes(
        (key or ec.generate_private_key(ec.SECP256R1())).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
    )
    return path


def _name(user: str, groups: Sequence[str]) -> x509.Name:
    # Kubernetes reads the user from the common name and groups from organizations.
    organizations = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group) for group in groups]
    return x509.Name([*organizations, x509.NameAttribute(NameOID.COMMON_NAME, user)])


def _template(subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + _VALIDITY)
    )
