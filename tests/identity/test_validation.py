from __future__ import annotations

import datetime as dt
import pickle
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from troth.errors import InputError
from troth.identity.authority import CertificateAuthority
from troth.identity.bundle import TrustBundle
from troth.identity.csr import build_csr
from troth.identity.keys import new_key
from troth.identity.profile import validate_svid_chain
from troth.identity.spiffe import SpiffeId, TrustDomain
from troth.identity.svid import X509Svid

if TYPE_CHECKING:
    from tests.identity.conftest import Forge

TD = TrustDomain("cluster.local")
WEB = "spiffe://cluster.local/ns/finance/sa/web"
SIGNATURE = frozenset({"digital_signature"})


class Leaf(NamedTuple):
    """What a foreign authority puts in a leaf, and what is wrong with it."""

    message: str
    uris: tuple[str, ...] = (WEB,)
    ca: bool = False
    usages: frozenset[str] = SIGNATURE
    purposes: tuple[x509.ObjectIdentifier, ...] = ()
    name: str = ""
    critical_extra: bool = False


REFUSED = {
    "two-uris": Leaf("subjectAltName: has 2 URIs", uris=(WEB, WEB + "2")),
    "no-uri": Leaf("subjectAltName: is missing", uris=()),
    "no-path": Leaf("names the trust domain itself", uris=("spiffe://cluster.local",)),
    "another-scheme": Leaf("is not a spiffe URI", uris=("https://cluster.local/a",)),
    "another-trust-domain": Leaf("is of another trust domain", uris=("spiffe://other/a",)),
    "ca": Leaf("basicConstraints: is a CA", ca=True),
    "no-key-usage": Leaf("keyUsage: is missing", usages=frozenset()),
    "no-signature": Leaf("keyUsage: lacks digitalSignature", usages=frozenset({"key_agreement"})),
    "cert-sign": Leaf("keyUsage: has keyCertSign", usages=SIGNATURE | {"key_cert_sign"}),
    "crl-sign": Leaf("keyUsage: has cRLSign", usages=SIGNATURE | {"crl_sign"}),
    "client-only": Leaf(
        "extendedKeyUsage: lacks serverAuth", purposes=(ExtendedKeyUsageOID.CLIENT_AUTH,)
    ),
    "unknown-critical": Leaf("does not lead to a root", critical_extra=True),
}


def chain_of(forge: Forge, leaf: Leaf) -> tuple[bytes, TrustBundle]:
    root = forge.make("root")
    extra: list[tuple[x509.ExtensionType, bool]] = []
    if leaf.purposes:
        extra.append((x509.ExtendedKeyUsage(leaf.purposes), False))
    if leaf.critical_extra:
        unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\5\0")
        extra.append((unknown, True))
    made = forge.make(
        leaf.name, root, ca=leaf.ca, usages=leaf.usages, uris=leaf.uris, extra=tuple(extra)
    )
    return made.pem, TrustBundle.parse(TD, root.pem)


@pytest.mark.parametrize("leaf", REFUSED.values(), ids=REFUSED)
def test_a_certificate_that_is_no_svid_proves_nothing(
    forge: Forge, now: dt.datetime, leaf: Leaf
) -> None:
    chain, bundle = chain_of(forge, leaf)
    with pytest.raises(InputError, match=leaf.message):
        validate_svid_chain(chain, bundle, now=now)


@pytest.mark.parametrize(
    "leaf",
    [
        Leaf(""),
        Leaf("", name="web"),
        Leaf("", usages=SIGNATURE | {"key_encipherment", "key_agreement"}),
        Leaf("", purposes=(ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)),
    ],
    ids=["plain", "with-subject", "with-optional-usages", "with-purposes"],
)
def test_an_svid_of_another_make_proves_its_identity(
    forge: Forge, now: dt.datetime, leaf: Leaf
) -> None:
    chain, bundle = chain_of(forge, leaf)
    assert str(validate_svid_chain(chain, bundle, now=now)) == WEB


FIRST, LAST = dt.timedelta(minutes=-1), dt.timedelta(hours=12)
SECOND = dt.timedelta(seconds=1)


@pytest.mark.parametrize("age", [FIRST, LAST], ids=["first-second", "last-second"])
def test_an_svid_counts_from_its_first_to_its_last_second(
    authority: CertificateAuthority, web: SpiffeId, now: dt.datetime, age: dt.timedelta
) -> None:
    chain = authority.sign(build_csr(new_key(), web), now=now).chain
    assert validate_svid_chain(chain, authority.trust_bundle, now=now + age) == web


@pytest.mark.parametrize("age", [FIRST - SECOND, LAST + SECOND], ids=["too-early", "too-late"])
def test_an_svid_proves_nothing_before_and_after_its_time(
    authority: CertificateAuthority, web: SpiffeId, now: dt.datetime, age: dt.timedelta
) -> None:
    chain = authority.sign(build_csr(new_key(), web), now=now).chain
    with pytest.raises(InputError, match="the leaf is valid from 2026-03-01T11:59:00Z to"):
        validate_svid_chain(chain, authority.trust_bundle, now=now + age)


def test_an_svid_of_another_authority_proves_nothing(
    authority: CertificateAuthority, web: SpiffeId, now: dt.datetime
) -> None:
    impostor = CertificateAuthority.self_signed(TD, now)
    chain = impostor.sign(build_csr(new_key(), web), now=now).chain
    with pytest.raises(InputError, match=r"does not lead to a root of cluster\.local"):
        validate_svid_chain(chain, authority.trust_bundle, now=now)


def test_an_empty_bundle_believes_nobody(
    authority: CertificateAuthority, web: SpiffeId, now: dt.datetime
) -> None:
    chain = authority.sign(build_csr(new_key(), web), now=now).chain
    nobody = TrustBundle(trust_domain=TD, certificates=())
    with pytest.raises(InputError, match="the trust bundle is empty"):
        validate_svid_chain(chain, nobody, now=now)


def test_an_svid_is_judged_against_the_expected_identity(
    authority: CertificateAuthority, web: SpiffeId, now: dt.datetime
) -> None:
    chain = authority.sign(build_csr(new_key(), web), now=now).chain
    payments = SpiffeId.for_service_account(TD, "finance", "payments")
    assert validate_svid_chain(chain, authority.trust_bundle, now=now, expected=web) == web
    with pytest.raises(InputError, match=f"subjectAltName: is {web}; be {payments}"):
        validate_svid_chain(chain, authority.trust_bundle, now=now, expected=payments)


def test_a_certificate_is_not_put_together_with_another_key(
    authority: CertificateAuthority, web: SpiffeId, now: dt.datetime
) -> None:
    chain = authority.sign(build_csr(new_key(), web), now=now).chain
    with pytest.raises(InputError, match="belongs to another key"):
        X509Svid.assemble(new_key(), chain, authority.trust_bundle, now=now)


def test_a_private_key_is_neither_encoded_nor_pickled(
    authority: CertificateAuthority, web: SpiffeId, now: dt.datetime
) -> None:
    key = new_key()
    chain = authority.sign(build_csr(key, web), now=now).chain
    svid = X509Svid.assemble(key, chain, authority.trust_bundle, now=now)
    with pytest.raises(TypeError):
        msgspec.json.encode(svid)
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(svid)
