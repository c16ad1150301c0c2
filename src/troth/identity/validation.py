"""Validation of an X509-SVID: path validation (RFC 5280) and the leaf rules of SPIFFE."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509
from cryptography.x509 import verification

from troth.identity.flaws import Flaw, refusal, refuse
from troth.identity.keys import key_flaws
from troth.identity.x509 import USAGES, load_certificates, set_key_usages, workload_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from troth.identity.bundle import TrustBundle
    from troth.identity.spiffe import SpiffeId

_FORBIDDEN_LEAF_USAGES = frozenset({"keyCertSign", "cRLSign"})


class VerifiedSvid(NamedTuple):
    """A chain that was found good.

    Attributes:
        spiffe_id: The identity it proves.
        path: The certificates from the leaf to the root that vouches for it, both included.
    """

    spiffe_id: SpiffeId
    path: Sequence[x509.Certificate]

    @property
    def leaf(self) -> x509.Certificate:
        """The workload's own certificate."""
        return self.path[0]


def validate_svid_chain(
    chain: bytes,
    bundle: TrustBundle,
    *,
    now: datetime,
    expected: SpiffeId | None = None,
    subject: str = "certificate chain",
) -> SpiffeId:
    """Decide whether ``chain`` proves an identity at ``now``, and which (X509-SVID, section 5).

    A chain with URI name constraints is refused: the verifier beneath does not know them, so it
    cannot tell whether they hold.

    Args:
        chain: PEM, the leaf first, then its intermediates.
        bundle: The roots to believe, for identities of the bundle's trust domain only.
        now: When it has to be valid.
        expected: The identity that it has to prove, if that is known.
        subject: What to call the chain in messages.

    Raises:
        InputError: It proves nothing, or another identity than ``expected``.
    """
    return verify_svid(chain, bundle, now=now, expected=expected, subject=subject).spiffe_id


def verify_svid(
    chain: bytes, bundle: TrustBundle, *, now: datetime, expected: SpiffeId | None, subject: str
) -> VerifiedSvid:
    """Do what `validate_svid_chain` says; the path that vouches is part of the answer."""
    leaf, *intermediates = load_certificates(chain, subject=subject, path="")
    spiffe_id, flaws = workload_id(leaf.extensions)
    flaws += (*_leaf_flaws(leaf),)
    if flaws or spiffe_id is None:
        raise refusal(subject, *flaws)
    refuse(subject, _identity_flaws(spiffe_id, bundle, expected))
    path = verify_path(leaf, intermediates, bundle, now=now, subject=subject)
    return VerifiedSvid(spiffe_id, path)


def verify_path(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    bundle: TrustBundle,
    *,
    now: datetime,
    subject: str,
    field: str = "",
) -> Sequence[x509.Certificate]:
    """Find the path from ``leaf`` to a root: signatures, validity, constraints (RFC 5280, 6.1).

    Raises:
        InputError: There is none; ``subject`` and ``field`` name the chain in the message.
    """
    if not bundle.certificates:
        raise refusal(subject, Flaw("the trust bundle is empty", "believe some root", field))
    roots = [x509.load_pem_x509_certificate(pem) for pem in bundle.certificates]
    verifier = (
        verification.PolicyBuilder()
        .store(verification.Store(roots))
        .time(now)
        # Of the two verifiers the one that doesn't insist on a DNS name. Being a server is checked
        # with the leaf's usages.
        .build_client_verifier()
    )
    try:
        return verifier.verify(leaf, list(intermediates)).chain
    except verification.VerificationError as error:
        chain = (leaf, *intermediates)
        concerned = (root for root in roots if root.subject in {each.issuer for each in chain})
        flaws = [
            *_validity_flaws((*chain, *concerned), now, field),
            Flaw(
                f"does not lead to a root of {bundle.trust_domain} ({error})",
                "send the leaf and every intermediate, signed below a root of the trust bundle",
                field,
            ),
        ]
        raise refusal(subject, *flaws) from error


def _leaf_flaws(leaf: x509.Certificate) -> Iterator[Flaw]:
    """X509-SVID, sections 4.1, 4.3 and 4.4."""
    yield from key_flaws(leaf.public_key(), "subjectPublicKey")
    for extension in leaf.extensions:
        match extension.value:
            case x509.BasicConstraints(ca=True):
                yield Flaw("is a CA", "have CA:FALSE", "basicConstraints")
            case x509.ExtendedKeyUsage() as purposes if not set(USAGES).issubset(purposes):
                yield Flaw(
                    "lacks serverAuth or clientAuth", "have both, or none", "extendedKeyUsage"
                )
    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    except x509.ExtensionNotFound:
        yield Flaw("is missing", "have digitalSignature, critical", "keyUsage")
        return
    usages = set(set_key_usages(usage.value))
    if not usage.critical:
        yield Flaw("is not critical", "mark it critical", "keyUsage")
    if "digitalSignature" not in usages:
        yield Flaw("lacks digitalSignature", "have it", "keyUsage")
    for forbidden in sorted(usages & _FORBIDDEN_LEAF_USAGES):
        yield Flaw(f"has {forbidden}", "leave that to a CA", "keyUsage")


def _identity_flaws(
    spiffe_id: SpiffeId, bundle: TrustBundle, expected: SpiffeId | None
) -> Iterator[Flaw]:
    if spiffe_id.trust_domain != bundle.trust_domain:
        yield Flaw(
            f"{spiffe_id} is of another trust domain",
            f"be of {bundle.trust_domain}",
            "subjectAltName",
        )
    if expected is not None and spiffe_id != expected:
        yield Flaw(f"is {spiffe_id}", f"be {expected}", "subjectAltName")


def _validity_flaws(
    certificates: Sequence[x509.Certificate], now: datetime, field: str
) -> Iterator[Flaw]:
    """The commonest reason, in plain words beside the verifier's."""
    for certificate in certificates:
        start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not start <= now <= end:
            name = certificate.subject.rfc4514_string() or "the leaf"
            yield Flaw(
                f"{name} is valid from {start:%FT%TZ} to {end:%FT%TZ}, and now is {now:%FT%TZ}",
                "renew it, or set the clock right",
                field,
            )
