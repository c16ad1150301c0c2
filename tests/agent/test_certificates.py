"""Certificates asked for and renewed against a signer with moods."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from troth.agent import certificates
from troth.agent.certificates import CertificateKeeper, Signed, issuers
from troth.errors import PeerError
from troth.identity.authority import CertificateAuthority
from troth.identity.profile import root_fingerprint
from troth.identity.spiffe import SpiffeId, TrustDomain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    import pytest

    from troth.identity.bundle import TrustBundle
    from troth.identity.rotation import SigningRequest

TRUST_DOMAIN = TrustDomain.parse("cluster.local")
WEB = SpiffeId.for_service_account(TRUST_DOMAIN, "shop", "web")
PAYMENTS = SpiffeId.for_service_account(TRUST_DOMAIN, "shop", "payments")


class MoodySigner:
    """An authority that answers, refuses or keeps silent, as it is told."""

    def __init__(self) -> None:
        self._authority = CertificateAuthority.self_signed(TRUST_DOMAIN, now=datetime.now(UTC))
        self._bundle = self._authority.trust_bundle
        self.lifetime = timedelta(hours=1)
        self.refuses: set[SpiffeId] = set()
        self.refused = asyncio.Event()
        self.speaks = asyncio.Event()
        self.speaks.set()
        self.asked: list[SpiffeId] = []
        self.given_up = 0

    @property
    def bundle(self) -> TrustBundle:
        return self._bundle

    def take(self, authority: CertificateAuthority) -> None:
        """Sign by another root from now on, and believe in both."""
        self._authority = authority
        self._bundle = self._bundle.merge(authority.trust_bundle)

    async def sign(self, request: SigningRequest) -> Signed:
        self.asked.append(request.spiffe_id)
        try:
            await self.speaks.wait()
        except asyncio.CancelledError:
            self.given_up += 1
            raise
        if request.spiffe_id in self.refuses:
            self.refused.set()
            raise PeerError("signer", "it is in a bad mood")
        chain = self._authority.sign(
            request.csr, now=datetime.now(UTC), lifetime=self.lifetime, expected=request.spiffe_id
        ).chain
        return Signed(chain, self.bundle)


class Told:
    """Counts calls of ``on_change``, and waits for the next one."""

    def __init__(self) -> None:
        self.times = 0
        self._again = asyncio.Event()

    def __call__(self) -> None:
        self.times += 1
        self._again.set()

    async def again(self) -> None:
        self._again.clear()
        await self._again.wait()


@contextlib.asynccontextmanager
async def running(
    signer: MoodySigner, told: Callable[[], None]
) -> AsyncIterator[CertificateKeeper]:
    keeper = CertificateKeeper(signer, on_change=told)
    task = asyncio.create_task(keeper.run())
    try:
        yield keeper
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def ensure(keeper: CertificateKeeper, identities: set[SpiffeId]) -> Mapping[SpiffeId, str]:
    keeper.want(identities)
    return await keeper.missing()


async def test_every_wanted_identity_gets_a_certificate_of_its_own() -> None:
    async with running(MoodySigner(), Told()) as keeper:
        assert await ensure(keeper, {WEB, PAYMENTS}) == {}
        assert {each: svid.spiffe_id for each, svid in keeper.current().items()} == {
            WEB: WEB,
            PAYMENTS: PAYMENTS,
        }


async def test_an_identity_that_has_a_certificate_is_not_asked_for_again() -> None:
    signer = MoodySigner()
    async with running(signer, Told()) as keeper:
        await ensure(keeper, {WEB})
        await ensure(keeper, {WEB, PAYMENTS})
        assert sorted(signer.asked, key=str) == [PAYMENTS, WEB]


async def test_an_identity_that_is_no_longer_wanted_is_let_go() -> None:
    async with running(MoodySigner(), Told()) as keeper:
        await ensure(keeper, {WEB, PAYMENTS})
        await ensure(keeper, {PAYMENTS})
        assert keeper.current().keys() == {PAYMENTS}


async def test_an_expected_identity_is_asked_for_but_not_waited_for() -> None:
    signer = MoodySigner()
    async with running(signer, Told()) as keeper:
        await ensure(keeper, {WEB})
        signer.speaks.clear()
        keeper.expect({PAYMENTS})
        while PAYMENTS not in signer.asked:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)
        assert await ensure(keeper, {WEB}) == {}


async def test_the_certificate_of_an_expected_identity_is_there_before_it_is_wanted() -> None:
    signer, told = MoodySigner(), Told()
    async with running(signer, told) as keeper:
        keeper.expect({WEB})
        await told.again()
        assert keeper.current().keys() == {WEB}
        assert await ensure(keeper, {WEB}) == {}
        assert signer.asked == [WEB]


async def test_a_refusal_is_the_reason_why_there_is_no_certificate() -> None:
    signer = MoodySigner()
    signer.refuses = {WEB}
    async with running(signer, Told()) as keeper:
        assert await ensure(keeper, {WEB}) == {WEB: "signer: it is in a bad mood"}
        assert keeper.current() == {}


async def test_after_a_refusal_it_is_asked_again_and_the_late_certificate_is_told() -> None:
    signer, told = MoodySigner(), Told()
    signer.refuses = {WEB}
    async with running(signer, told) as keeper:
        await ensure(keeper, {WEB})
        before = told.times
        signer.refuses.clear()
        await told.again()
        assert told.times > before
        assert keeper.current().keys() == {WEB}
        assert await ensure(keeper, {WEB}) == {}


async def test_a_silent_signer_holds_nothing_up_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("troth.agent.certificates.PATIENCE_SECONDS", 0.01)
    signer, told = MoodySigner(), Told()
    signer.speaks.clear()
    async with running(signer, told) as keeper:
        missing = await ensure(keeper, {WEB})
        assert missing == {WEB: "the signer has not answered yet"}
        signer.speaks.set()
        await told.again()
        assert keeper.current().keys() == {WEB}


async def test_a_silent_signer_does_not_hold_up_every_newcomer_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("troth.agent.certificates.PATIENCE_SECONDS", 0.01)
    signer = MoodySigner()
    signer.speaks.clear()
    async with running(signer, Told()) as keeper:
        await ensure(keeper, {WEB})
        keeper._since[WEB] -= 7200
        monkeypatch.setattr("troth.agent.certificates.PATIENCE_SECONDS", 3600)
        async with asyncio.timeout(30):
            assert (await ensure(keeper, {WEB, PAYMENTS})).keys() == {WEB, PAYMENTS}


async def test_a_signer_that_never_answers_is_given_up_and_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("troth.agent.certificates.SIGNING_TIMEOUT_SECONDS", 0.01)
    signer, told = MoodySigner(), Told()
    signer.speaks.clear()
    async with running(signer, told) as keeper:
        assert await ensure(keeper, {WEB}) == {WEB: "no answer in 0.01 s"}
        signer.speaks.set()
        await told.again()
        assert keeper.current().keys() == {WEB}
        assert len(signer.asked) > 1


async def test_one_identitys_trouble_is_not_anothers() -> None:
    signer = MoodySigner()
    signer.refuses = {PAYMENTS}
    async with running(signer, Told()) as keeper:
        assert (await ensure(keeper, {WEB, PAYMENTS})).keys() == {PAYMENTS}
        assert keeper.current().keys() == {WEB}


async def test_a_certificate_is_renewed_before_it_expires_and_the_change_is_told() -> None:
    signer, told = MoodySigner(), Told()
    signer.lifetime = timedelta(seconds=3)
    async with running(signer, told) as keeper:
        await ensure(keeper, {WEB})
        first = keeper.current()[WEB]
        await told.again()
        second = keeper.current()[WEB]
        assert second.not_after > first.not_after
        assert datetime.now(UTC) < first.not_after
        assert second.private_key.reveal() != first.private_key.reveal()


async def test_a_renewal_that_fails_leaves_the_certificate_in_use() -> None:
    signer, told = MoodySigner(), Told()
    signer.lifetime = timedelta(seconds=3)
    async with running(signer, told) as keeper:
        await ensure(keeper, {WEB})
        first = keeper.current()[WEB]
        signer.refuses = {WEB}
        await signer.refused.wait()
        assert keeper.current()[WEB] == first
        assert await ensure(keeper, {WEB}) == {}


async def test_when_it_is_stopped_nothing_is_left_waiting_for_the_signer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("troth.agent.certificates.PATIENCE_SECONDS", 0.01)
    signer = MoodySigner()
    signer.speaks.clear()
    async with running(signer, Told()) as keeper:
        await ensure(keeper, {WEB})
    await asyncio.sleep(0)
    assert signer.given_up == 1


async def test_certificates_of_a_former_root_are_renewed_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(certificates, "_NEW_ROOT_WITHIN", timedelta())
    signer, told = MoodySigner(), Told()
    async with running(signer, told) as keeper:
        await ensure(keeper, {WEB})
        (old,) = (root_fingerprint(each) for each in signer.bundle.certificates)
        keeper.follow(old)  # nothing new
        new = CertificateAuthority.self_signed(TRUST_DOMAIN, now=datetime.now(UTC))
        signer.take(new)
        keeper.follow(old)  # the new root is believed in, and doesn't sign yet
        await asyncio.sleep(0)
        assert signer.asked == [WEB]
        (root,) = new.trust_bundle.certificates
        keeper.follow(root_fingerprint(root))
        await told.again()
        now = datetime.now(UTC)
        assert issuers(keeper.current()[WEB], signer.bundle, now) == {root_fingerprint(root)}
        assert signer.asked == [WEB, WEB]
