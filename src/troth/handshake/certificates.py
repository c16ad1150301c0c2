"""Certificates in a trace: what the client presents, what it sees, and why it would refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from troth.errors import InputError, Problem
from troth.handshake.record import CertificateFacts
from troth.handshake.wire import printable
from troth.identity.spiffe import SpiffeId

if TYPE_CHECKING:
    from OpenSSL import crypto

    from troth.identity.svid import X509Svid

# What cryptography raises for certificates that it can't parse, in part or whole.
_UNREADABLE = (
    ValueError,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.UnsupportedGeneralNameType,
)

# The common X509_V_ERR_* of OpenSSL, in plain words.
_VERIFY_ERRORS = {
    2: "its issuer is not known",
    7: "its signature is wrong",
    9: "it is not valid yet",
    10: "it has expired",
    18: "it is self-signed and not in the trust bundle",
    19: "its root is not in the trust bundle",
    20: "its issuer is not in the trust bundle",
    21: "its issuer is not in the trust bundle",
    22: "its chain is too long",
    24: "its issuer is no certificate authority",
    25: "its chain is longer than the authority allows",
    26: "it is not meant for TLS servers",
    32: "its issuer may not sign certificates",
    47: "its name is outside what its issuer may sign",
    48: "its name is excluded by its issuer",
}


def describe_certificate(der: bytes) -> CertificateFacts | None:
    """Read a certificate from the wire; None if it can't be read."""
    try:
        return _facts(x509.load_der_x509_certificate(der))
    except _UNREADABLE:
        return None


def _facts(certificate: x509.Certificate) -> CertificateFacts:
    spiffe_id, _ = _spiffe_id(certificate)
    return CertificateFacts(
        spiffe_id=str(spiffe_id) if spiffe_id else None,
        subject=printable(certificate.subject.rfc4514_string()),
        issuer=printable(certificate.issuer.rfc4514_string()),
        serial=f"{certificate.serial_number:x}",
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def _spiffe_id(certificate: x509.Certificate) -> tuple[SpiffeId | None, str]:
    """The certificate's SPIFFE ID, or why it has none (X509-SVID, section 2: exactly one URI)."""
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        uris = extension.value.get_values_for_type(x509.UniformResourceIdentifier)
        if len(uris) != 1:
            return None, f"it has {len(uris)} URI names, an X509-SVID has exactly one"
        return SpiffeId.parse(uris[0]), ""
    except x509.ExtensionNotFound:
        return None, "it has no subject alternative name, so no SPIFFE ID"
    except _UNREADABLE:
        return None, "its extensions can't be read"
    except InputError as error:
        return None, f"its URI name is no SPIFFE ID: {printable(str(error))}"


def identity_flaw(certificate: crypto.X509, expected: SpiffeId | None) -> str | None:
    """Why a leaf with a trusted chain is not the expected server's (secure naming).

    Args:
        certificate: The server's leaf certificate.
        expected: The only SPIFFE ID to accept; None accepts any.
    """
    try:
        spiffe_id, flaw = _spiffe_id(certificate.to_cryptography())
    except _UNREADABLE:
        return "it can't be read"
    if spiffe_id is None:
        return flaw
    if expected is not None and spiffe_id != expected:
        return f"it is for {spiffe_id}, wanted {expected}"
    return None


def verify_error(number: int) -> str:
    """OpenSSL's ``X509_V_ERR_*`` number in plain words."""
    return _VERIFY_ERRORS.get(number, f"OpenSSL's verification error {number}")


class ClientCredentials:
    """The certificate chain and private key that the client presents on request.

    Args:
        chain: PEM certificates, leaf first.
        key: The leaf's private key as unencrypted PEM; never part of any text of this object.

    Raises:
        InputError: They can't be read, or the key isn't the leaf's.
    """

    __slots__ = ("chain", "key")

    chain: tuple[x509.Certificate, ...]
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

    def __init__(self, *, chain: bytes, key: bytes) -> None:
        self.chain = load_certificates("client credentials", "chain", chain)
        try:
            private_key = load_pem_private_key(key, password=None)
        except (ValueError, TypeError):
            private_key = None  # not chained: the cause could quote the key
        if not isinstance(private_key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise _refused("client credentials", "key", "is no EC or RSA private key")
        if private_key.public_key() != self.chain[0].public_key():
            raise _refused("client credentials", "key", "is not the leaf certificate's key")
        self.key = private_key

    @classmethod
    def from_svid(cls, svid: X509Svid) -> Self:
        """A workload's own identity."""
        return cls(chain=svid.chain, key=svid.private_key.reveal())

    def __repr__(self) -> str:
        return f"ClientCredentials({self.facts[0].spiffe_id}, key hidden)"

    @property
    def facts(self) -> tuple[CertificateFacts, ...]:
        """The chain, described."""
        return tuple(_facts(certificate) for certificate in self.chain)


def load_certificates(subject: str, path: str, pem: bytes) -> tuple[x509.Certificate, ...]:
    """Read at least one PEM certificate.

    Raises:
        InputError: There is none, or one can't be read.
    """
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except ValueError as error:
        raise _refused(subject, path, "holds no readable certificate") from error


def _refused(subject: str, path: str, found: str) -> InputError:
    return InputError(
        [Problem(subject=subject, path=path, found=found, wanted="give PEM that belongs together")]
    )
