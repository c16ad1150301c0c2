"""A trust domain with its authority, and certificates that troth itself would never make."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING, NamedTuple

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from troth.identity.authority import CertificateAuthority
from troth.identity.keys import PrivateKeyPem, new_key
from troth.identity.spiffe import SpiffeId, TrustDomain

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec


@pytest.fixture
def now() -> dt.datetime:
    return dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)


@pytest.fixture
def trust_domain() -> TrustDomain:
    return TrustDomain.parse("cluster.local")


@pytest.fixture
def web(trust_domain: TrustDomain) -> SpiffeId:
    return SpiffeId.for_service_account(trust_domain, "finance", "web")


@pytest.fixture
def authority(trust_domain: TrustDomain, now: dt.datetime) -> CertificateAuthority:
    return CertificateAuthority.self_signed(trust_domain, now)


class Made(NamedTuple):
    """A certificate with its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return PrivateKeyPem(self.key).reveal()


class Forge:
    """Makes certificates with any flaw; the defaults are a good CA certificate."""

    def __init__(self, now: dt.datetime) -> None:
        self._now = now

    def make(  # one argument for each thing that can be wrong
        self,
        name: str,
        issuer: Made | None = None,
        *,
        ca: bool = True,
        path_length: int | None = None,
        usages: frozenset[str] = frozenset({"key_cert_sign"}),
        uris: tuple[str, ...] = (),
        start: dt.timedelta = dt.timedelta(days=-1),
        end: dt.timedelta = dt.timedelta(days=100),
        extra: tuple[tuple[x509.ExtensionType, bool], ...] = (),
    ) -> Made:
        key = new_key()
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)] if name else [])
        issuer_key = issuer.key if issuer else key
        names = [
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer.certificate.subject if issuer else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now + start)
            .not_valid_after(self._now + end)
            .add_extension(x509.BasicConstraints(ca, path_length if ca else None), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False
            )
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
                critical=False,
            )
        )
        if usages:
            usage = x509.KeyUsage(**{each: each in usages for each in names})
            builder = builder.add_extension(usage, critical=True)
        if uris:
            san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(u) for u in uris])
            builder = builder.add_extension(san, critical=not name)
        for extension, critical in extra:
            builder = builder.add_extension(extension, critical=critical)
        return Made(builder.sign(issuer_key, hashes.SHA256()), key)


@pytest.fixture
def forge(now: dt.datetime) -> Forge:
    return Forge(now)
