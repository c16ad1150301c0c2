"""Keeps a certificate for each service account of the node: requests it, renews it in time.

`issuers` says which roots vouch for them.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec
import structlog

from troth.errors import InputError, TrothError
from troth.identity.profile import root_fingerprint, validate_svid_chain
from troth.identity.rotation import CertificateRotation, SigningRequest
from troth.program import woken

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping
    from collections.abc import Set as AbstractSet

    from troth.identity.bundle import TrustBundle
    from troth.identity.spiffe import SpiffeId
    from troth.identity.svid import X509Svid


class IssuerCache:
    """Finds the roots of certificates, verifying each certificate only once.

    They are needed after each change of the mesh, and verifying one takes 0.3 ms.
    """

    def __init__(self) -> None:
        self._bundle: TrustBundle | None = None
        self._known: dict[bytes, frozenset[str]] = {}

    def of(self, svids: Iterable[X509Svid], bundle: TrustBundle, now: datetime) -> frozenset[str]:
        """Fingerprints of the roots in ``bundle`` that any of the certificates chains to.

        Expired certificates don't count, and one without a root is verified again each time.
        """
        known = self._known if bundle == self._bundle else {}
        valid = {svid.chain: svid for svid in svids if now <= svid.not_after}
        self._bundle = bundle
        self._known = {
            chain: known.get(chain) or issuers(svid, bundle, now) for chain, svid in valid.items()
        }
        return frozenset().union(*self._known.values())


def issuers(svid: X509Svid, bundle: TrustBundle, now: datetime) -> frozenset[str]:
    """Fingerprints of the roots in ``bundle`` that the certificate chains to."""
    return frozenset(
        root_fingerprint(root)
        for root in bundle.certificates
        if _vouches(msgspec.structs.replace(bundle, certificates=(root,)), svid, now)
    )


def _vouches(root: TrustBundle, svid: X509Svid, now: datetime) -> bool:
    try:
        validate_svid_chain(svid.chain, root, now=now)
    except InputError:
        return False
    return True


_log = structlog.get_logger(__name__)

SIGNING_TIMEOUT_SECONDS = 30

_NEW_ROOT_WITHIN = timedelta(seconds=30)
"""Within what time certificates of an old root are renewed, so that nodes don't all ask at once."""

PATIENCE_SECONDS = 1.0
"""How long a first certificate may delay everything else, since it was first wanted."""


class Signed(NamedTuple):
    """A signer's answer: the chain (PEM, leaf first, no root) and the roots now in force."""

    chain: bytes
    bundle: TrustBundle


class CertificateSource(Protocol):
    """The signer: the authority in this process, or a cluster's controller."""

    @property
    def bundle(self) -> TrustBundle:
        """The roots in force."""
        ...

    async def sign(self, request: SigningRequest) -> Signed:
        """Certify a key for an identity.

        Raises:
            TrothError: The signer refused, or can't be reached.
        """
        ...


class CertificateKeeper:
    """Runs `CertificateRotation` against a signer and the clock.

    Args:
        signer: Who signs.
        on_change: Called when there is a new certificate.
    """

    def __init__(self, signer: CertificateSource, *, on_change: Callable[[], None]) -> None:
        self._signer = signer
        self._on_change = on_change
        self._rotation = CertificateRotation()
        self._needed: frozenset[SpiffeId] = frozenset()
        self._expected: frozenset[SpiffeId] = frozenset()
        self._failures: dict[SpiffeId, str] = {}
        self._since: dict[SpiffeId, float] = {}  # when those without one were first wanted
        self._woken = asyncio.Event()
        self._answered = asyncio.Condition()
        self._requests: set[asyncio.Task[None]] = set()
        self._signing_root = ""

    @property
    def bundle(self) -> TrustBundle:
        """The roots that every certificate of the mesh must chain to."""
        return self._signer.bundle

    def current(self) -> Mapping[SpiffeId, X509Svid]:
        """The current certificates."""
        return self._rotation.current

    def follow(self, signing_root: str = "") -> None:
        """Apply a change of the signer's roots.

        Args:
            signing_root: Fingerprint of the root that new certificates chain to, if known.
                Certificates of other roots are renewed soon, as these are about to be retired.
        """
        self._signing_root = signing_root
        self._rotation.adopt(self.bundle, now=_now())
        self._hasten()

    def _hasten(self) -> None:
        if not self._signing_root:
            return
        now = _now()
        former = [
            identity
            for identity, svid in self._rotation.current.items()
            if self._signing_root not in issuers(svid, self.bundle, now)
        ]
        self._rotation.hasten(former, now=now, within=_NEW_ROOT_WITHIN)
        self._woken.set()

    def want(self, identities: Collection[SpiffeId]) -> None:
        """Want certificates of exactly ``identities``."""
        self._needed = frozenset(identities)
        self._follow_wishes()

    def expect(self, identities: AbstractSet[SpiffeId]) -> None:
        """Also request those of exactly ``identities``, which will be wanted soon."""
        if identities != self._expected:
            self._expected = frozenset(identities)
            self._follow_wishes()

    def _follow_wishes(self) -> None:
        identities = self._needed | self._expected
        self._rotation.want(identities, now=_now())
        now = asyncio.get_running_loop().time()
        self._since = {each: self._since.get(each, now) for each in self._rotation.missing}
        for gone in self._failures.keys() - identities:
            del self._failures[gone]
        self._woken.set()

    async def missing(self) -> Mapping[SpiffeId, str]:
        """Wait a moment for the certificates that are wanted.

        A slow signer doesn't delay anything else: later certificates are reported by ``on_change``.

        Returns:
            The identities without a certificate yet, each with the reason. They are retried.
        """
        patience = None
        if waited_for := self._since.keys() & self._missing():
            # Count from the oldest: a signer that is down must not delay each attempt again.
            patience = min(self._since[each] for each in waited_for) + PATIENCE_SECONDS
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(patience), self._answered:
                await self._answered.wait_for(lambda: self._missing() <= self._failures.keys())
        return {
            identity: self._failures.get(identity, "the signer has not answered yet")
            for identity in self._missing()
        }

    def _missing(self) -> frozenset[SpiffeId]:
        return self._rotation.missing & self._needed

    async def run(self) -> None:
        """Request what is due, until cancelled."""
        try:
            while True:
                step = self._rotation.step(_now())
                for request in step.requests:
                    task = asyncio.create_task(self._ask(request))
                    self._requests.add(task)
                    task.add_done_callback(self._requests.discard)
                await self._sleep_until(step.wake_at)
        finally:
            for task in self._requests:
                task.cancel()

    async def _sleep_until(self, wake_at: datetime | None) -> None:
        pause = None if wake_at is None else max(0.0, (wake_at - _now()).total_seconds())
        if await woken(self._woken, pause):
            self._woken.clear()

    async def _ask(self, request: SigningRequest) -> None:
        identity = request.spiffe_id
        try:
            async with asyncio.timeout(SIGNING_TIMEOUT_SECONDS):
                signed = await self._signer.sign(request)
            svid = self._rotation.issued(
                request, chain=signed.chain, bundle=signed.bundle, now=_now()
            )
        except (TrothError, TimeoutError) as error:
            reason = str(error) or f"no answer in {SIGNING_TIMEOUT_SECONDS} s"
            self._rotation.failed(request, now=_now())
            self._failures[identity] = reason
            _log.warning("no certificate", identity=str(identity), reason=reason)
        else:
            self._failures.pop(identity, None)
            if svid is not None:
                self._hasten()
                _log.info("certificate", identity=str(identity), until=svid.not_after.isoformat())
                self._on_change()
        self._woken.set()
        async with self._answered:
            self._answered.notify_all()


def _now() -> datetime:
    return datetime.now(UTC)
