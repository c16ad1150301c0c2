"""The trust bundle: the roots that a trust domain accepts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from troth.errors import Flaw, refuse
from troth.identity.keys import key_flaws
from troth.identity.profile import load_certificates
from troth.identity.spiffe import TrustDomain

if TYPE_CHECKING:
    from collections.abc import Iterator


class TrustBundle(msgspec.Struct, frozen=True, kw_only=True):
    """The root certificates of one trust domain.

    There are several while a root is being replaced: the new one is trusted before it signs, and
    the old one until its last certificate has expired.

    Attributes:
        trust_domain: The only one that these roots vouch for.
        certificates: PEM, one self-signed CA certificate each, in the order given, without repeats.
    """

    trust_domain: TrustDomain
    certificates: tuple[bytes, ...]

    @classmethod
    def parse(
        cls, trust_domain: TrustDomain, pem: bytes, *, subject: str = "trust bundle", path: str = ""
    ) -> Self:
        """Read the roots of ``trust_domain`` from concatenated PEM.

        Raises:
            InputError: There is none, or one of them isn't a self-signed CA certificate;
                ``subject`` and ``path`` name the input in the message.
        """
        roots = load_certificates(pem, subject=subject, path=path)
        refuse(subject, (flaw for root in roots for flaw in _root_flaws(root, path)))
        unique = dict.fromkeys(root.public_bytes(Encoding.PEM) for root in roots)
        return cls(trust_domain=trust_domain, certificates=tuple(unique))

    @property
    def pem(self) -> bytes:
        """All roots concatenated, as files and Envoy's ``trusted_ca`` have them."""
        return b"".join(self.certificates)

    def merge(self, other: Self) -> Self:
        """Both bundles' roots, this one's first, for the overlap of a rotation.

        Raises:
            ValueError: Their trust domains differ.
        """
        if other.trust_domain != self.trust_domain:
            raise ValueError(f"{other.trust_domain} is not {self.trust_domain}")
        both = dict.fromkeys((*self.certificates, *other.certificates))
        return msgspec.structs.replace(self, certificates=tuple(both))


def _root_flaws(root: x509.Certificate, path: str) -> Iterator[Flaw]:
    name = root.subject.rfc4514_string()
    try:
        root.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature):
        # An intermediate as trust anchor works in some TLS libraries and not in others.
        yield Flaw(f"{name} is not self-signed", "give the root of its chain", path)
    yield from key_flaws(root.public_key(), path)
    yield from ca_flaws(root, path)


def ca_flaws(certificate: x509.Certificate, path: str) -> Iterator[Flaw]:
    """Say why ``certificate`` may not sign others (RFC 5280, sections 4.2.1.3 and 4.2.1.9)."""
    name = certificate.subject.rfc4514_string()
    extensions = certificate.extensions
    try:
        is_ca = extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        is_ca = False
    try:
        may_sign = extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    except x509.ExtensionNotFound:
        may_sign = False
    if not is_ca:
        yield Flaw(f"{name} is not a CA certificate", "have basicConstraints CA:TRUE", path)
    if not may_sign:
        yield Flaw(f"{name} may not sign certificates", "have keyUsage keyCertSign", path)
