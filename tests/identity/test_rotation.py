from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from troth.errors import InputError
from troth.identity.authority import CertificateAuthority
from troth.identity.rotation import CertificateRotation, SigningRequest, next_retry, renew_at
from troth.identity.spiffe import SpiffeId, TrustDomain

if TYPE_CHECKING:
    from troth.identity.svid import X509Svid

TD = TrustDomain("cluster.local")
WEB = SpiffeId.for_service_account(TD, "finance", "web")
PAYMENTS = SpiffeId.for_service_account(TD, "finance", "payments")
START = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)
SECOND = dt.timedelta(seconds=1)
HOUR = dt.timedelta(hours=1)

jitters = st.floats(0, 1, exclude_max=True)
lifetimes = st.timedeltas(dt.timedelta(minutes=2), dt.timedelta(days=3650))


class Node:
    """A rotation, the signer of its requests, and a clock that is moved by hand."""

    def __init__(self, authority: CertificateAuthority | None = None) -> None:
        self.now = START
        self.authority = authority or CertificateAuthority.self_signed(TD, START)
        self.rotation = CertificateRotation(jitter=lambda: 0.5)

    def want(self, *spiffe_ids: SpiffeId) -> None:
        self.rotation.want(spiffe_ids, now=self.now)

    def request(self) -> SigningRequest:
        (request,) = self.rotation.step(self.now).requests
        return request

    def answer(self, request: SigningRequest) -> X509Svid | None:
        issued = self.authority.sign(request.csr, now=self.now, expected=request.spiffe_id)
        return self.rotation.issued(
            request, chain=issued.chain, bundle=self.authority.trust_bundle, now=self.now
        )


@pytest.mark.parametrize(
    ("jitter", "hours"), [(0.0, 4.8), (0.5, 6.0), (0.999, 7.1976)], ids=["early", "half", "late"]
)
def test_a_renewal_is_due_around_half_of_the_lifetime(jitter: float, hours: float) -> None:
    assert renew_at(START, START + 12 * HOUR, jitter) == START + hours * HOUR


@given(lifetime=lifetimes, jitter=jitters)
def test_a_renewal_is_always_due_before_expiry(lifetime: dt.timedelta, jitter: float) -> None:
    due = renew_at(START, START + lifetime, jitter)
    assert START + 0.39 * lifetime < due < START + 0.61 * lifetime


def test_retries_grow_from_a_second_to_a_minute() -> None:
    waits = [next_retry(attempt, 0.0).total_seconds() for attempt in range(9)]
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    assert next_retry(10**9, 0.0) == 60 * SECOND


@given(attempt=st.integers(0, 1000), jitter=jitters)
def test_jitter_takes_at_most_half_of_a_retry(attempt: int, jitter: float) -> None:
    whole = next_retry(attempt, 0.0)
    assert whole / 2 <= next_retry(attempt, jitter) <= whole


@given(lifetime=lifetimes, jitter=jitters)
def test_many_attempts_fit_in_before_expiry(lifetime: dt.timedelta, jitter: float) -> None:
    expiry = START + lifetime
    now = renew_at(START, expiry, jitter)
    attempts = 0
    while now < expiry and attempts < 8:
        now += next_retry(attempts, jitter, remaining=expiry - now)
        attempts += 1
    assert attempts == 8
    assert now < expiry


@pytest.mark.parametrize("remaining", [dt.timedelta(0), -HOUR], ids=["just-now", "an-hour-ago"])
def test_an_expired_certificate_is_retried_every_second(remaining: dt.timedelta) -> None:
    assert next_retry(20, 0.0, remaining=remaining) == SECOND


def test_a_wanted_identity_is_asked_for_once() -> None:
    node = Node()
    node.want(WEB)
    assert node.request().spiffe_id == WEB
    step = node.rotation.step(node.now + HOUR)
    assert step.requests == ()
    assert step.wake_at is None
    assert node.rotation.missing == {WEB}


def test_an_issued_certificate_becomes_current_until_its_half_life() -> None:
    node = Node()
    node.want(WEB)
    svid = node.answer(node.request())
    assert node.rotation.current == {WEB: svid}
    assert node.rotation.missing == set()
    step = node.rotation.step(node.now)
    assert step.requests == ()
    assert step.wake_at == START + 6 * HOUR


def test_a_renewal_replaces_the_whole_svid_by_one_with_another_key() -> None:
    node = Node()
    node.want(WEB)
    first = node.answer(node.request())
    node.now += 6 * HOUR
    second = node.answer(node.request())
    assert first is not None
    assert second is not None
    assert node.rotation.current == {WEB: second}
    assert second.private_key.reveal() != first.private_key.reveal()
    assert second.not_after == first.not_after + 6 * HOUR


def test_a_failure_keeps_the_old_svid_and_is_retried_with_another_key() -> None:
    node = Node()
    node.want(WEB)
    svid = node.answer(node.request())
    node.now += 6 * HOUR
    request = node.request()
    node.rotation.failed(request, now=node.now)
    assert node.rotation.current == {WEB: svid}
    step = node.rotation.step(node.now)
    assert step.requests == ()
    assert step.wake_at == node.now + 0.75 * SECOND
    node.now = step.wake_at
    assert node.request().csr != request.csr


def test_failures_wait_longer_each_time_until_one_succeeds() -> None:
    node = Node()
    node.want(WEB)
    waits = []
    for _ in range(3):
        node.rotation.failed(node.request(), now=node.now)
        due = node.rotation.step(node.now).wake_at
        assert due is not None
        waits.append((due - node.now).total_seconds())
        node.now = due
    node.answer(node.request())
    node.now += 6 * HOUR
    node.rotation.failed(node.request(), now=node.now)
    assert waits == [0.75, 1.5, 3]
    assert node.rotation.step(node.now).wake_at == node.now + 0.75 * SECOND


def test_a_certificate_for_another_identity_is_refused_and_counts_as_a_failure() -> None:
    node = Node()
    node.want(WEB, PAYMENTS)
    payments, web = node.rotation.step(node.now).requests
    chain = node.authority.sign(payments.csr, now=node.now).chain
    with pytest.raises(InputError, match=r"is .*/sa/payments; be .*/sa/web"):
        node.rotation.issued(web, chain=chain, bundle=node.authority.trust_bundle, now=node.now)
    assert node.rotation.current == {}
    assert node.rotation.step(node.now).wake_at == node.now + 0.75 * SECOND


def test_a_certificate_that_the_bundle_does_not_vouch_for_is_refused() -> None:
    node = Node()
    node.want(WEB)
    request = node.request()
    impostor = CertificateAuthority.self_signed(TD, START)
    chain = impostor.sign(request.csr, now=node.now).chain
    with pytest.raises(InputError, match="does not lead to a root"):
        node.rotation.issued(request, chain=chain, bundle=node.authority.trust_bundle, now=node.now)
    assert node.rotation.current == {}


def test_an_identity_no_longer_wanted_is_forgotten_with_its_key() -> None:
    node = Node()
    node.want(WEB, PAYMENTS)
    for request in node.rotation.step(node.now).requests:
        node.answer(request)
    node.want(WEB)
    assert set(node.rotation.current) == {WEB}


def test_an_answer_that_comes_too_late_is_ignored() -> None:
    node = Node()
    node.want(WEB)
    late = node.request()
    node.want()
    assert node.answer(late) is None
    node.want(WEB)
    present = node.request()
    assert node.answer(late) is None
    node.rotation.failed(late, now=node.now)
    assert node.answer(present) is not None


def test_wanting_the_same_again_changes_nothing() -> None:
    node = Node()
    node.want(WEB)
    svid = node.answer(node.request())
    node.now += HOUR
    node.want(WEB)
    assert node.rotation.current == {WEB: svid}
    assert node.rotation.step(node.now).requests == ()


def test_a_widened_bundle_is_adopted_without_a_renewal() -> None:
    node = Node()
    node.want(WEB)
    svid = node.answer(node.request())
    assert svid is not None
    successor = CertificateAuthority.self_signed(TD, START)
    both = node.authority.trust_bundle.merge(successor.trust_bundle)
    changed = node.rotation.adopt(both, now=node.now)
    assert changed == node.rotation.current
    assert changed[WEB].bundle == both
    assert changed[WEB].chain == svid.chain
    assert node.rotation.step(node.now).requests == ()
    assert node.rotation.adopt(both, now=node.now) == {}


def test_a_bundle_without_the_old_root_makes_a_renewal_due_at_once() -> None:
    node = Node()
    node.want(WEB)
    old = node.answer(node.request())
    assert old is not None
    node.authority = CertificateAuthority.self_signed(TD, START)
    node.rotation.adopt(node.authority.trust_bundle, now=node.now)
    assert node.rotation.current[WEB].chain == old.chain
    node.answer(node.request())
    assert node.rotation.current[WEB].chain != old.chain


def test_a_bundle_of_another_trust_domain_is_not_adopted() -> None:
    node = Node()
    node.want(WEB)
    svid = node.answer(node.request())
    other = CertificateAuthority.self_signed(TrustDomain("other"), START)
    with pytest.raises(ValueError, match="a bundle of other"):
        node.rotation.adopt(other.trust_bundle, now=node.now)
    assert node.rotation.current == {WEB: svid}


def test_a_short_lived_certificate_is_not_due_at_once() -> None:
    node = Node()
    node.want(WEB)
    request = node.request()
    chain = node.authority.sign(request.csr, now=node.now, lifetime=20 * SECOND).chain
    node.rotation.issued(request, chain=chain, bundle=node.authority.trust_bundle, now=node.now)
    assert node.rotation.step(node.now).wake_at == node.now + 10 * SECOND


def test_a_hastened_renewal_comes_within_its_time_and_never_later_than_it_would_have() -> None:
    node = Node()
    node.want(WEB, PAYMENTS)
    for request in node.rotation.step(node.now).requests:
        node.answer(request)
    usual = node.rotation.step(node.now).wake_at
    node.rotation.hasten([WEB], now=node.now, within=48 * HOUR)
    assert node.rotation.step(node.now).wake_at == usual
    node.rotation.hasten([WEB], now=node.now, within=60 * SECOND)
    node.now += 30 * SECOND
    assert [request.spiffe_id for request in node.rotation.step(node.now).requests] == [WEB]


def test_hastening_makes_nobody_ask_for_what_is_not_wanted() -> None:
    node = Node()
    node.rotation.hasten([WEB], now=node.now, within=SECOND)
    node.now += SECOND
    assert node.rotation.step(node.now).requests == ()
