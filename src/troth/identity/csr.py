"""Certificate signing requests (PKCS #10, RFC 2986): made by a node, checked by the authority.

A request names one SPIFFE ID and proves that its maker holds the key. Only the ID and the key reach
the certificate. A request that asks for anything else is refused, not trimmed: its maker would
expect something that it won't get.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from troth.errors import Flaw, refusal
from troth.identity.keys import PublicKey, key_flaws
from troth.identity.profile import SIGNATURE_HASHES, UNREADABLE, USAGES, set_key_usages, workload_id
from troth.identity.spiffe import SpiffeId
from troth.syntax import described

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.asymmetric import ec

MAX_CSR_BYTES = 16 * 1024
"""An RSA-4096 request with the longest SPIFFE ID needs a quarter of this."""

_BEGIN = b"-----BEGIN CERTIFICATE REQUEST-----"
_END = b"-----END CERTIFICATE REQUEST-----"


class CheckedCsr(msgspec.Struct, frozen=True, kw_only=True):
    """What a checked request asks for; its maker holds the private key.

    Attributes:
        spiffe_id: The identity it asks for. The authority decides whether it may have it.
        public_key: A key that `key_flaws` accepts.
    """

    spiffe_id: SpiffeId
    public_key: PublicKey


def build_csr(key: ec.EllipticCurvePrivateKey, spiffe_id: SpiffeId) -> bytes:
    """Make a request for an SVID of ``spiffe_id``: PEM, empty subject, the ID as the only SAN."""
    san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id))])
    csr = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([]))
        .add_extension(san, critical=True)
        .sign(key, hashes.SHA256())
    )
    return csr.public_bytes(serialization.Encoding.PEM)


def parse_csr(pem: bytes, *, subject: str = "certificate signing request") -> CheckedCsr:
    """Read and check an untrusted request.

    Args:
        pem: One ``CERTIFICATE REQUEST`` block and nothing else (``spec.request`` of a
            CertificateSigningRequest, once decoded).
        subject: The request's name in messages.

    Raises:
        InputError: It is malformed, its signature or key is unacceptable, or it asks for something
            other than an SVID of one workload. Every problem is listed.
    """
    csr = _load(pem, subject)
    public_key, proof_flaws = _proven_key(csr)
    flaws = [*proof_flaws, *_subject_flaws(csr)]
    spiffe_id = None
    try:
        extensions = csr.extensions
    except UNREADABLE as error:
        flaws.append(Flaw(f"cannot be read ({error})", "encode it as DER", "extensions"))
    else:
        spiffe_id, san_flaws = workload_id(extensions)
        flaws += san_flaws
        flaws += (flaw for extension in extensions for flaw in _extension_flaws(extension.value))
    if flaws or spiffe_id is None or public_key is None:
        raise refusal(subject, *flaws)
    return CheckedCsr(spiffe_id=spiffe_id, public_key=public_key)


def _load(pem: bytes, subject: str) -> x509.CertificateSigningRequest:
    if len(pem) > MAX_CSR_BYTES:
        raise refusal(subject, Flaw(f"is longer than {MAX_CSR_BYTES} bytes", "send one request"))
    text = pem.strip()
    if not (text.startswith(_BEGIN) and text.endswith(_END) and text.count(b"-----BEGIN ") == 1):
        raise refusal(
            subject,
            Flaw("is not one PEM block CERTIFICATE REQUEST", "send that and nothing beside it"),
        )
    try:
        return x509.load_pem_x509_csr(text)
    except UNREADABLE as error:
        raise refusal(
            subject, Flaw(f"is not a PKCS #10 request ({error})", "encode it as RFC 2986 says")
        ) from error


def _proven_key(csr: x509.CertificateSigningRequest) -> tuple[PublicKey | None, list[Flaw]]:
    """The key, if it is acceptable and the request's maker holds it; otherwise why not."""
    try:
        key = csr.public_key()
        flaws = list(key_flaws(key, "subjectPublicKey"))
    except UNREADABLE as error:
        return None, [Flaw(f"cannot be read ({error})", "send a public key", "subjectPublicKey")]
    if flaws or not isinstance(key, PublicKey):
        return None, flaws  # verifying with a weak key proves nothing, with a huge one takes long
    try:
        weak = not isinstance(csr.signature_hash_algorithm, SIGNATURE_HASHES)
        proven = not weak and csr.is_signature_valid
    except UNREADABLE:
        weak, proven = True, False
    if weak:
        flaw = Flaw("uses an algorithm that is not accepted", "use SHA-256 or better", "signature")
    elif not proven:
        flaw = Flaw(
            "was not made by this key over this request", "sign with the private key", "signature"
        )
    else:
        return key, []
    return None, [flaw]


def _subject_flaws(csr: x509.CertificateSigningRequest) -> Iterator[Flaw]:
    try:
        name = csr.subject
    except UNREADABLE as error:
        yield Flaw(f"cannot be read ({error})", "leave it empty", "subject")
        return
    if name.rdns:
        yield Flaw(
            f"is {described(name.rfc4514_string())}",
            "leave it empty: the SPIFFE ID is the name",
            "subject",
        )


def _extension_flaws(extension: x509.ExtensionType) -> Iterator[Flaw]:
    """Refuse an extension that an SVID of one workload doesn't have."""
    match extension:
        case x509.SubjectAlternativeName():
            for name in extension:
                if not isinstance(name, x509.UniformResourceIdentifier):
                    yield Flaw(
                        f"has a {type(name).__name__}",
                        "have no other names than the SPIFFE ID",
                        "subjectAltName",
                    )
        case x509.BasicConstraints():
            if extension.ca:
                yield Flaw("asks for a CA", "ask for a workload's certificate", "basicConstraints")
        case x509.KeyUsage() | x509.ExtendedKeyUsage():
            yield from _usage_flaws(extension)
        case _:
            yield Flaw(
                f"{extension.oid.dotted_string} is not granted", "leave it out", "extensions"
            )


def _usage_flaws(extension: x509.KeyUsage | x509.ExtendedKeyUsage) -> Iterator[Flaw]:
    if isinstance(extension, x509.KeyUsage):
        for usage in set_key_usages(extension):
            if usage != "digitalSignature":
                yield Flaw(f"asks for {usage}", "ask for digitalSignature alone", "keyUsage")
        return
    for purpose in extension:
        if purpose not in USAGES:
            yield Flaw(
                f"asks for {purpose.dotted_string}",
                "ask for serverAuth and clientAuth alone",
                "extendedKeyUsage",
            )
