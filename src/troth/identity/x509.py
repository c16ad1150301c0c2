"""What signing requests and certificates have in common: how they are read, and whose they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from troth.errors import InputError
from troth.identity.flaws import Flaw, flaws_of, refusal
from troth.identity.spiffe import SpiffeId

if TYPE_CHECKING:
    from collections.abc import Iterator

SIGNATURE_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)

USAGES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
"""The extended key usages of every SVID: a workload is both ends of its connections."""

UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises for malformed or exotic X.509, depending on where it is malformed."""

MAX_BUNDLE_BYTES = 1024 * 1024


def load_certificates(pem: bytes, *, subject: str, path: str) -> list[x509.Certificate]:
    """Read the certificates in ``pem``, in their order; comments between them are allowed.

    Raises:
        InputError: There are none, or something other than certificates is among them.
    """
    wanted = "give certificates in PEM and nothing else"
    if len(pem) > MAX_BUNDLE_BYTES:
        raise refusal(subject, Flaw(f"is longer than {MAX_BUNDLE_BYTES} bytes", wanted, path))
    if pem.count(b"-----BEGIN ") != pem.count(b"-----BEGIN CERTIFICATE-----"):
        # A private key that slipped into a bundle would be handed out with it.
        raise refusal(subject, Flaw("has other PEM blocks than certificates", wanted, path))
    try:
        certificates = x509.load_pem_x509_certificates(pem)
        for certificate in certificates:
            _ = certificate.extensions, certificate.public_key()
    except UNREADABLE as error:
        raise refusal(subject, Flaw(f"cannot be read ({error})", wanted, path)) from error
    return certificates


def workload_id(extensions: x509.Extensions) -> tuple[SpiffeId | None, tuple[Flaw, ...]]:
    """Find the one SPIFFE ID of a workload in ``subjectAltName``, or say why there is none.

    X509-SVID, section 2 (exactly one URI) and section 3.1 (a path).
    """
    path = "subjectAltName"
    try:
        san = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None, (Flaw("is missing", "name the SPIFFE ID as its only URI", path),)
    uris = san.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        return None, (Flaw(f"has {len(uris)} URIs", "have exactly one, the SPIFFE ID", path),)
    try:
        spiffe_id = SpiffeId.parse(uris[0])
    except InputError as error:
        return None, tuple(flaws_of(error, path))
    if not spiffe_id.path:
        return None, (
            Flaw(f"{spiffe_id} names the trust domain itself", "name a workload in it", path),
        )
    return spiffe_id, ()


def set_key_usages(usage: x509.KeyUsage) -> Iterator[str]:
    """The names (RFC 5280, section 4.2.1.3) of the bits that are set."""
    bits = {
        "digitalSignature": usage.digital_signature,
        "contentCommitment": usage.content_commitment,
        "keyEncipherment": usage.key_encipherment,
        "dataEncipherment": usage.data_encipherment,
        "keyAgreement": usage.key_agreement,
        "keyCertSign": usage.key_cert_sign,
        "cRLSign": usage.crl_sign,
    }
    yield from (name for name, is_set in bits.items() if is_set)


def root_fingerprint(pem: bytes) -> str:
    """Name a root certificate by the SHA-256 of its DER, as ``openssl x509 -fingerprint`` does."""
    return x509.load_pem_x509_certificate(pem).fingerprint(hashes.SHA256()).hex()
