"""Timely renewal of the certificates of a node's identities: a state machine without I/O.

A driver reports what happened (`CertificateRotation.want`, `issued`, `failed`, `adopt`, `hasten`),
asks for the next `CertificateRotation.step`, sends its requests to a signer, and sleeps until
``wake_at`` or the next event. Time is an argument, and so is jitter, a number in [0, 1). Jitter
spreads the renewals of identities that began together, such as those of all pods of a node, so
that the authority doesn't get all requests at once.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from secrets import SystemRandom
from typing import TYPE_CHECKING

import msgspec

from troth.errors import InputError
from troth.identity.csr import build_csr
from troth.identity.keys import new_key
from troth.identity.profile import validate_svid_chain
from troth.identity.spiffe import SpiffeId
from troth.identity.svid import X509Svid
from troth.retry import doubled

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from cryptography.hazmat.primitives.asymmetric import ec

    from troth.identity.bundle import TrustBundle

_RENEW_AT_SHARE = 0.5
_RENEW_SPREAD = 0.1
_FIRST_RETRY = timedelta(seconds=1)
_LONGEST_RETRY = timedelta(seconds=60)
_RETRY_SHARE_OF_REMAINING = 8


def renew_at(not_before: datetime, not_after: datetime, jitter: float) -> datetime:
    """When to renew: after 40 to 60 % of the validity.

    That leaves about half a lifetime for an outage of the authority: with 12 hours, a night.
    """
    share = _RENEW_AT_SHARE + _RENEW_SPREAD * (2 * jitter - 1)
    return not_before + (not_after - not_before) * share


def next_retry(attempt: int, jitter: float, *, remaining: timedelta | None = None) -> timedelta:
    """How long to wait after a failure: doubling from a second to a minute, less up to half.

    Args:
        attempt: How many attempts have failed before this one; 0 after the first failure.
        jitter: In [0, 1).
        remaining: How long the current certificate is still valid, if there is one. No wait is
            longer than an eighth of it (but at least a second), so several attempts are left
            before it expires.
    """
    wait = doubled(_FIRST_RETRY, _LONGEST_RETRY, attempt)
    if remaining is not None:
        wait = min(wait, max(remaining / _RETRY_SHARE_OF_REMAINING, _FIRST_RETRY))
    return wait * (1 - jitter / 2)


_RANDOM = SystemRandom()


class SigningRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to send to a signer; pass it back with the answer.

    Attributes:
        spiffe_id: The identity to certify.
        csr: PEM of the PKCS #10 request. Its key is new and stays in the state machine.
    """

    spiffe_id: SpiffeId
    csr: bytes


class RotationStep(msgspec.Struct, frozen=True, kw_only=True):
    """What to do now.

    Attributes:
        requests: To send; answer each by `issued` or `failed`, also after a timeout.
        wake_at: When to take the next step if nothing happens before; None if only an event or an
            answer can cause one.
    """

    requests: tuple[SigningRequest, ...]
    wake_at: datetime | None


class _Identity:
    """The state of one wanted identity; ``due`` is valid while no request is in flight."""

    __slots__ = ("current", "due", "failures", "in_flight", "key")

    def __init__(self, due: datetime) -> None:
        self.current: X509Svid | None = None
        self.due = due
        self.failures = 0
        self.in_flight: SigningRequest | None = None
        self.key: ec.EllipticCurvePrivateKey | None = None


class CertificateRotation:
    """Holds the current SVID of every wanted identity and says when to renew it.

    Key, certificate and bundle change as one value. After any failure the old one is kept; an
    answer to an obsolete request is ignored.

    Args:
        jitter: Returns numbers in [0, 1), to spread renewals and retries.
    """

    def __init__(self, *, jitter: Callable[[], float] = _RANDOM.random) -> None:
        self._jitter = jitter
        self._identities: dict[SpiffeId, _Identity] = {}

    @property
    def current(self) -> Mapping[SpiffeId, X509Svid]:
        """The current SVIDs, of the wanted identities that have one."""
        return {
            spiffe_id: identity.current
            for spiffe_id, identity in self._identities.items()
            if identity.current is not None
        }

    @property
    def missing(self) -> frozenset[SpiffeId]:
        """The wanted identities that have no SVID yet."""
        return frozenset(self._identities) - self.current.keys()

    def want(self, spiffe_ids: Collection[SpiffeId], *, now: datetime) -> None:
        """Want exactly ``spiffe_ids``; the keys of others are dropped at once."""
        wanted = frozenset(spiffe_ids)
        for spiffe_id in self._identities.keys() - wanted:
            del self._identities[spiffe_id]
        for spiffe_id in sorted(wanted - self._identities.keys()):
            self._identities[spiffe_id] = _Identity(now)

    def step(self, now: datetime) -> RotationStep:
        """Start what is due."""
        requests = []
        for spiffe_id, identity in self._identities.items():
            if identity.in_flight is None and identity.due <= now:
                identity.key = new_key()
                identity.in_flight = SigningRequest(
                    spiffe_id=spiffe_id, csr=build_csr(identity.key, spiffe_id)
                )
                requests.append(identity.in_flight)
        waiting = (each.due for each in self._identities.values() if each.in_flight is None)
        return RotationStep(requests=tuple(requests), wake_at=min(waiting, default=None))

    def issued(
        self, request: SigningRequest, *, chain: bytes, bundle: TrustBundle, now: datetime
    ) -> X509Svid | None:
        """Take a signer's answer, if it is valid for this request.

        Args:
            request: The request, as `step` returned it.
            chain: PEM, the leaf first, then the intermediates.
            bundle: The roots in force.
            now: When it has to be valid.

        Returns:
            The new current SVID, or None if the request is obsolete.

        Raises:
            InputError: The answer isn't an SVID for this identity and key. It has been recorded as
                a failure.
        """
        identity = self._awaiting(request)
        if identity is None or identity.key is None:
            return None
        try:
            svid = X509Svid.assemble(
                identity.key, chain, bundle, now=now, expected=request.spiffe_id
            )
        except InputError:
            self.failed(request, now=now)
            raise
        identity.current = svid
        identity.in_flight = identity.key = None
        identity.failures = 0
        # Relative to now, not to the backdated start: a short-lived one would be due at once.
        identity.due = renew_at(max(svid.not_before, now), svid.not_after, self._jitter())
        return svid

    def failed(self, request: SigningRequest, *, now: datetime) -> None:
        """Record that ``request`` failed; it is retried with a new key."""
        identity = self._awaiting(request)
        if identity is None:
            return
        remaining = identity.current.not_after - now if identity.current else None
        identity.due = now + next_retry(identity.failures, self._jitter(), remaining=remaining)
        identity.failures += 1
        identity.in_flight = identity.key = None

    def adopt(self, bundle: TrustBundle, *, now: datetime) -> Mapping[SpiffeId, X509Svid]:
        """Put ``bundle`` into every SVID.

        If it no longer vouches for an SVID itself, a renewal is due at once; the SVID stays until
        the renewal succeeds, as peers may still have the old bundle.

        Returns:
            The SVIDs that changed.

        Raises:
            ValueError: It is another trust domain's bundle.
        """
        changed = {}
        for spiffe_id, svid in self.current.items():
            if bundle.trust_domain != spiffe_id.trust_domain:
                raise ValueError(f"a bundle of {bundle.trust_domain} for {spiffe_id}")
            if svid.bundle == bundle:
                continue
            identity = self._identities[spiffe_id]
            identity.current = changed[spiffe_id] = msgspec.structs.replace(svid, bundle=bundle)
            try:
                validate_svid_chain(svid.chain, bundle, now=now, expected=spiffe_id)
            except InputError:
                identity.due = min(identity.due, now)
        return changed

    def hasten(self, spiffe_ids: Collection[SpiffeId], *, now: datetime, within: timedelta) -> None:
        """Renew these SVIDs within some time, each at a random moment."""
        for spiffe_id in spiffe_ids:
            identity = self._identities.get(spiffe_id)
            if identity is not None and identity.current is not None:
                identity.due = min(identity.due, now + within * self._jitter())

    def _awaiting(self, request: SigningRequest) -> _Identity | None:
        """The identity that waits for the answer to exactly this request."""
        identity = self._identities.get(request.spiffe_id)
        return identity if identity is not None and identity.in_flight == request else None
