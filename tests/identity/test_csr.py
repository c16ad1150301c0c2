from __future__ import annotations

import base64
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from troth.errors import InputError
from troth.identity.csr import CheckedCsr, build_csr, parse_csr
from troth.identity.keys import new_key
from troth.identity.spiffe import SpiffeId, TrustDomain

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

WEB = SpiffeId.for_service_account(TrustDomain("cluster.local"), "finance", "web")
GOOD = build_csr(new_key(), WEB)
DER = base64.b64decode(b"".join(GOOD.splitlines()[1:-1]))

SHA256 = hashes.SHA256()


def uri(text: str = str(WEB)) -> x509.UniformResourceIdentifier:
    return x509.UniformResourceIdentifier(text)


def armour(der: bytes) -> bytes:
    return (
        b"-----BEGIN CERTIFICATE REQUEST-----\n"
        + base64.encodebytes(der)
        + b"-----END CERTIFICATE REQUEST-----\n"
    )


def request(
    *extensions: x509.ExtensionType,
    names: tuple[x509.GeneralName, ...] = (uri(),),
    key: CertificateIssuerPrivateKeyTypes | None = None,
    subject: str = "",
    digest: hashes.SHA224 | hashes.SHA256 | None = SHA256,
) -> bytes:
    attributes = [x509.NameAttribute(x509.NameOID.COMMON_NAME, subject)] if subject else []
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(key or new_key(), digest).public_bytes(Encoding.PEM)


def key_usage(*names: str) -> x509.KeyUsage:
    every = [
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
    return x509.KeyUsage(**{name: name in names for name in every})


def weak_rsa() -> bytes:
    return request(key=rsa.generate_private_key(65537, 1024))  # noqa: S505 - it must be refused


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "extra-dns-name": (
        lambda: request(names=(uri(), x509.DNSName("web.finance.svc"))),
        "subjectAltName: has a DNSName; have no other names than the SPIFFE ID",
    ),
    "two-uris": (
        lambda: request(names=(uri(), uri("spiffe://cluster.local/ns/kube-system/sa/root"))),
        "subjectAltName: has 2 URIs; have exactly one, the SPIFFE ID",
    ),
    "no-names": (
        lambda: request(names=()),
        "subjectAltName: is missing; name the SPIFFE ID as its only URI",
    ),
    "no-spiffe-id": (
        lambda: request(names=(uri("https://cluster.local/a"),)),
        (
            'subjectAltName: SPIFFE ID "https://cluster.local/a": is not a spiffe URI; '
            "begin it with spiffe://"
        ),
    ),
    "trust-domain-itself": (
        lambda: request(names=(uri("spiffe://cluster.local"),)),
        (
            "subjectAltName: spiffe://cluster.local names the trust domain itself; "
            "name a workload in it"
        ),
    ),
    "ca-bit": (
        lambda: request(x509.BasicConstraints(ca=True, path_length=None)),
        "basicConstraints: asks for a CA; ask for a workload's certificate",
    ),
    "cert-sign": (
        lambda: request(key_usage("digital_signature", "key_cert_sign")),
        "keyUsage: asks for keyCertSign; ask for digitalSignature alone",
    ),
    "code-signing": (
        lambda: request(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])),
        "extendedKeyUsage: asks for 1.3.6.1.5.5.7.3.3; ask for serverAuth and clientAuth alone",
    ),
    "unknown-extension": (
        lambda: request(x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")),
        "extensions: 1.2.3.4 is not granted; leave it out",
    ),
    "subject": (
        lambda: request(subject="system:masters"),
        'subject: is "CN=system:masters"; leave it empty: the SPIFFE ID is the name',
    ),
    "weak-rsa": (
        weak_rsa,
        (
            "subjectPublicKey: is RSA of 1024 bits; use ECDSA P-256 (troth's own choice), "
            "ECDSA P-384, or RSA of 2048 to 4096 bits"
        ),
    ),
    "p-521": (
        lambda: request(key=ec.generate_private_key(ec.SECP521R1())),
        (
            "subjectPublicKey: is on the curve secp521r1; use ECDSA P-256 (troth's own choice), "
            "ECDSA P-384, or RSA of 2048 to 4096 bits"
        ),
    ),
    "ed25519": (
        lambda: request(key=ed25519.Ed25519PrivateKey.generate(), digest=None),
        (
            "subjectPublicKey: is a key of a kind that is not accepted; use ECDSA P-256 "
            "(troth's own choice), ECDSA P-384, or RSA of 2048 to 4096 bits"
        ),
    ),
    "sha-224": (
        lambda: request(digest=hashes.SHA224()),
        "signature: uses an algorithm that is not accepted; use SHA-256 or better",
    ),
    "flipped-signature": (
        lambda: armour(DER[:-1] + bytes([DER[-1] ^ 1])),
        "signature: was not made by this key over this request; sign with the private key",
    ),
    "flipped-identity": (
        lambda: armour(DER.replace(b"sa/web", b"sa/wec")),
        "signature: was not made by this key over this request; sign with the private key",
    ),
    "two-requests": (
        lambda: GOOD + GOOD,
        "is not one PEM block CERTIFICATE REQUEST; send that and nothing beside it",
    ),
    "text-in-front": (
        lambda: b"hello\n" + GOOD,
        "is not one PEM block CERTIFICATE REQUEST; send that and nothing beside it",
    ),
    "too-long": (lambda: GOOD + b"\n" * 20_000, "is longer than 16384 bytes; send one request"),
}


@pytest.mark.parametrize(("make", "message"), REFUSED.values(), ids=REFUSED)
def test_a_request_for_anything_but_one_svid_is_refused(
    make: Callable[[], bytes], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        parse_csr(make(), subject="CSR x")
    assert str(caught.value) == f"CSR x: {message}"


def test_every_problem_of_a_request_is_listed_at_once() -> None:
    pem = request(
        x509.BasicConstraints(ca=True, path_length=None),
        names=(x509.DNSName("a"),),
        subject="me",
    )
    with pytest.raises(InputError) as caught:
        parse_csr(pem)
    assert [problem.path for problem in caught.value.problems] == [
        "subject",
        "subjectAltName",
        "subjectAltName",
        "basicConstraints",
    ]


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["p-256", "p-384", "rsa-2048"],
)
def test_a_request_by_an_accepted_key_names_identity_and_key(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
) -> None:
    parsed = parse_csr(request(key=key))
    assert parsed == CheckedCsr(spiffe_id=WEB, public_key=key.public_key())


def test_a_request_may_ask_for_just_what_every_svid_has() -> None:
    pem = request(
        x509.BasicConstraints(ca=False, path_length=None),
        key_usage("digital_signature"),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
    )
    assert parse_csr(pem).spiffe_id == WEB


def test_a_request_of_ours_has_no_subject_and_one_critical_name() -> None:
    csr = x509.load_pem_x509_csr(GOOD)
    (extension,) = csr.extensions
    assert not csr.subject.rdns
    assert extension.critical
    assert extension.value == x509.SubjectAlternativeName([uri()])


def test_a_subject_that_can_not_be_read_is_an_input_error() -> None:
    der = x509.load_pem_x509_csr(request(subject="AB")).public_bytes(Encoding.DER)
    no_utf8 = der.replace(b"\x0c\x02AB", b"\x0c\x02\xff\xfe")
    assert no_utf8 != der
    with pytest.raises(InputError, match="subject: cannot be read"):
        parse_csr(armour(no_utf8))


@given(st.binary(max_size=400))
def test_any_bytes_are_a_request_or_an_input_error(data: bytes) -> None:
    for candidate in (data, armour(data)):
        with pytest.raises(InputError):
            parse_csr(candidate)


@given(st.integers(0, len(DER) - 1), st.integers(1, 255))
def test_a_request_with_any_byte_changed_is_an_input_error(place: int, change: int) -> None:
    changed = bytearray(DER)
    changed[place] ^= change
    with pytest.raises(InputError):
        parse_csr(armour(bytes(changed)))


@given(st.integers(0, len(DER) - 1))
def test_a_request_cut_short_is_an_input_error(length: int) -> None:
    with pytest.raises(InputError):
        parse_csr(armour(DER[:length]))
