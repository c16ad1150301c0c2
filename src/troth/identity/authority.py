"""The certificate authority of one trust domain: generated here, or an intermediate of your PKI.

Its certificate and key are read from PEM and verified before use. It issues two kinds of
certificates, a root and a workload's SVID. Every field of their profiles is here and nowhere else;
the tests check them extension by extension.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Self

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from troth.errors import Flaw, refusal, refuse
from troth.identity.bundle import TrustBundle, ca_flaws
from troth.identity.csr import CheckedCsr, parse_csr
from troth.identity.keys import PrivateKeyPem, SigningKey, key_flaws, load_signing_key, new_key
from troth.identity.profile import USAGES, load_certificates, verify_path
from troth.identity.spiffe import SpiffeId, TrustDomain
from troth.syntax import described

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes


CLOCK_SKEW = timedelta(seconds=60)
"""How far certificates are backdated, for peers whose clocks are behind."""


def build_root(
    key: SigningKey, trust_domain: TrustDomain, *, now: datetime, lifetime: timedelta
) -> x509.Certificate:
    """Make a self-signed root that signs workloads directly, and no further CA."""
    serial = x509.random_serial_number()
    # A unique subject, so that two roots in one bundle have different names. The trust domain is
    # in the SAN: it may be longer than the 64 characters of a common name.
    name = x509.Name(
        [
            x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "troth"),
            x509.NameAttribute(x509.NameOID.COMMON_NAME, f"troth root {serial >> 96:016x}"),
        ]
    )
    key_id = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before((now - CLOCK_SKEW).replace(microsecond=0))
        .not_valid_after((now + lifetime).replace(microsecond=0))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(key_cert_sign=True), critical=True)
        .add_extension(_uri_san(trust_domain.id), critical=False)
        .add_extension(key_id, critical=False)
        .sign(key, hashes.SHA256())
    )


def build_leaf(
    issuer: x509.Certificate,
    issuer_key: SigningKey,
    *,
    public_key: CertificatePublicKeyTypes,
    spiffe_id: SpiffeId,
    now: datetime,
    not_after: datetime,
) -> x509.Certificate:
    """Make a workload's certificate: an X509-SVID with an empty subject and one URI as its name."""
    return (
        _leaf_template(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before((now - CLOCK_SKEW).replace(microsecond=0))
        .not_valid_after(not_after.replace(microsecond=0))
        # Critical because the subject is empty (RFC 5280, section 4.1.2.6).
        .add_extension(_uri_san(spiffe_id), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


@lru_cache(maxsize=2)
def _leaf_template(issuer: x509.Certificate) -> x509.CertificateBuilder:
    """The fields that all of an issuer's leaves share; builders are immutable."""
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(issuer.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(USAGES), critical=False)
        .add_extension(_authority_key_id(issuer), critical=False)
    )


def _uri_san(spiffe_id: SpiffeId) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([x509.UniformResourceIdentifier(str(spiffe_id))])


def _authority_key_id(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """The issuer's key identifier as its certificate has it: a foreign CA may compute its own."""
    try:
        key_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        key_id = x509.SubjectKeyIdentifier.from_public_key(issuer.public_key())
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id)


def _key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


class CaKeyPair(NamedTuple):
    """A signing key with its certificates.

    Attributes:
        key: The private key.
        certificate: The CA certificate of that key.
        intermediates: Sent with each leaf: ``certificate`` and the intermediates above it, or
            nothing if ``certificate`` is a root itself.
        bundle: The roots that vouch for it.
        not_after: When the first certificate up to and with the root expires.
    """

    key: SigningKey
    certificate: x509.Certificate
    intermediates: Sequence[x509.Certificate]
    bundle: TrustBundle
    not_after: datetime


def load_ca_key_pair(
    *,
    trust_domain: TrustDomain,
    certificate: bytes,
    key: bytes,
    chain: bytes,
    root: bytes,
    now: datetime,
    subject: str,
) -> CaKeyPair:
    """Read an issuer and verify that peers accept what it signs for ``trust_domain``.

    Raises:
        InputError: They don't. The problems' paths are the arguments' names.
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
    issuer = CaKeyPair(signing_key, own, intermediates, bundle, own.not_valid_after_utc)
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
                # TLS libraries apply an issuer's purposes to everything below it.
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
                f"is the CA of {described(uri)}", f"give the CA of {trust_domain.id}", "certificate"
            )


def _proven_until(issuer: CaKeyPair, now: datetime, subject: str) -> datetime:
    """Sign for a workload that doesn't exist, and verify the result as a peer would.

    That checks path lengths, validity, name constraints and signatures. Returns when the first
    certificate on the path expires.
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


ROOT_LIFETIME = timedelta(days=3650)
SVID_LIFETIME = timedelta(hours=12)


class IssuedCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """The authority's answer to a request.

    Attributes:
        spiffe_id: The identity that the leaf carries.
        chain: PEM, the leaf first, then the intermediates, without the root.
        serial: The leaf's serial number.
        not_before: Start of the leaf's validity.
        not_after: End of the leaf's validity.
    """

    spiffe_id: SpiffeId
    chain: bytes
    serial: int
    not_before: datetime
    not_after: datetime


class CertificateAuthority:
    """Signs the SVIDs of one trust domain, with the key in memory.

    Make one with `self_signed` or `from_pem`.
    """

    def __init__(self, issuer: CaKeyPair) -> None:
        self._issuer = issuer

    @classmethod
    def self_signed(
        cls, trust_domain: TrustDomain, now: datetime, lifetime: timedelta = ROOT_LIFETIME
    ) -> Self:
        """Make a new root (ECDSA P-256, path length 0) valid from a minute before ``now``."""
        key = new_key()
        root = build_root(key, trust_domain, now=now, lifetime=lifetime)
        bundle = TrustBundle(
            trust_domain=trust_domain, certificates=(root.public_bytes(Encoding.PEM),)
        )
        return cls(CaKeyPair(key, root, (), bundle, root.not_valid_after_utc))

    @classmethod
    def from_pem(
        cls,
        *,
        trust_domain: TrustDomain,
        certificate: bytes,
        key: bytes,
        chain: bytes = b"",
        root: bytes = b"",
        now: datetime,
        subject: str = "certificate authority",
    ) -> Self:
        """Take over a root, or an intermediate below a root that isn't here.

        Args:
            trust_domain: The one whose identities it signs.
            certificate: PEM of the CA certificate; its chain may follow in the same text, as in
                the ``tls.crt`` of a Secret.
            key: PEM of its private key, unencrypted.
            chain: PEM of the intermediates above it, nearest first; the CA certificate and the
                root may be repeated in it.
            root: PEM of the trusted roots; may be left out if ``certificate`` is a root.
            now: When it has to be valid.
            subject: Its name in messages, such as ``Secret troth-system/troth-ca``.

        Raises:
            InputError: Peers would not accept what it signs, or it would not sign SVIDs. The
                problems' paths are the arguments' names.
        """
        return cls(
            load_ca_key_pair(
                trust_domain=trust_domain,
                certificate=certificate,
                key=key,
                chain=chain,
                root=root,
                now=now,
                subject=subject,
            )
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.trust_domain} until {self.not_after:%FT%TZ}>"

    @property
    def trust_domain(self) -> TrustDomain:
        """The trust domain whose identities it signs."""
        return self._issuer.bundle.trust_domain

    @property
    def trust_bundle(self) -> TrustBundle:
        """The roots that vouch for what it signs."""
        return self._issuer.bundle

    @property
    def not_after(self) -> datetime:
        """When the first certificate up to the root expires; nothing it signs is valid longer."""
        return self._issuer.not_after

    @property
    def certificate_pem(self) -> bytes:
        """The CA certificate, to store: the ``certificate`` of `from_pem`."""
        return self._issuer.certificate.public_bytes(Encoding.PEM)

    @property
    def chain_pem(self) -> bytes:
        """The intermediates up to the root; empty if the CA certificate is the root."""
        return b"".join(each.public_bytes(Encoding.PEM) for each in self._issuer.intermediates)

    @property
    def private_key(self) -> PrivateKeyPem:
        """The CA's key, to store: the ``key`` of `from_pem`."""
        return PrivateKeyPem(self._issuer.key)

    def sign(
        self,
        request: CheckedCsr | bytes,
        *,
        now: datetime,
        lifetime: timedelta = SVID_LIFETIME,
        expected: SpiffeId | None = None,
        subject: str = "certificate signing request",
    ) -> IssuedCertificate:
        """Answer a request with an SVID that expires no later than this authority.

        Args:
            request: A checked request, or the PEM of one to be checked by `parse_csr`.
            now: The certificate is valid from a minute before it.
            lifetime: How long after ``now`` the certificate is valid.
            expected: The identity that the requester may have. Leave it out only if the requester
                may have any identity of the trust domain.
            subject: The request's name in messages.

        Raises:
            InputError: The request is refused, or this authority has expired.
            ValueError: ``lifetime`` is not positive.
        """
        if lifetime <= timedelta(0):
            raise ValueError(f"a certificate cannot live for {lifetime}")
        if isinstance(request, bytes):
            request = parse_csr(request, subject=subject)
        refuse(subject, self._request_flaws(request.spiffe_id, expected))
        if now >= self._issuer.not_after:
            raise refusal(
                f"certificate authority of {self.trust_domain}",
                Flaw(f"has expired at {self._issuer.not_after:%FT%TZ}", "replace it"),
            )
        leaf = build_leaf(
            self._issuer.certificate,
            self._issuer.key,
            public_key=request.public_key,
            spiffe_id=request.spiffe_id,
            now=now,
            not_after=min(now + lifetime, self._issuer.not_after),
        )
        chain = (leaf, *self._issuer.intermediates)
        return IssuedCertificate(
            spiffe_id=request.spiffe_id,
            chain=b"".join(each.public_bytes(Encoding.PEM) for each in chain),
            serial=leaf.serial_number,
            not_before=leaf.not_valid_before_utc,
            not_after=leaf.not_valid_after_utc,
        )

    def _request_flaws(self, asked: SpiffeId, expected: SpiffeId | None) -> Iterator[Flaw]:
        path = "subjectAltName"
        if asked.trust_domain != self.trust_domain:
            yield Flaw(
                f"{asked} is of another trust domain", f"ask for one of {self.trust_domain}", path
            )
        if expected is not None and asked != expected:
            yield Flaw(f"asks for {asked}", f"the requester may have {expected} alone", path)
