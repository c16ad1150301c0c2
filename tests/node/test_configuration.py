"""What Envoy is told at once, and what it is told later."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from troth.envoy import SnapshotKeeper
from troth.envoy._snapshot import LISTENER
from troth.identity import (
    CertificateAuthority,
    SpiffeId,
    TrustDomain,
    X509Svid,
    build_csr,
    new_key,
)
from troth.mesh import Pod, World
from troth.node._configuration import Configuration, ConfigurationKeeper, Credentials
from troth.policy import Mode, PeerAuthentication

TRUST_DOMAIN = TrustDomain.parse("cluster.local")
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def pod(uid: str) -> Pod:
    return Pod(
        uid=uid, namespace="shop", name=uid, addresses=(f"10.0.0.{uid}",), captured=True, ready=True
    )


class Node:
    """The keeper of a node with pod 1, and what it has made last."""

    def __init__(self) -> None:
        authority = CertificateAuthority.self_signed(TRUST_DOMAIN, NOW)
        identity = SpiffeId.for_service_account(TRUST_DOMAIN, "shop", "default")
        key = new_key()
        chain = authority.sign(build_csr(key, identity), now=NOW).chain
        svid = X509Svid.assemble(key, chain, authority.trust_bundle, now=NOW)
        self.certified = Credentials((svid,), authority.trust_bundle)
        self.uncertified = Credentials((), authority.trust_bundle)
        self._keeper = ConfigurationKeeper(SnapshotKeeper(access_log=Path("/run/log")))

    def at(
        self,
        now: float,
        *uids: str,
        mode: Mode = Mode.PERMISSIVE,
        credentials: Credentials | None = None,
    ) -> Configuration:
        """What it makes of a mesh of some pods."""
        return self._keeper.update(
            World(
                trust_domain=TRUST_DOMAIN,
                pods={uid: pod(uid) for uid in uids},
                policies=(PeerAuthentication(namespace="shop", name="default", mode=mode),),
            ),
            netns={"1": Path("/n/1")},
            lenient=(),
            service_ranges=(),
            credentials=credentials or self.certified,
            now=now,
        )


def version(of: Configuration, listener: str) -> str:
    return of.snapshot.of_type(LISTENER)[listener].version


def test_a_pod_without_a_certificate_is_left_out() -> None:
    node = Node()
    without = node.at(0, "1", credentials=node.uncertified)
    assert not without.ready
    assert set(without.view.local_pods) == {"1"}
    assert set(without.snapshot.of_type(LISTENER)) == {"outbound"}
    assert node.at(0, "1").ready == {"1"}


def test_a_first_change_of_destinations_is_told_at_once_and_the_next_after_a_pause() -> None:
    node = Node()
    first = node.at(10.0, "1", "2")
    assert first.rest_at is None
    second = node.at(10.0, "1", "2", "3")
    assert second.rest_at is not None
    assert second.rest_at > 10.0
    assert version(second, "outbound") == version(first, "outbound")
    third = node.at(second.rest_at, "1", "2", "3")
    assert third.rest_at is None
    assert version(third, "outbound") != version(first, "outbound")


def test_what_is_enforced_waits_for_no_pause() -> None:
    node = Node()
    lax = node.at(10.0, "1", "2")
    strict = node.at(10.0, "1", "2", "3", mode=Mode.STRICT)
    assert strict.rest_at is not None
    assert version(strict, "plain-in|1") != version(lax, "plain-in|1")


def test_what_is_enforced_is_told_before_destinations_that_changed_with_it() -> None:
    node = Node()
    lax = node.at(10.0, "1", "2")
    strict = node.at(20.0, "1", "2", "3", mode=Mode.STRICT)
    assert version(strict, "plain-in|1") != version(lax, "plain-in|1")
    assert version(strict, "outbound") == version(lax, "outbound")
    assert strict.rest_at == 20.0
    later = node.at(strict.rest_at, "1", "2", "3", mode=Mode.STRICT)
    assert later.rest_at is None
    assert version(later, "outbound") != version(lax, "outbound")


def test_a_pod_and_its_clients_are_told_together_how_it_is_reached() -> None:
    node = Node()
    off = node.at(10.0, "1", "2", mode=Mode.DISABLE)
    strict = node.at(20.0, "1", "2", "3", mode=Mode.STRICT)
    assert strict.rest_at is None
    for listener in ("plain-in|1", "outbound"):
        assert version(strict, listener) != version(off, listener)
