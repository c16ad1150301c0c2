"""What a controller's answer to a certificate request costs beside a bare loop.

The bare loop is what any signer has to do with `cryptography`: read a request's PEM, prove that its
maker holds the key, build a certificate with the same extensions, sign it, write it as PEM. The
controller's path begins with the request as the API server has it, and judges all of it: who asks,
for what identity, and for what else. The signatures alone, without any request, are shown beside.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from lightkube.models.certificates_v1 import CertificateSigningRequestSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.certificates_v1 import CertificateSigningRequest

from benchmarks.framework import Benchmark, Better, Figure, Run, interleaved, ratio
from benchmarks.framework.yardstick import timed
from troth.cluster.contract import (
    CSR_USAGES,
    NODE_NAME_ATTRIBUTE,
    NODE_SERVICE_ACCOUNT,
    SIGNER_NAME,
)
from troth.controller.signing import Claim, SigningRules, examine
from troth.identity.authority import CertificateAuthority
from troth.identity.csr import build_csr
from troth.identity.keys import new_key
from troth.identity.spiffe import SpiffeId, TrustDomain
from troth.mesh.world import DEFAULT_HOME

if TYPE_CHECKING:
    from collections.abc import Iterator

_TARGET = 0.7
_BATCH = 100
_TRUST_DOMAIN = TrustDomain.parse("cluster.local")
_RULES = SigningRules(trust_domain=_TRUST_DOMAIN)
_NOW = datetime.now(UTC)
_PURPOSES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


def _run(run: Run) -> Iterator[Figure]:
    authority = CertificateAuthority.self_signed(_TRUST_DOMAIN, now=_NOW)
    keys = [new_key() for _ in range(_BATCH)]
    identities = [
        SpiffeId.for_service_account(_TRUST_DOMAIN, "shop", f"account-{number}")
        for number in range(_BATCH)
    ]
    requests = [_request(key, who) for key, who in zip(keys, identities, strict=True)]
    pems = [base64.b64decode(request.spec.request) for request in requests]
    public_keys = [key.public_key() for key in keys]
    bare = _Bare(authority)

    def answer_all() -> None:
        for request in requests:
            claim = examine(request, _RULES)
            if not isinstance(claim, Claim):
                raise TypeError(claim)
            authority.sign(claim.request, now=_NOW, lifetime=claim.lifetime)

    def answer_all_barely() -> None:
        for pem in pems:
            bare.answer(pem)

    def sign_all() -> None:
        for key, who in zip(public_keys, identities, strict=True):
            bare.sign(key, str(who))

    samples = interleaved(
        {
            "bare": lambda: _BATCH * 1000 / timed(answer_all_barely),
            "signatures": lambda: _BATCH * 1000 / timed(sign_all),
            "answers": lambda: _BATCH * 1000 / timed(answer_all),
        },
        run.rounds(30, 5, "signatures"),
    )
    yield ratio(
        "answers per second",
        samples["answers"],
        samples["bare"],
        to="a bare loop's",
        unit="1/s",
        better=Better.HIGHER,
        target=_TARGET,
    )
    yield ratio(
        "answers per second, to signatures alone",
        samples["answers"],
        samples["signatures"],
        to="signatures without requests",
        unit="1/s",
        better=Better.HIGHER,
    )


class _Bare:
    """A loop over `cryptography`, with the same certificate as result and nothing checked."""

    def __init__(self, authority: CertificateAuthority) -> None:
        key = load_pem_private_key(authority.private_key.reveal(), None)
        self._key: ec.EllipticCurvePrivateKey = key  # type: ignore[assignment]  # the authority's are
        self._issuer = x509.load_pem_x509_certificate(authority.certificate_pem)

    def answer(self, pem: bytes) -> bytes:
        csr = x509.load_pem_x509_csr(pem)
        if not csr.is_signature_valid:
            raise ValueError(pem)
        san = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (identity,) = san.get_values_for_type(x509.UniformResourceIdentifier)
        public_key = csr.public_key()
        if not isinstance(public_key, ec.EllipticCurvePublicKey):
            raise TypeError(public_key)
        return self.sign(public_key, identity)

    def sign(self, public_key: ec.EllipticCurvePublicKey, identity: str) -> bytes:
        key_id = x509.SubjectKeyIdentifier.from_public_key(self._issuer.public_key())
        san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(identity)])
        usage = x509.KeyUsage(
            digital_signature=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=False,
            crl_sign=False,
            encipher_only=False,
            decipher_only=False,
        )
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self._issuer.subject)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(_NOW)
            .not_valid_after(_NOW + timedelta(hours=12))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage(_PURPOSES), critical=False)
            .add_extension(san, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id),
                critical=False,
            )
            .sign(self._key, hashes.SHA256())
            .public_bytes(Encoding.PEM)
        )


def _request(key: ec.EllipticCurvePrivateKey, identity: SpiffeId) -> CertificateSigningRequest:
    """A node agent's request, as the API server hands it to the controller."""
    return CertificateSigningRequest(
        metadata=ObjectMeta(name="troth"),
        spec=CertificateSigningRequestSpec(
            request=base64.b64encode(build_csr(key, identity)).decode(),
            signerName=SIGNER_NAME,
            usages=list(CSR_USAGES),
            username=f"system:serviceaccount:{DEFAULT_HOME}:{NODE_SERVICE_ACCOUNT}",
            groups=[f"system:serviceaccounts:{DEFAULT_HOME}"],
            extra={NODE_NAME_ATTRIBUTE: ["node-1"]},
        ),
    )


BENCHMARK = Benchmark(
    about="certificate requests answered, checks included, beside a bare loop",
    run=_run,
)
