"""The X.509-SVID profile: how certificates are read, whose they are, and whether they are valid.

Path validation is that of RFC 5280; the rules for leaves are those of SPIFFE.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID

from troth.errors import Flaw, InputError, flaws_of, refusal, refuse
from troth.identity.keys import key_flaws
from troth.identity.spiffe import SpiffeId

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from troth.identity.bundle import TrustBundle

SIGNATURE_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)

USAGES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
"""The extended key usages of every SVID: a workload is both client and server."""

UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises for malformed or exotic X.509, depending on the field."""

MAX_BUNDLE_BYTES = 1024 * 1024


def load_certificates(pem: bytes, *, subject: str, path: str) -> list[x509.Certificate]:
    """Read the certificates in ``pem``, in order; comments between them are allowed.

    Raises:
        InputError: There are none, or something other than certificates is among them.
    """
    wanted = "give certificates in PEM and nothing else"
    if len(pem) > MAX_BUNDLE_BYTES:
        raise refusal(subject, Flaw(f"is longer than {MAX_BUNDLE_BYTES} bytes", wanted, path))
    if pem.count(b"-----BEGIN ") != pem.count(b"-----BEGIN CERTIFICATE-----"):
        # A private key that slipped into a bundle would be distributed with it.
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
    """The names of the bits that are set (RFC 5280, section 4.2.1.3)."""
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


_FORBIDDEN_LEAF_USAGES = frozenset({"keyCertSign", "cRLSign"})


class VerifiedSvid(NamedTuple):
    """A chain that passed validation.

    Attributes:
        spiffe_id: The identity it proves.
        path: The certificates from the leaf to the root that vouches for it, both included.
    """

    spiffe_id: SpiffeId
    path: Sequence[x509.Certificate]

    @property
    def leaf(self) -> x509.Certificate:
        """The workload's own certificate."""
        return self.path[0]


def validate_svid_chain(
    chain: bytes, bundle: TrustBundle, *, now: datetime, expected: SpiffeId | None = None
) -> SpiffeId:
    """Decide whether ``chain`` proves an identity at ``now``, and which (X509-SVID, section 5).

    A chain with URI name constraints is refused: the underlying verifier does not support them, so
    it cannot check them.

    Args:
        chain: PEM, the leaf first, then its intermediates.
        bundle: The trusted roots, for identities of the bundle's trust domain only.
        now: When it has to be valid.
        expected: The identity that it has to prove, if known.

    Raises:
        InputError: It proves nothing, or an identity other than ``expected``.
    """
    subject = "certificate chain"
    return verify_svid(chain, bundle, now=now, expected=expected, subject=subject).spiffe_id


def verify_svid(
    chain: bytes, bundle: TrustBundle, *, now: datetime, expected: SpiffeId | None, subject: str
) -> VerifiedSvid:
    """The same as `validate_svid_chain`, but return the verified path, too."""
    leaf, *intermediates = load_certificates(chain, subject=subject, path="")
    spiffe_id, flaws = workload_id(leaf.extensions)
    flaws += (*_leaf_flaws(leaf),)
    if flaws or spiffe_id is None:
        raise refusal(subject, *flaws)
    refuse(subject, _identity_flaws(spiffe_id, bundle, expected))
    path = verify_path(leaf, intermediates, bundle, now=now, subject=subject)
    return VerifiedSvid(spiffe_id, path)


def verify_path(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    bundle: TrustBundle,
    *,
    now: datetime,
    subject: str,
    field: str = "",
) -> Sequence[x509.Certificate]:
    """Find the path from ``leaf`` to a root: signatures, validity, constraints (RFC 5280, 6.1).

    Raises:
        InputError: There is none; ``subject`` and ``field`` name the chain in the message.
    """
    if not bundle.certificates:
        raise refusal(subject, Flaw("the trust bundle is empty", "believe some root", field))
    roots = [x509.load_pem_x509_certificate(pem) for pem in bundle.certificates]
    verifier = (
        verification.PolicyBuilder()
        .store(verification.Store(roots))
        .time(now)
        # The server verifier would insist on a DNS name. Server usage is checked with the leaf's
        # other usages.
        .build_client_verifier()
    )
    try:
        return verifier.verify(leaf, list(intermediates)).chain
    except verification.VerificationError as error:
        chain = (leaf, *intermediates)
        concerned = (root for root in roots if root.subject in {each.issuer for each in chain})
        flaws = [
            *_validity_flaws((*chain, *concerned), now, field),
            Flaw(
                f"does not lead to a root of {bundle.trust_domain} ({error})",
                "send the leaf and every intermediate, signed below a root of the trust bundle",
                field,
            ),
        ]
        raise refusal(subject, *flaws) from error


def _leaf_flaws(leaf: x509.Certificate) -> Iterator[Flaw]:
    """X509-SVID, sections 4.1, 4.3 and 4.4."""
    yield from key_flaws(leaf.public_key(), "subjectPublicKey")
    for extension in leaf.extensions:
        match extension.value:
            case x509.BasicConstraints(ca=True):
                yield Flaw("is a CA", "have CA:FALSE", "basicConstraints")
            case x509.ExtendedKeyUsage() as purposes if not set(USAGES).issubset(purposes):
                yield Flaw(
                    "lacks serverAuth or clientAuth", "have both, or none", "extendedKeyUsage"
                )
    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    except x509.ExtensionNotFound:
        yield Flaw("is missing", "have digitalSignature, critical", "keyUsage")
        return
    usages = set(set_key_usages(usage.value))
    if not usage.critical:
        yield Flaw("is not critical", "mark it critical", "keyUsage")
    if "digitalSignature" not in usages:
        yield Flaw("lacks digitalSignature", "have it", "keyUsage")
    for forbidden in sorted(usages & _FORBIDDEN_LEAF_USAGES):
        yield Flaw(f"has {forbidden}", "leave that to a CA", "keyUsage")


def _identity_flaws(
    spiffe_id: SpiffeId, bundle: TrustBundle, expected: SpiffeId | None
) -> Iterator[Flaw]:
    if spiffe_id.trust_domain != bundle.trust_domain:
        yield Flaw(
            f"{spiffe_id} is of another trust domain",
            f"be of {bundle.trust_domain}",
            "subjectAltName",
        )
    if expected is not None and spiffe_id != expected:
        yield Flaw(f"is {spiffe_id}", f"be {expected}", "subjectAltName")


def _validity_flaws(
    certificates: Sequence[x509.Certificate], now: datetime, field: str
) -> Iterator[Flaw]:
    """The most common reason, in plainer words than the verifier's."""
    for certificate in certificates:
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not start <= now <= end:
            name = certificate.subject.rfc4514_string() or "the leaf"
            yield Flaw(
                f"{name} is valid from {start:%FT%TZ} to {end:%FT%TZ}, and now is {now:%FT%TZ}",
                "renew it, or set the clock right",
                field,
            )
