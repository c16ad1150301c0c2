"""The certificate authority of one trust domain: made here, or an intermediate of one's own PKI."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Self

import msgspec
from cryptography.hazmat.primitives.serialization import Encoding

from troth.identity.bundle import TrustBundle
from troth.identity.csr import CsrRequest, parse_csr
from troth.identity.flaws import Flaw, refusal, refuse
from troth.identity.issue import build_leaf, build_root
from troth.identity.issuer import Issuer, load_issuer
from troth.identity.keys import PrivateKeyPem, new_key
from troth.identity.spiffe import SpiffeId, TrustDomain

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT_LIFETIME = timedelta(days=3650)
SVID_LIFETIME = timedelta(hours=12)


class IssuedCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """What the authority answers to a request.

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

    def __init__(self, issuer: Issuer) -> None:
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
        return cls(Issuer(key, root, (), bundle, root.not_valid_after_utc))

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
            trust_domain: Whose identities it is to sign.
            certificate: PEM of the CA certificate; its chain may follow in the same text, as in
                the ``tls.crt`` of a Secret.
            key: PEM of its private key, unencrypted.
            chain: PEM of the intermediates above it, nearest first; the CA certificate and the
                root may be repeated in it.
            root: PEM of the roots to believe; may be left out when ``certificate`` is a root.
            now: When it has to be valid.
            subject: What to call it in messages, such as ``Secret troth-system/troth-ca``.

        Raises:
            InputError: Certificates that it signed would not be believed, or not be SVIDs. The
                problems' paths are the arguments' names.
        """
        return cls(
            load_issuer(
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
        """The roots that believe in its signatures."""
        return self._issuer.bundle

    @property
    def not_after(self) -> datetime:
        """When the first certificate from here up to the root expires; nothing outlives it."""
        return self._issuer.not_after

    @property
    def certificate_pem(self) -> bytes:
        """The CA certificate, for keeping it; read again as ``certificate`` of `from_pem`."""
        return self._issuer.certificate.public_bytes(Encoding.PEM)

    @property
    def chain_pem(self) -> bytes:
        """What stands between a leaf and the root: empty when the CA certificate is the root."""
        return b"".join(each.public_bytes(Encoding.PEM) for each in self._issuer.intermediates)

    @property
    def private_key(self) -> PrivateKeyPem:
        """The CA's key, for keeping it; read again as ``key`` of `from_pem`."""
        return PrivateKeyPem(self._issuer.key)

    def sign(
        self,
        request: CsrRequest | bytes,
        *,
        now: datetime,
        lifetime: timedelta = SVID_LIFETIME,
        expected: SpiffeId | None = None,
        subject: str = "certificate signing request",
    ) -> IssuedCertificate:
        """Answer a request with an SVID that never outlives this authority.

        Args:
            request: A checked request, or the PEM of one to be checked by `parse_csr`.
            now: The certificate is valid from a minute before it.
            lifetime: How long after ``now`` it is valid.
            expected: The identity that the requester may have. Leave it out only where whoever
                asks may have any identity of the trust domain.
            subject: What to call the request in messages.

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
