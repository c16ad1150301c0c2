from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from troth.errors import InputError
from troth.identity.authority import CertificateAuthority
from troth.identity.bundle import TrustBundle
from troth.identity.csr import build_csr, parse_csr
from troth.identity.keys import new_key
from troth.identity.profile import validate_svid_chain
from troth.identity.spiffe import SpiffeId, TrustDomain
from troth.identity.svid import X509Svid

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.identity.conftest import Forge, Made

TD = TrustDomain("cluster.local")
URI = x509.UniformResourceIdentifier


def sign(authority: CertificateAuthority, spiffe_id: SpiffeId, now: dt.datetime) -> bytes:
    return authority.sign(build_csr(new_key(), spiffe_id), now=now).chain


def described(certificate: x509.Certificate) -> dict[str, tuple[bool, x509.ExtensionType]]:
    return {each.oid._name: (each.critical, each.value) for each in certificate.extensions}


def usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
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


def test_a_leaf_has_exactly_the_extensions_of_an_svid(
    authority: CertificateAuthority, web: SpiffeId, now: dt.datetime
) -> None:
    key = new_key()
    leaf = x509.load_pem_x509_certificate(authority.sign(build_csr(key, web), now=now).chain)
    root = x509.load_pem_x509_certificate(authority.certificate_pem)
    root_key_id = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert described(leaf) == {
        "basicConstraints": (True, x509.BasicConstraints(ca=False, path_length=None)),
        "keyUsage": (True, usage(digital_signature=True)),
        "extendedKeyUsage": (
            False,
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
        ),
        "subjectAltName": (True, x509.SubjectAlternativeName([URI(str(web))])),
        "subjectKeyIdentifier": (
            False,
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
        ),
        "authorityKeyIdentifier": (
            False,
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(root_key_id),
        ),
    }
    assert not leaf.subject.rdns
    assert leaf.issuer == root.subject
    assert leaf.public_key() == key.public_key()


def test_a_root_has_exactly_the_extensions_of_a_signing_certificate(
    authority: CertificateAuthority,
) -> None:
    root = x509.load_pem_x509_certificate(authority.certificate_pem)
    public_key = root.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    assert isinstance(public_key.curve, ec.SECP256R1)
    assert described(root) == {
        "basicConstraints": (True, x509.BasicConstraints(ca=True, path_length=0)),
        "keyUsage": (True, usage(key_cert_sign=True)),
        "subjectAltName": (False, x509.SubjectAlternativeName([URI("spiffe://cluster.local")])),
        "subjectKeyIdentifier": (False, x509.SubjectKeyIdentifier.from_public_key(public_key)),
    }


def test_a_leaf_is_backdated_a_minute_and_lives_twelve_hours(
    authority: CertificateAuthority, web: SpiffeId, now: dt.datetime
) -> None:
    issued = authority.sign(build_csr(new_key(), web), now=now)
    assert issued.spiffe_id == web
    assert issued.not_before == now - dt.timedelta(minutes=1)
    assert issued.not_after == now + dt.timedelta(hours=12)


def test_serial_numbers_are_positive_unlike_and_at_most_twenty_octets(
    authority: CertificateAuthority, web: SpiffeId, now: dt.datetime
) -> None:
    csr = build_csr(new_key(), web)
    serials = {authority.sign(csr, now=now).serial for _ in range(20)}
    assert len(serials) == 20
    assert all(0 < serial < 1 << 159 for serial in serials)
    assert max(serials) > 1 << 150


def test_a_leaf_never_outlives_its_authority(web: SpiffeId, now: dt.datetime) -> None:
    authority = CertificateAuthority.self_signed(TD, now, dt.timedelta(hours=3))
    assert authority.sign(build_csr(new_key(), web), now=now).not_after == authority.not_after


def test_a_leaf_never_outlives_the_root_above_its_authority(
    web: SpiffeId, now: dt.datetime, forge: Forge
) -> None:
    root = forge.make("root", end=dt.timedelta(hours=1))
    middle = forge.make("middle", root)
    issued = load(middle, now, root=root).sign(build_csr(new_key(), web), now=now)
    assert issued.not_after == now + dt.timedelta(hours=1)


def test_an_expired_authority_signs_nothing(web: SpiffeId, now: dt.datetime) -> None:
    authority = CertificateAuthority.self_signed(TD, now, dt.timedelta(hours=1))
    with pytest.raises(InputError, match="has expired at 2026-03-01T13:00:00Z; replace it"):
        authority.sign(build_csr(new_key(), web), now=now + dt.timedelta(hours=1))


@pytest.mark.parametrize("lifetime", [dt.timedelta(0), dt.timedelta(seconds=-1)])
def test_a_lifetime_has_to_be_positive(
    authority: CertificateAuthority, web: SpiffeId, now: dt.datetime, lifetime: dt.timedelta
) -> None:
    with pytest.raises(ValueError, match="cannot live"):
        authority.sign(build_csr(new_key(), web), now=now, lifetime=lifetime)


def test_an_identity_of_another_trust_domain_is_not_signed(
    authority: CertificateAuthority, now: dt.datetime
) -> None:
    foreign = SpiffeId.for_service_account(TrustDomain("other"), "finance", "web")
    with pytest.raises(InputError, match=r"is of another trust domain; ask for one of cluster"):
        sign(authority, foreign, now)


def test_another_identity_than_the_expected_is_not_signed(
    authority: CertificateAuthority, web: SpiffeId, now: dt.datetime
) -> None:
    csr = build_csr(new_key(), web)
    payments = SpiffeId.for_service_account(TD, "finance", "payments")
    with pytest.raises(InputError, match=r"the requester may have .*/sa/payments alone"):
        authority.sign(csr, now=now, expected=payments)
    assert authority.sign(parse_csr(csr), now=now, expected=web).spiffe_id == web


def load(
    own: Made,
    now: dt.datetime,
    *,
    root: Made | None = None,
    chain: bytes = b"",
    key: bytes | None = None,
) -> CertificateAuthority:
    return CertificateAuthority.from_pem(
        trust_domain=TD,
        certificate=own.pem,
        key=own.key_pem if key is None else key,
        chain=chain,
        root=root.pem if root else b"",
        now=now,
        subject="Secret ca",
    )


def test_a_kept_root_signs_as_before(
    authority: CertificateAuthority, web: SpiffeId, now: dt.datetime
) -> None:
    again = CertificateAuthority.from_pem(
        trust_domain=TD,
        certificate=authority.certificate_pem,
        key=authority.private_key.reveal(),
        now=now,
    )
    assert again.chain_pem == b""
    assert validate_svid_chain(sign(again, web, now), authority.trust_bundle, now=now) == web


@pytest.mark.parametrize("repeated", ["", "ends"], ids=["chain-alone", "with-ends-repeated"])
def test_an_intermediate_sends_its_chain_without_the_root(
    web: SpiffeId, now: dt.datetime, forge: Forge, repeated: str
) -> None:
    root = forge.make("root")
    upper = forge.make("upper", root, path_length=1)
    lower = forge.make("lower", upper, path_length=0, uris=("spiffe://cluster.local",))
    chain = lower.pem + upper.pem + root.pem if repeated else upper.pem
    authority = load(lower, now, root=root, chain=chain)
    issued = sign(authority, web, now)
    assert issued.endswith(lower.pem + upper.pem)
    assert len(x509.load_pem_x509_certificates(issued)) == 3
    assert validate_svid_chain(issued, authority.trust_bundle, now=now) == web
    assert authority.trust_bundle.certificates == (root.pem,)


REFUSED: dict[str, tuple[Callable[[Forge, dt.datetime], object], str]] = {
    "no-ca": (
        lambda forge, now: load(
            forge.make("x", root := forge.make("root"), ca=False), now, root=root
        ),
        "certificate: CN=x is not a CA certificate; have basicConstraints CA:TRUE",
    ),
    "no-cert-sign": (
        lambda forge, now: load(
            forge.make("x", root := forge.make("root"), usages=frozenset({"crl_sign"})),
            now,
            root=root,
        ),
        "certificate: CN=x may not sign certificates; have keyUsage keyCertSign",
    ),
    "foreign-key": (
        lambda forge, now: load(forge.make("root"), now, key=forge.make("other").key_pem),
        "key: is not the certificate's; give the pair",
    ),
    "no-key": (
        lambda forge, now: load(forge.make("root"), now, key=b"s3cret"),
        "key: is not an unencrypted private key in PEM; use ECDSA P-256",
    ),
    "expired": (
        lambda forge, now: load(forge.make("root", end=dt.timedelta(hours=-1)), now),
        "chain: CN=root is valid from",
    ),
    "expired-intermediate": (
        lambda forge, now: load(
            forge.make("x", root := forge.make("root"), end=dt.timedelta(hours=-1)),
            now,
            root=root,
        ),
        (
            "chain: CN=x is valid from 2026-02-28T12:00:00Z to 2026-03-01T11:00:00Z, "
            "and now is 2026-03-01T12:00:00Z; renew it, or set the clock right"
        ),
    ),
    "foreign-root": (
        lambda forge, now: load(forge.make("x", forge.make("root")), now, root=forge.make("other")),
        "chain: does not lead to a root of cluster.local",
    ),
    "forged-root": (
        lambda forge, now: load(forge.make("x", forge.make("root")), now, root=forge.make("root")),
        "chain: does not lead to a root of cluster.local",
    ),
    "missing-intermediate": (
        lambda forge, now: load(
            forge.make("x", forge.make("upper", root := forge.make("root"))), now, root=root
        ),
        "chain: does not lead to a root of cluster.local",
    ),
    "path-length": (
        lambda forge, now: load(
            forge.make("x", root := forge.make("root", path_length=0)), now, root=root
        ),
        "chain: does not lead to a root of cluster.local",
    ),
    "intermediate-as-root": (
        lambda forge, now: load(forge.make("x", forge.make("root")), now),
        "certificate (as no root is given): CN=x is not self-signed; give the root of its chain",
    ),
    "another-trust-domain": (
        lambda forge, now: load(forge.make("root", uris=("spiffe://other",)), now),
        'certificate: is the CA of "spiffe://other"; give the CA of spiffe://cluster.local',
    ),
    "uri-constraints": (
        lambda forge, now: load(
            forge.make(
                "x",
                root := forge.make("root"),
                extra=((x509.NameConstraints([URI("cluster.local")], None), True),),
            ),
            now,
            root=root,
        ),
        "certificate: CN=x has URI name constraints",
    ),
    "other-purpose": (
        lambda forge, now: load(
            forge.make(
                "x",
                root := forge.make("root"),
                extra=((x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False),),
            ),
            now,
            root=root,
        ),
        "certificate: CN=x is restricted to other purposes than serverAuth and clientAuth",
    ),
}


@pytest.mark.parametrize(("attempt", "message"), REFUSED.values(), ids=REFUSED)
def test_an_authority_whose_word_would_not_count_is_refused(
    forge: Forge, now: dt.datetime, attempt: Callable[[Forge, dt.datetime], object], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        attempt(forge, now)
    assert str(caught.value).startswith(f"Secret ca: {message}")


def test_a_certificate_file_with_a_private_key_in_it_is_refused(
    forge: Forge, now: dt.datetime
) -> None:
    root = forge.make("root")
    with pytest.raises(InputError, match="root: has other PEM blocks than certificates"):
        CertificateAuthority.from_pem(
            trust_domain=TD,
            certificate=root.pem,
            key=root.key_pem,
            root=root.pem + root.key_pem,
            now=now,
        )


@pytest.mark.parametrize(
    "pem",
    [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"],
    ids=["empty", "nonsense", "no-der"],
)
def test_a_bundle_without_certificates_is_refused(pem: bytes) -> None:
    with pytest.raises(InputError, match="ConfigMap: roots: cannot be read"):
        TrustBundle.parse(TD, pem, subject="ConfigMap", path="roots")


def test_a_merged_bundle_believes_both_roots_once(
    authority: CertificateAuthority, web: SpiffeId, now: dt.datetime
) -> None:
    successor = CertificateAuthority.self_signed(TD, now)
    both = successor.trust_bundle.merge(authority.trust_bundle)
    assert both.merge(both) == both == TrustBundle.parse(TD, both.pem)
    for each in (authority, successor):
        assert validate_svid_chain(sign(each, web, now), both, now=now) == web
    with pytest.raises(InputError):
        validate_svid_chain(sign(authority, web, now), successor.trust_bundle, now=now)


def test_bundles_of_two_trust_domains_do_not_merge(
    authority: CertificateAuthority, now: dt.datetime
) -> None:
    other = CertificateAuthority.self_signed(TrustDomain("other"), now)
    with pytest.raises(ValueError, match=r"other is not cluster\.local"):
        authority.trust_bundle.merge(other.trust_bundle)


def test_no_representation_shows_a_private_key(
    authority: CertificateAuthority, web: SpiffeId, now: dt.datetime
) -> None:
    key = new_key()
    chain = authority.sign(build_csr(key, web), now=now).chain
    svid = X509Svid.assemble(key, chain, authority.trust_bundle, now=now)
    secret = svid.private_key.reveal().splitlines()[1].decode()
    for shown in (repr(svid), str(svid), repr(authority), repr(svid.private_key)):
        assert "PRIVATE KEY" not in shown
        assert secret not in shown
