"""What a certificate authority signs with, read from PEM and proven before it is used."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from troth.identity.bundle import TrustBundle, ca_flaws
from troth.identity.flaws import Flaw, refuse, shown
from troth.identity.issue import build_leaf
from troth.identity.keys import SigningKey, key_flaws, load_signing_key, new_key
from troth.identity.spiffe import SpiffeId, TrustDomain
from troth.identity.validation import verify_path
from troth.identity.x509 import USAGES, load_certificates

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime


class Issuer(NamedTuple):
    """A signing key with its certificates.

    Attributes:
        key: The private key.
        certificate: The CA certificate of that key.
        intermediates: What a peer needs to get from a leaf to a root: ``certificate`` and those
            above it, or nothing if ``certificate`` is a root itself.
        bundle: The roots that vouch for it.
        not_after: When the first certificate up to and with the root expires.
    """

    key: SigningKey
    certificate: x509.Certificate
    intermediates: Sequence[x509.Certificate]
    bundle: TrustBundle
    not_after: datetime


def load_issuer(
    *,
    trust_domain: TrustDomain,
    certificate: bytes,
    key: bytes,
    chain: bytes,
    root: bytes,
    now: datetime,
    subject: str,
) -> Issuer:
    """Read an issuer and prove that what it signs for ``trust_domain`` is believed.

    Raises:
        InputError: It isn't. The problems' paths are the arguments' names.
    """
    own, *above = load_certificates(certificate, subject=subject, path="certificate")
    if chain.strip():
        above += load_certificates(chain, subject=subject, path="chain")
    signing_key = load_signing_key(key, subject=subject, path="key")
    if root.strip():
        bundle = TrustBundle.parse(trust_domain, root, subject=subject, path="root")
    else:
        bundle = TrustBundle.parse(
            trust_domain, _pem(own), subject=subject, path="certificate (as no root is given)"
        )
    intermediates = [
        each for each in dict.fromkeys((own, *above)) if _pem(each) not in bundle.certificates
    ]
    flaws = [flaw for each in intermediates for flaw in _ca_flaws(each, own)]
    flaws += _trust_domain_flaws(own, trust_domain)
    if own.public_key() != signing_key.public_key():
        flaws.append(Flaw("is not the certificate's", "give the pair", "key"))
    refuse(subject, flaws)
    issuer = Issuer(signing_key, own, intermediates, bundle, own.not_valid_after_utc)
    return issuer._replace(not_after=_proven_until(issuer, now, subject))


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _ca_flaws(certificate: x509.Certificate, own: x509.Certificate) -> Iterator[Flaw]:
    path = "certificate" if certificate == own else "chain"
    name = certificate.subject.rfc4514_string()
    yield from key_flaws(certificate.public_key(), path)
    yield from ca_flaws(certificate, path)
    for extension in certificate.extensions:
        match extension.value:
            case x509.ExtendedKeyUsage() as purposes:
                # TLS libraries apply an issuer's purposes to all below it.
                allowed = {*purposes}
                if ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in allowed:
                    continue
                if not allowed.issuperset(USAGES):
                    yield Flaw(
                        f"{name} is restricted to other purposes than serverAuth and clientAuth",
                        "have both in its extendedKeyUsage, or none",
                        path,
                    )
            case x509.NameConstraints() as constraints:
                subtrees = (
                    *(constraints.permitted_subtrees or ()),
                    *(constraints.excluded_subtrees or ()),
                )
                if any(isinstance(each, x509.UniformResourceIdentifier) for each in subtrees):
                    yield Flaw(
                        f"{name} has URI name constraints, which not every TLS library can check",
                        "use a CA certificate without them",
                        path,
                    )


def _trust_domain_flaws(own: x509.Certificate, trust_domain: TrustDomain) -> Iterator[Flaw]:
    """A signing certificate's own SPIFFE ID, if it has one (X509-SVID, section 3.2)."""
    try:
        san = own.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    for uri in san.get_values_for_type(x509.UniformResourceIdentifier):
        if uri.startswith("spiffe:") and uri != str(trust_domain.id):
            yield Flaw(
                f"is the CA of {shown(uri)}", f"give the CA of {trust_domain.id}", "certificate"
            )


def _proven_until(issuer: Issuer, now: datetime, subject: str) -> datetime:
    """Sign for a workload that doesn't exist and have it verified.

    That shows path lengths, validity, name constraints and signatures to be right as a peer will
    see them. Returns when the first certificate on the path expires.
    """
    probe = build_leaf(
        issuer.certificate,
        issuer.key,
        public_key=new_key().public_key(),
        spiffe_id=SpiffeId(issuer.bundle.trust_domain, "/probe"),
        now=now,
        not_after=now + timedelta(minutes=1),
    )
    path = verify_path(
        probe, issuer.intermediates, issuer.bundle, now=now, subject=subject, field="chain"
    )
    return min(each.not_valid_after_utc for each in path[1:])
