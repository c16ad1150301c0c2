"""The two kinds of certificates that troth makes: a root, and a workload's SVID.

Every field of the profile is here and nowhere else; the tests check it extension by extension.
"""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from troth.identity.x509 import USAGES

if TYPE_CHECKING:
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

    from troth.identity.keys import SigningKey
    from troth.identity.spiffe import SpiffeId, TrustDomain

CLOCK_SKEW = timedelta(seconds=60)
"""How far certificates are backdated, for peers whose clock is behind."""


def build_root(
    key: SigningKey, trust_domain: TrustDomain, *, now: datetime, lifetime: timedelta
) -> x509.Certificate:
    """Make a self-signed root that signs workloads directly, and no further CA."""
    serial = x509.random_serial_number()
    # A subject of its own, so that two roots in one bundle can be told apart by name. The trust
    # domain is in the SAN: it may be longer than the 64 characters of a common name.
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
    """Make the certificate of one workload: an X509-SVID with no subject and one URI as name."""
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
    """What all of an issuer's leaves have in common; a builder never changes."""
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
    """The issuer's own key identifier, which a foreign CA may have computed in another way."""
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
